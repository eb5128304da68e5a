"""`rlkl show`: results of the experiments against references, and errors of the command."""

import csv
import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from made_runs import save_checkpoint

from rlkl.algos import make_policy_optimizer
from rlkl.algos.ppo_kl import PPOKLConfig
from rlkl.cli import main
from rlkl.cli.compose_tools import load_experiment
from rlkl.cli.schema import register_schemas
from rlkl.envs.make import EnvConfig
from rlkl.tools.experiments import (
    EXPERIMENTS,
    beta,
    clip,
    collapse,
    directions,
    estimators,
    geometry,
    starts,
)
from rlkl.tools.experiments.drawing import new_figure, save
from rlkl.tools.rows import Rows, column, distinct, select
from rlkl.training.diagnostics import compare_with_old
from rlkl.training.evaluation import evaluate
from rlkl.training.learner import Learner
from rlkl.training.trainer import TrainConfig, Trainer, train
from rlkl.utils.errors import ConfigError

TINY = TrainConfig(env=EnvConfig(num_envs=2), rollout_steps=32, total_env_steps=64)
PENDULUM = replace(TINY, env=EnvConfig("Pendulum-v1", num_envs=2), normalize_observations=True)


def silent(text: str) -> None:
    """Print nothing."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Geometry ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curves() -> Rows:
    return geometry.calculate(geometry.GeometryConfig(kl=0.05, points=24), silent)


def test_gaussian_curve_has_its_kl(curves: Rows) -> None:
    for mean, std in geometry.GAUSSIAN_CENTERS:
        row = select(curves, center=f"σ = {std:g}", curve="equal KL")[5]
        old = scipy.stats.norm(mean, std)
        new = scipy.stats.norm(float(row["x"]), float(row["y"]))
        kl, _ = scipy.integrate.quad(
            lambda x, p=old, q=new: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)),
            mean - 12 * std,
            mean + 12 * std,
        )
        assert kl == pytest.approx(0.05, rel=1e-7)


def test_softmax_curve_has_its_kl(curves: Rows) -> None:
    for probabilities in geometry.SOFTMAX_CENTERS:
        name = "p = ({:.2f}, {:.2f}, {:.2f})".format(*probabilities)
        for row in select(curves, center=name, curve="equal KL"):
            third = float(row["y"]) / (math.sqrt(3) / 2)
            second = float(row["x"]) - third / 2
            new = [1 - second - third, second, third]
            assert scipy.stats.entropy(probabilities, new) == pytest.approx(0.05, rel=1e-7)


def test_curves_close_and_circles_have_one_radius(curves: Rows) -> None:
    for name in distinct(curves, "center"):
        for curve in distinct(curves, "curve"):
            rows = select(curves, center=name, curve=curve)
            assert len(rows) == 25
            assert rows[0]["x"] == pytest.approx(rows[-1]["x"])
            assert rows[0]["y"] == pytest.approx(rows[-1]["y"])
        distances = column(select(curves, center=name, curve="equal distance"), "distance")
        assert distances == pytest.approx([math.sqrt(0.1)] * 25)


@pytest.mark.parametrize("std", [0.4, 1.0, 2.0])
def test_fisher_matrix_of_gaussian(std: float) -> None:
    center = torch.tensor([0.3, std], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64) / std**2
    torch.testing.assert_close(geometry.fisher_matrix(geometry.gaussian, center), expected)


def test_fisher_matrix_of_equal_logits() -> None:
    center = torch.zeros(2, dtype=torch.float64)
    expected = torch.eye(2, dtype=torch.float64) / 3
    torch.testing.assert_close(geometry.fisher_matrix(geometry.softmax, center), expected)


def test_curves_along_the_mean_match_closed_form(curves: Rows) -> None:
    # If only the mean moves, KL = d² / (2σ²): exactly δ at the distance √(2δ) for σ = 1.
    for std in (0.4, 1.0, 2.0):
        at = {
            curve: select(curves, center=f"σ = {std:g}", curve=curve)[0]
            for curve in distinct(curves, "curve")
        }
        assert at["equal distance"]["kl"] == pytest.approx(0.05 / std**2)
        assert at["equal KL"]["distance"] == pytest.approx(math.sqrt(0.1) * std)
        assert at["equal ½ dᵀFd"]["distance"] == pytest.approx(math.sqrt(0.1) * std)


# Directions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def descents() -> Rows:
    return directions.calculate(directions.EXPERIMENT.config(), silent)


@pytest.fixture
def fits(descents: Rows) -> Rows:
    return directions.ends(descents)


def test_forward_fit_has_moments_of_target(fits: Rows) -> None:
    forward = select(fits, direction=directions.FORWARD)
    assert len(forward) == len(directions.STARTS)
    for row in forward:
        assert row["mean"] == pytest.approx(0.0, abs=1e-6)
        assert row["std"] == pytest.approx(math.sqrt(10), abs=1e-6)
        assert row["kl"] == pytest.approx(0.462, abs=5e-4)


def test_reverse_fit_depends_on_the_start(fits: Rows) -> None:
    found = {
        (round(abs(float(row["mean"])), 2), round(float(row["std"]), 2), round(float(row["kl"]), 3))
        for row in select(fits, direction=directions.REVERSE)
    }
    assert found == {(2.98, 1.02, 0.689), (0.0, 2.74, 0.841)}
    means = column(select(fits, direction=directions.REVERSE), "mean")
    assert min(means) < -2.9
    assert max(means) > 2.9


def test_reverse_kl_has_minimum_between_peaks() -> None:
    def kl(point: torch.Tensor) -> torch.Tensor:
        return directions.kl(directions.REVERSE, point.unsqueeze(0)).squeeze()

    point = torch.tensor([0.0, math.log(2.743769)], dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(kl, point)
    curvature = torch.autograd.functional.hessian(kl, point)
    assert float(gradient.abs().max()) < 1e-5
    assert float(torch.linalg.eigvalsh(curvature).min()) > 0.01


@pytest.mark.parametrize("direction", [directions.FORWARD, directions.REVERSE])
def test_kl_of_fit_matches_quadrature(direction: str) -> None:
    def target(x: float) -> float:
        return float(np.logaddexp(*scipy.stats.norm.logpdf(x, [-3, 3]))) - math.log(2)

    def fit(x: float) -> float:
        return float(scipy.stats.norm.logpdf(x, 0.5, 2.0))

    p, q = (target, fit) if direction == directions.FORWARD else (fit, target)
    expected, _ = scipy.integrate.quad(
        lambda x: math.exp(p(x)) * (p(x) - q(x)), -18, 18, points=[-3, 3]
    )
    parameters = torch.tensor([[0.5, math.log(2.0)]], dtype=torch.float64)
    assert directions.kl(direction, parameters).item() == pytest.approx(expected, rel=1e-6)


# Estimators -------------------------------------------------------------------------------------


def test_bias_and_deviation_at_half_a_nat() -> None:
    _, _, moments = estimators.at_kl(estimators.FAMILIES["Gaussian, mean moves"], 0.5)
    bias = [mean / 0.5 - 1 for mean in moments.means]
    assert bias == pytest.approx([0, 0.25, 0], abs=1e-9)
    assert [std / 0.5 for std in moments.stds] == pytest.approx([2, 1.73, 1.70], abs=6e-3)


@pytest.mark.parametrize("family", estimators.FAMILIES)
@pytest.mark.parametrize("kl", [0.01, 0.08, 0.5])
def test_k1_and_k3_are_unbiased(family: str, kl: float) -> None:
    old, new, moments = estimators.at_kl(estimators.FAMILIES[family], kl)
    assert old.kl(new).item() == pytest.approx(kl, rel=1e-9)
    assert moments.means[0] == pytest.approx(kl, rel=1e-9)
    assert moments.means[2] == pytest.approx(kl, rel=1e-9)


@pytest.mark.parametrize(("shift", "std"), [(0.7, 1.0), (0.0, 1.2), (0.0, 0.6), (0.3, 1.1)])
def test_moments_of_gaussians_match_quadrature(shift: float, std: float) -> None:
    _, _, moments = estimators.gaussian_pair(shift, std)
    x = np.linspace(-30, 30, 20_001)
    density = scipy.stats.norm.pdf(x)
    log_ratio = scipy.stats.norm.logpdf(x, shift, std) - scipy.stats.norm.logpdf(x)
    of_sample = (-log_ratio, 0.5 * log_ratio**2, np.exp(log_ratio) - 1 - log_ratio)
    for k, mean, deviation in zip(of_sample, moments.means, moments.stds, strict=True):
        first, second = (scipy.integrate.simpson(density * k**n, x=x) for n in (1, 2))
        assert mean == pytest.approx(first, rel=1e-6)
        assert deviation == pytest.approx(math.sqrt(second - first**2), rel=1e-6)


@pytest.mark.parametrize(("std", "finite"), [(1.414, True), (1.4143, False)])
def test_variance_of_k3_is_infinite_beyond_root_two(std: float, finite: bool) -> None:
    _, _, moments = estimators.gaussian_pair(0.0, std)
    assert math.isfinite(moments.stds[2]) == finite
    assert math.isfinite(moments.stds[0])


def test_samples_agree_with_exact_moments() -> None:
    config = estimators.EstimatorsConfig(kl_min=0.01, kl_max=0.08, points=2, samples=20_000)
    rows = estimators.calculate(config, silent)
    assert len(rows) == 4 * 2 * 3
    for row in rows:
        error = float(row["standard_error"])
        # If σ grows by more than a third, the fourth moment of k3 is infinite and its standard
        # error is meaningless.
        if not (row["family"] == "Gaussian, σ grows" and row["estimator"] == "k3"):
            assert abs(float(row["sampled_bias"]) - float(row["bias"])) < 5 * error
            assert error == pytest.approx(float(row["std"]) / math.sqrt(20_000), rel=0.25)


# Starts and collapse ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner() -> Any:
    made = starts.trained(replace(TINY, rollout_steps=64, total_env_steps=256), silent)
    yield made
    made.envs.close()


def test_restored_learner_has_policy_and_statistics(tmp_path: Path) -> None:
    config = replace(PENDULUM, scale_rewards=True, run_dir=str(tmp_path / "run"), eval_episodes=1)
    trainer = Trainer(config)
    trainer.train()
    learner = trainer.learner
    restored = starts.restored(str(tmp_path / "run"))
    try:
        assert restored.config.env.id == "Pendulum-v1"
        assert torch.equal(starts.actor(restored), starts.actor(learner))
        assert restored.normalizer is not None and learner.normalizer is not None
        assert restored.normalizer.state_dict() == learner.normalizer.state_dict()
        assert restored.reward_scaler is not None and learner.reward_scaler is not None
        assert restored.reward_scaler.state_dict() == learner.reward_scaler.state_dict()
    finally:
        restored.envs.close()
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"last\.pt is not .*; \S+step_0\.pt can be read") as info:
        starts.restored(str(tmp_path / "run"))
    older = starts.restored(str(info.value).split("; ")[1].split(" ")[0])
    assert not torch.equal(starts.actor(older), starts.actor(learner))
    older.envs.close()


def test_checkpoint_of_other_networks_is_rejected(learner: Learner, tmp_path: Path) -> None:
    state = learner.state_dict()
    state["policy"] = {f"other_{name}": part for name, part in state["policy"].items()}
    save_checkpoint(tmp_path / "x.pt", state)
    with pytest.raises(ConfigError, match=r"x\.pt is not the checkpoint of a run: KeyError"):
        starts.restored(str(tmp_path / "x.pt"))


def test_collapse_optimizers_share_policy_and_batch(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, seen = starts.actor(learner).clone(), []

    def watched(learner: Learner, batch: Any, *rest: Any) -> None:
        seen.append((starts.actor(learner).clone(), batch))
        step(learner, batch, *rest)

    step = collapse.step
    monkeypatch.setattr(collapse, "step", watched)
    monkeypatch.setattr(collapse, "sampled_return", lambda *_: 0.0)
    sweeps = {name: sweep._replace(least=sweep.default) for name, sweep in collapse.SWEEPS.items()}
    monkeypatch.setattr(collapse, "SWEEPS", sweeps)
    config = collapse.CollapseConfig(batches=2, episodes=1, sizes_per_decade=1)
    rows = list(collapse.updates(learner, config, silent))
    assert len(rows) == len(seen) == 2 * sum(len(sweep.sizes(1)) for sweep in sweeps.values())
    assert all(torch.equal(actor, start) for actor, _ in seen)
    assert torch.equal(starts.actor(learner), start)
    assert len({id(batch) for _, batch in seen}) == 2
    # Every step changes the policy, and the longest of an optimizer more than the shortest.
    for name in sweeps:
        kl = column(select(rows, optimizer=name, batch=0), "kl_mean")
        assert 0 < kl[0] < kl[-1]


@pytest.mark.parametrize("name", collapse.SWEEPS)
def test_step_of_size_zero_changes_nothing(name: str, learner: Learner) -> None:
    start = starts.actor(learner).clone()
    (batch,) = starts.batches(learner, 1)
    before = starts.sampled_return(learner, 3)
    # Too small to change float32 parameters.
    collapse.step(learner, batch, collapse.SWEEPS[name], 1e-40, 0)
    metrics, _ = compare_with_old(learner.engine, batch, (0.8, 1.2))
    after = starts.sampled_return(learner, 3)
    starts.actor(learner).copy_(start)
    assert metrics["kl/old_new"] == metrics["kl/max"] == 0.0
    assert after == before


def test_return_is_of_sampled_actions(learner: Learner) -> None:
    env = replace(learner.config.env, num_envs=5)
    seeds = learner.streams.integers("evaluation", 5)
    greedy = evaluate(learner.engine, env, 5, seeds).mean_return
    assert starts.sampled_return(learner, 5) != greedy
    generator = learner.streams.torch("evaluation actions")
    sampled = evaluate(learner.engine, env, 5, seeds, generator).mean_return
    assert starts.sampled_return(learner, 5) == sampled


def test_plain_gradient_matches_finite_differences(learner: Learner) -> None:
    start = starts.actor(learner).clone()
    (batch,) = starts.batches(learner, 1)
    collapse.step(learner, batch, collapse.SWEEPS["plain gradient"], 1.0, 0)
    gradient = (starts.actor(learner) - start).double()
    direction = gradient / gradient.norm()
    advantages = (batch.advantages - batch.advantages.mean()) / batch.advantages.std(correction=0)

    @torch.no_grad()
    def objective(distance: float) -> float:
        starts.actor(learner).copy_(start + distance * direction)
        log_prob = learner.policy.distribution(batch.inputs).log_prob(batch.actions)
        return float((log_prob.double() * advantages.double()).mean())

    derivative = (objective(1e-2) - objective(-1e-2)) / 2e-2
    starts.actor(learner).copy_(start)
    assert derivative == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_collapse_table_has_largest_harmless_step() -> None:
    def row(size: float, batch: int, kl: float, value: float) -> dict[str, Any]:
        known = {"optimizer": "trpo", "knob": "max_kl", "start": 100.0, "batch": batch}
        return known | {"size": size, "kl_mean": kl, "return": value}

    rows = [
        *(row(0.01, batch, 0.01, 100.0) for batch in (0, 1)),
        *(row(0.1, batch, 0.1, 96.0) for batch in (0, 1)),
        row(1.0, 0, 1.0, 99.0),
        row(1.0, 1, 3.0, 94.0),
        *(row(10.0, batch, 9.0, 100.0) for batch in (0, 1)),
    ]
    (found,) = collapse.tabulate(rows)
    assert found["default: KL"] == pytest.approx(0.01)
    assert (found["harmless to"], found["at KL"]) == (0.1, pytest.approx(0.1))
    assert (found["harm at"], found["of KL"], found["return"]) == (1.0, 2.0, 96.5)


# Clip -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", clip.OPTIMIZERS)
def test_single_epochs_are_identical_to_one_update(name: str, learner: Learner) -> None:
    start = starts.actor(learner).clone()
    (batch,) = starts.batches(learner, 1)
    config = clip.OPTIMIZERS[name]
    found = list(clip.epochs(learner, batch, config, 3, 7))
    single_epochs = starts.actor(learner).clone()
    starts.actor(learner).copy_(start)
    generator = learner.streams.torch("minibatches 7")
    whole = make_policy_optimizer(replace(config, num_epochs=3), learner.engine, generator)
    whole.update(batch, 0.0)
    one_update = starts.actor(learner).clone()
    starts.actor(learner).copy_(start)
    assert torch.equal(single_epochs, one_update)
    assert not torch.equal(single_epochs, start)
    assert [row["epoch"] for row in found] == [0, 1, 2, 3]
    assert found[0]["kl_mean"] == found[0]["kl_max"] == 0.0
    assert found[0]["ratio_max"] == found[0]["ratio_min"] == 1.0


def test_clip_optimizers_start_alike_and_trpo_is_bounded() -> None:
    config = clip.ClipConfig(
        train=PENDULUM, seeds=1, batches=2, epochs=2, learning_rates=[1e-3, 1e-2]
    )
    rows = clip.calculate(config, silent)
    assert len(rows) == 2 * (2 * 3 * 3 + 1)
    assert {row["kl_mean"] for row in select(rows, epoch=0)} == {0.0}
    steps = select(rows, optimizer="trpo")
    assert len(steps) == 2
    assert all(0 < float(row["kl_mean"]) <= 0.01 for row in steps)
    far = select(rows, optimizer="ppo_clip", learning_rate=1e-2, epoch=2)
    near = select(rows, optimizer="ppo_clip", learning_rate=1e-3, epoch=2)
    assert sum(column(far, "kl_mean")) > 2 * sum(column(near, "kl_mean"))


def test_clip_table_has_range_over_policies() -> None:
    def row(seed: int, batch: int, kl: float) -> dict[str, Any]:
        known = {"seed": seed, "batch": batch, "optimizer": "ppo_clip", "learning_rate": 0.1}
        rest = dict.fromkeys(("kl_max", "ratio_max", "ratio_min", "clip_fraction"), 1.0)
        return known | {"epoch": 1, "kl_mean": kl} | rest

    (found,) = clip.tabulate([row(0, 0, 0.1), row(0, 1, 0.3), row(1, 0, 5.0), row(1, 1, 7.0)])
    assert (found["kl_mean"], found["kl_least"], found["kl_most"]) == (2.65, 0.2, 6.0)
    made = list(starts.starting_policies(clip.ClipConfig(train=TINY, seeds=2), silent))
    assert [learner.config.seed for learner in made] == [TINY.seed, TINY.seed + 1]
    assert not torch.equal(*map(starts.actor, made))


# Beta -------------------------------------------------------------------------------------------


def test_adaptive_beta_moves_and_fixed_beta_does_not() -> None:
    train = replace(TINY, algo=PPOKLConfig(learning_rate=5e-3), total_env_steps=320)
    config = beta.BetaConfig(train=train, targets=[1e-4, 50.0], kl_coefficients=[3.0], seeds=2)
    rows = beta.calculate(config, silent)
    assert distinct(rows, "variant") == ["target 0.0001", "target 50", "fixed β = 3"]
    assert distinct(rows, "seed") == [0, 1]
    for name, factor in (("target 0.0001", 2.0), ("target 50", 0.5)):
        used = column(select(rows, variant=name, seed=1), "kl_coefficient")
        assert used == [factor**n for n in range(len(used))]
        assert len(used) >= 5
    assert set(column(select(rows, variant="fixed β = 3"), "kl_coefficient")) == {3.0}
    # With one seed all variants start with the same rollout; equal β gives equal updates.
    first = [select(rows, variant=name, seed=0)[0]["kl_mean"] for name in distinct(rows, "variant")]
    assert first[0] == first[1] != first[2]
    assert select(rows, variant="target 50", seed=1)[0]["kl_mean"] != first[1]


def test_beta_table_counts_updates_within_band() -> None:
    kls = [0.01, 0.012, 0.0149, 0.0151, 0.0067, 0.0066, 0.5, 0.001]
    rows: Rows = [
        {"variant": "target 0.01", "seed": 0, "env_steps": 100 * (i + 1), "kl_mean": kl,
         "target": 0.01, "kl_coefficient": 1.0, "return": float(i)}
        for i, kl in enumerate(kls)
    ]  # fmt: skip
    early, late = beta.tabulate(rows)
    assert (early["in band"], late["in band"]) == (0.75, 0.25)
    assert (early["largest KL"], late["largest KL"]) == (0.0151, 0.5)
    assert (early["returns"], late["returns"]) == ("3", "7")


# Drawing ----------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "collapse": collapse.CollapseConfig(
        train=TINY, seeds=1, batches=1, episodes=2, sizes_per_decade=1
    ),
    "geometry": geometry.GeometryConfig(points=12),
    "clip": clip.ClipConfig(train=TINY, seeds=2, batches=1, epochs=2),
    "estimators": estimators.EstimatorsConfig(points=3, samples=100),
    "beta": beta.BetaConfig(
        train=replace(TINY, algo=PPOKLConfig(), total_env_steps=128), seeds=2, targets=[0.01]
    ),
}


@pytest.fixture
def short_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce collapse to one decade of step sizes for each optimizer."""
    sweeps = {name: x._replace(most=10 * x.least) for name, x in collapse.SWEEPS.items()}
    monkeypatch.setattr(collapse, "SWEEPS", sweeps)


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("short_sweeps")
def test_every_experiment_has_table_and_figure(name: str, descents: Rows) -> None:
    experiment = EXPERIMENTS[name]
    rows = descents if name == "directions" else experiment.calculate(SMALL[name], silent)
    assert len({tuple(row) for row in rows}) == 1
    table = experiment.tabulate(rows)
    assert table
    assert len({tuple(row) for row in table}) == 1
    figure = new_figure(experiment.inches)
    experiment.draw(figure, rows)
    assert figure.axes
    assert all(axes.has_data() for axes in figure.axes)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_saved_figures_are_reproducible(suffix: str, curves: Rows, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        figure = new_figure((4, 2))
        geometry.draw(figure, curves)
        path = tmp_path / f"geometry.{suffix}"
        save(figure, path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


# The command ------------------------------------------------------------------------------------


def show(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["show", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


BAD = {
    "colapse": "did you mean collapse",
    "geometry klx=1": "there is no key 'klx'",
    "geometry pointts=9": "did you mean points",
    "geometry env=cartpole": "expected one of output, kl, points",
    "geometry kl=2": "at most 1",
    "geometry kl=much": "expected a number",
    "geometry points=10,20": "write several values as [a,b]",
    "geometry --fast": "there is no such flag",
    "directions steps=3": "expected one of output",
    "estimators kl_min=1 kl_max=0.5": "above 1",
    "collapse batchs=3": "did you mean batches",
    "collapse batches=0": "at least 1",
    "collapse env=cartpol": "did you mean cartpole",
    "collapse env.id=CartPol-v1": "did you mean CartPole-v1",
    "collapse run_dir=x": "output=DIR",
    "collapse logger.progress=none": "output=DIR",
    "collapse checkpoint=x seed=1": "seed=1: the run in checkpoint=x has its own settings",
    "collapse checkpoint=nowhere": "there is no such folder",
    "clip learning_rates=[]": "at least one number",
    "clip learning_rates=[-1]": "above 0",
    "clip epochs=many": "expected a whole number",
    "beta algo=trpo": "algo=ppo_kl",
    "beta targets=[0]": "above 0",
    "beta targets=0.01": "expected a list",
    "beta algo.target_kl=0.1": "targets=[0.1]",
    "geometry output=taken": "taken is a file",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_command_line_prints_one_line(
    arguments: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    assert show(*arguments.split()) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rlkl: ")
    assert printed.err.count("\n") == 1
    assert BAD[arguments] in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_missing_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert show("geometry") == 2
    assert "pip install 'rlkl[plots]'" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_writes_files_and_overwrites_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert show("geometry", "points=8", "output=out") == 0
    printed = capfd.readouterr().out
    assert "σ = 0.4" in printed
    assert " to 9.34" in printed
    names = ["geometry.csv", "geometry.png", "geometry.svg"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == names
    with (tmp_path / "out" / "geometry.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["panel", "center", "curve", "x", "y", "kl", "distance"]
    assert len(rows) == 6 * 3 * 9
    assert {round(float(row["kl"]), 9) for row in rows if row["curve"] == "equal KL"} == {0.05}

    (tmp_path / "out" / "geometry.csv").unlink()
    assert show("geometry", "output=out") == 2
    assert "geometry.png exists already" in capfd.readouterr().err
    assert not (tmp_path / "out" / "geometry.csv").exists()
    assert (tmp_path / "out" / "geometry.png").read_bytes() == files["geometry.png"]


def test_default_output_is_a_new_folder(tmp_path: Path) -> None:
    assert show("geometry", "points=8") == 0
    (folder,) = (tmp_path / "runs" / "show").iterdir()
    assert folder.name.startswith("geometry-")
    assert len(list(folder.iterdir())) == 3


def test_training_keys_reach_the_experiment() -> None:
    register_schemas()
    found = load_experiment("clip", ["env=cartpole", "env.kwargs.render_mode=null", "epochs=3"])
    assert isinstance(found, clip.ClipConfig)
    assert (found.train.env.id, found.train.total_env_steps) == ("CartPole-v1", 50_000)
    assert found.train.env.kwargs == {"render_mode": None}
    assert (found.epochs, found.seeds, found.batches) == (3, 5, 2)
    steady = load_experiment("beta", ["algo.learning_rate_schedule=constant", "seed=4"])
    assert isinstance(steady, beta.BetaConfig)
    for _, config in beta.variants(steady):
        assert config.seed == 4
        assert getattr(config.algo, "learning_rate_schedule", None) == "constant"


@pytest.mark.usefixtures("short_sweeps")
def test_collapse_starts_from_a_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(replace(TINY, run_dir=str(tmp_path / "run"), eval_episodes=1))
    capfd.readouterr()
    keys = ["checkpoint=run", "batches=1", "episodes=2", "sizes_per_decade=1", "output=out"]
    assert show("collapse", *keys) == 0
    assert capfd.readouterr().err == "batch 1 of 1\n"
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_help_lists_experiments_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("--help") == 0
    printed = capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        assert f"  {name} " in printed
        assert experiment.purpose in " ".join(printed.split())
    assert "targets=[0.003,0.01,0.03]" in printed
    assert "checkpoint=null" in printed

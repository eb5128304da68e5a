"""A bad update leaves every bit as it was, a file that shows why, and a line that says so."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines_available import ENGINES

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.algos.critic import CriticConfig
from rlkl.training import learner
from rlkl.training import nonfinite_guard as safeguard
from rlkl.training.diagnostics import compare_with_old
from rlkl.training.nonfinite_guard import BadUpdatesError

NAN, INF = math.nan, math.inf


def make(algo: str = "ppo_clip", env: str = "Pendulum-v1", **changes: Any) -> rlkl.Trainer:
    settings: dict[str, Any] = {
        "algo": ALGORITHMS[algo].config(),
        "env": rlkl.EnvConfig(env, 4),
        "critic": CriticConfig(worker="never"),  # what is patched here is not in a fork
        "total_env_steps": 640,
        "rollout_steps": 16,
        "eval_episodes": 0,
        "scale_rewards": True,
        "normalize_observations": True,
        "logger": rlkl.LoggerConfig(tensorboard=False, progress="none"),
    }
    return rlkl.Trainer(rlkl.TrainConfig(**settings | changes))


def bits(state: Any) -> Any:
    """A state whose equality is that of every bit."""
    if isinstance(state, torch.Tensor):
        return state.shape, state.numpy().tobytes()
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    return state


def learned(run: rlkl.Trainer) -> Any:
    parts = ("policy", "policy_optimizer", "critic_fit", "normalizer", "reward_scaler")
    return bits({part: run.learner.state_dict()[part] for part in parts})


Spoil = Callable[[rlkl.Trainer, pytest.MonkeyPatch], None]


def in_rollout(change: Callable[[Any], None]) -> Spoil:
    def spoil(run: rlkl.Trainer, patch: pytest.MonkeyPatch) -> None:
        collect = run.learner.collector.collect

        def spoiled() -> Any:
            rollout = collect()
            change(rollout)
            return rollout

        patch.setattr(run.learner.collector, "collect", spoiled)

    return spoil


def in_batch(name: str, value: float) -> Spoil:
    def spoil(run: rlkl.Trainer, patch: pytest.MonkeyPatch) -> None:
        def spoiled(maker: learner.BatchMaker) -> Any:
            batch = make(maker)
            tensor = getattr(batch, name).clone()
            tensor[5] = value
            return replace(batch, **{name: tensor})

        make = learner.BatchMaker.make
        patch.setattr(learner.BatchMaker, "make", spoiled)

    return spoil


def in_step(actor: bool, *, gradient: bool, value: float) -> Spoil:
    """The loss or the gradient of the third step alone."""

    def spoil(run: rlkl.Trainer, patch: pytest.MonkeyPatch) -> None:
        method = "policy_gradient" if actor else "value_gradient"
        write, steps = getattr(run.learner.engine, method), []
        parameters = run.policy.actor_parameters if actor else run.policy.critic_parameters

        def spoiled(*arguments: Any) -> Any:
            loss = write(*arguments)
            steps.append(loss)
            if len(steps) != 3:
                return loss
            if gradient:
                parameters.gradient[7] = value
                return loss
            return loss * 0 + value  # of the engine's own kind

        patch.setattr(run.learner.engine, method, spoiled)

    return spoil


def in_report(tag: str, value: float) -> Spoil:
    def spoil(run: rlkl.Trainer, patch: pytest.MonkeyPatch) -> None:
        def spoiled(*arguments: Any) -> Any:
            compared, histograms = compare_with_old(*arguments)
            patch.setattr(safeguard, "compare_with_old", compare_with_old)
            return compared | {tag: value}, histograms

        patch.setattr(safeguard, "compare_with_old", spoiled)

    return spoil


def in_parameters(of: str, value: float) -> Spoil:
    def spoil(run: rlkl.Trainer, patch: pytest.MonkeyPatch) -> None:
        update = run.learner.critic_fit.update

        def spoiled(*arguments: Any) -> Any:
            metrics = update(*arguments)
            getattr(run.policy, f"{of}_parameters").vector.data[11] = value
            return metrics

        patch.setattr(run.learner.critic_fit, "update", spoiled)

    return spoil


def put(name: str, value: float) -> Callable[[Any], None]:
    def change(rollout: Any) -> None:
        array = rollout.rewards if name == "rewards" else rollout.observations["vector"]
        array[3, 1] = value

    return change


SPOILS: dict[str, tuple[str, Spoil]] = {
    "NaN observation": ("observation", in_rollout(put("observations", NAN))),
    "infinite observation": ("observation", in_rollout(put("observations", INF))),
    "NaN reward": ("reward", in_rollout(put("rewards", NAN))),
    "infinite reward": ("reward", in_rollout(put("rewards", -INF))),
    "NaN advantage": ("advantage", in_batch("advantages", NAN)),
    "infinite advantage": ("advantage", in_batch("advantages", INF)),
    "NaN return": ("return", in_batch("returns", NAN)),
    "NaN loss": ("policy loss", in_step(actor=True, gradient=False, value=NAN)),
    "infinite loss": ("policy loss", in_step(actor=True, gradient=False, value=INF)),
    "NaN gradient": ("policy gradient", in_step(actor=True, gradient=True, value=NAN)),
    "infinite gradient": ("policy gradient", in_step(actor=True, gradient=True, value=-INF)),
    "NaN value loss": ("value loss", in_step(actor=False, gradient=False, value=NAN)),
    "NaN value gradient": (
        "value gradient",
        in_step(actor=False, gradient=True, value=NAN),
    ),
    "NaN ratio": ("ratio", in_report("ratio/mean", NAN)),
    "infinite ratio": ("ratio", in_report("ratio/max", INF)),
    "NaN KL": ("KL", in_report("kl/old_new", NAN)),
    "NaN reverse KL": ("KL", in_report("kl/new_old", NAN)),
    "NaN actor": ("parameters of the actor", in_parameters("actor", NAN)),
    "infinite critic": ("parameters of the critic", in_parameters("critic", INF)),
}


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
@pytest.mark.parametrize("name", SPOILS)
def test_bad_update_is_reverted_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    culprit, spoil = SPOILS[name]
    run = make()
    run.learner.iterate()  # so that Adam has moments
    before, weights = learned(run), run.policy.actor_parameters.vector.detach().clone()
    with monkeypatch.context() as patch:
        spoil(run, patch)
        report = run.learner.iterate()
    assert learned(run) == before

    bad, metrics = report.bad_update, report.scalars
    assert bad is not None
    assert (bad.iteration, bad.culprit, bad.in_a_row) == (2, culprit, 1)
    kept = torch.load(io.BytesIO(bad.as_bytes()), weights_only=True)
    assert kept["culprit"] == culprit
    assert torch.equal(kept["before"]["actor"], weights)
    assert kept["batch"]["observations"]["vector"].shape == (64, 3)
    assert kept["batch"]["advantages"].shape == (64,)
    assert kept["rewards"].shape == (16, 4)
    if "observation" not in name:  # what is reported is the policy that acts next
        assert (metrics["kl/old_new"], metrics["kl/max"], metrics["ratio/max"]) == (0, 0, 1)

    run.learner.iterate()
    assert run.learner.guard.in_a_row == 0
    assert learned(run) != before


def test_infinite_kl_alone_is_no_bad_update(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(env="CartPole-v1")
    before = learned(run)
    in_report("kl/old_new", INF)(run, monkeypatch)
    report = run.learner.iterate()
    assert report.scalars["kl/old_new"] == INF
    assert report.bad_update is None
    assert learned(run) != before


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_nan_advantages_move_no_algorithm(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(algo, env="CartPole-v1", normalize_observations=False)
    before = learned(run)
    in_batch("advantages", NAN)(run, monkeypatch)
    bad = run.learner.iterate().bad_update
    assert learned(run) == before
    assert bad is not None
    assert bad.culprit == "advantage"


def test_torch_engine_is_guarded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(policy=rlkl.PolicyConfig(engine="torch"))
    before = learned(run)
    in_step(actor=True, gradient=True, value=NAN)(run, monkeypatch)
    bad = run.learner.iterate().bad_update
    assert learned(run) == before
    assert bad is not None
    assert bad.culprit == "policy gradient"


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_guard_changes_no_bit_of_a_healthy_run(algo: str) -> None:
    class Nothing:
        in_a_row = 0

        def __init__(self, run: rlkl.Trainer) -> None:
            self.run = run

        def remember(self) -> None:
            pass

        def check(self, rollout: Any, batch: Any, outcomes: Any, iteration: int) -> Any:
            learner = self.run.learner
            bounds = learner.config.algo.ratio_bounds
            return *compare_with_old(learner.engine, batch, bounds), None

    guarded, free = make(algo), make(algo)
    free.learner.guard = Nothing(free)  # type: ignore[assignment]
    for _ in range(3):
        guarded.learner.iterate()
        free.learner.iterate()
    assert learned(guarded) == learned(free)


def test_too_many_bad_updates_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make(max_bad_updates=2, run_dir=str(tmp_path / "run"))
    before = learned(run)
    in_batch("returns", INF)(run, monkeypatch)
    with pytest.raises(BadUpdatesError) as error:
        run.train()
    assert str(error.value) == (
        "2 updates in a row were not finite, the last one because of its return; all were reverted "
        "(max_bad_updates=N allows more)"
    )
    folder = tmp_path / "run" / "bad_updates"
    assert capfd.readouterr().err.splitlines() == [
        f"rlkl: iteration {number}: update reverted (not finite: return); "
        f"see {folder / f'iteration_{number}.pt'}"
        for number in (1, 2)
    ]
    files = sorted(path.name for path in (tmp_path / "run" / "bad_updates").iterdir())
    assert files == ["iteration_1.pt", "iteration_2.pt"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"] == f"BadUpdatesError: {error.value}"
    assert learned(run) == before
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert bits(saved["policy"]) == before["policy"]


def test_good_update_resets_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(max_bad_updates=2)
    for _ in range(3):
        with monkeypatch.context() as patch:
            in_parameters("actor", NAN)(run, patch)
            run.learner.iterate()
        assert run.learner.guard.in_a_row == 1
        run.learner.iterate()


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
@pytest.mark.parametrize("algo", ["ppo_clip", "ppo_kl", "vanilla_pg"])
@pytest.mark.parametrize("learning_rate", [1e3, 1e20, 1e300])
def test_huge_steps_keep_std_within_its_bounds(algo: str, learning_rate: float) -> None:
    config = ALGORITHMS[algo].config(learning_rate=learning_rate)
    run = rlkl.Trainer(replace(make(algo).learner.config, algo=config, max_bad_updates=100))
    for _ in range(4):
        metrics = run.learner.iterate().scalars
        assert math.exp(-20) <= metrics["policy/std"] <= math.exp(2) * (1 + 1e-6)
    assert run.policy.actor_parameters.vector.isfinite().all()
    assert run.policy.critic_parameters.vector.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("standardization", ["batch", "minibatch", "none"])
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_minibatch_of_one_sample_makes_no_nan(
    engine: str, standardization: str, rows: int
) -> None:
    changed = replace(
        make().learner.config,
        algo=rlkl.PPOClipConfig(
            num_minibatches=rows, num_epochs=2, advantage_standardization=standardization
        ),
        critic=rlkl.CriticConfig(num_minibatches=rows),
        env=rlkl.EnvConfig("Pendulum-v1", 1),
        rollout_steps=rows,
        policy=rlkl.PolicyConfig(engine=engine),
    )
    run = rlkl.Trainer(changed)
    for _ in range(3):
        report = run.learner.iterate()
        assert report.bad_update is None
    metrics = report.scalars
    for tag in ("policy/loss", "value/loss", "optim/grad_norm", "kl/old_new", "ratio/mean"):
        assert math.isfinite(metrics[tag]), tag

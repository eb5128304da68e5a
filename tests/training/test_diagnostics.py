"""The report of an update: against what torch and quadrature say of the policies on the disk."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learning_loop import as_inputs, iterate
from made_runs import save_checkpoint
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.algos.base import Metrics
from rlkl.engines.make import make_engine
from rlkl.numerics.divergence_formulas import jensen_shannon_estimate
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.make import make_batch
from rlkl.training.diagnostics import compare_with_old

ENVS = ["CartPole-v1", "Pendulum-v1"]


def trainer_for(algo: str, env_id: str) -> rlkl.Trainer:
    return rlkl.Trainer(
        rlkl.TrainConfig(
            algo=ALGORITHMS[algo].config(),
            env=rlkl.EnvConfig(env_id, 4),
            rollout_steps=64,
            total_env_steps=1024,
            normalize_observations=True,
            logger=rlkl.LoggerConfig(tensorboard=False, progress="none"),
        )
    )


def distributions(run_dir: Path, states: Tensor) -> torch.distributions.Distribution:
    """Return what the policy of a checkpoint says, as torch's own distributions in float64."""
    with torch.no_grad():
        parameters = rlkl.load_policy(run_dir).policy.actor(as_inputs(states)).double()
    if parameters.shape[1] == 2 and states.shape[1] == 4:
        return torch.distributions.Categorical(logits=parameters)
    mean, log_std = parameters.chunk(2, -1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_reported_kl_is_between_two_checkpoints(algo: str, env_id: str, tmp_path: Path) -> None:
    trainer = trainer_for(algo, env_id)
    trainer.learner.iterate()
    folders = [tmp_path / "before", tmp_path / "after"]
    save_checkpoint(folders[0] / "checkpoints" / "last.pt", trainer.learner.state_dict())
    rollout, report = iterate(trainer.learner)
    metrics, histograms = report.scalars, report.histograms
    save_checkpoint(folders[1] / "checkpoints" / "last.pt", trainer.learner.state_dict())

    vectors = torch.from_numpy(rollout.observations["vector"][:-1]).flatten(0, 1)
    old, new = (distributions(folder, vectors) for folder in folders)
    forward = torch.distributions.kl_divergence(old, new)
    reverse = torch.distributions.kl_divergence(new, old)
    assert forward.mean() > 1e-5
    for tag, expected in {
        "kl/old_new": forward.mean(),
        "kl/max": forward.max(),
        "kl/new_old": reverse.mean(),
        "kl/new_old_max": reverse.max(),
    }.items():
        assert metrics[tag] == pytest.approx(float(expected), rel=1e-4), tag
    torch.testing.assert_close(histograms["kl/histogram"], forward, rtol=1e-3, atol=1e-9)

    actions = torch.from_numpy(rollout.actions).flatten(0, 1)
    ratio = (new.log_prob(actions) - old.log_prob(actions)).exp()
    assert metrics["ratio/mean"] == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert metrics["ratio/max"] == pytest.approx(float(ratio.max()), rel=1e-5)
    assert metrics["policy/entropy"] == pytest.approx(float(new.entropy().mean()), rel=1e-5)


def collected(env_id: str) -> tuple[rlkl.Trainer, Batch]:
    trainer = trainer_for("ppo_clip", env_id)
    rollout = trainer.learner.collector.collect()
    return trainer, make_batch(rollout, make_engine(trainer.policy), 0.99, 0.95)


def reported(trainer: rlkl.Trainer, batch: Batch) -> Metrics:
    return compare_with_old(make_engine(trainer.policy), batch, (0.8, 1.2))[0]


def test_effective_sample_size_is_kishs_share() -> None:
    trainer, batch = collected("CartPole-v1")
    with torch.no_grad():  # probabilities of 0.5 become 0.9 and 0.1, so the mean ratio is not 1
        trainer.policy.actor.head[-1].weight.zero_()
        trainer.policy.actor.head[-1].bias.copy_(torch.tensor([math.log(9), 0.0]))
    first, second = ((batch.actions == action).nonzero()[:, 0] for action in (0, 1))
    chosen = torch.cat((first[:3], second[:1]))
    few = replace(batch.take(chosen), old_parameters=torch.zeros(4, 2))
    found = reported(trainer, few)
    # Ratios 1.8, 1.8, 1.8 and 0.2: their mean is 1.4, that of their squares 2.44.
    assert found["ratio/mean"] == pytest.approx(1.4, rel=1e-6)
    assert found["ratio/effective_sample_size"] == pytest.approx(1.96 / 2.44, rel=1e-6)


def test_squashed_entropy_is_of_what_the_environment_gets() -> None:
    config = rlkl.TrainConfig(
        env=rlkl.EnvConfig("Pendulum-v1", 2),  # actions within ±2
        policy=rlkl.PolicyConfig(box_distribution="tanh_gaussian"),
        rollout_steps=8,
        total_env_steps=16,
    )
    trainer = rlkl.Trainer(config)
    trainer.policy.actor_parameters.vector.data.zero_()  # u is N(0, 1) in every state
    batch = make_batch(trainer.learner.collector.collect(), make_engine(trainer.policy), 0.99, 0.95)
    trainer.close()

    def surprise(a: float) -> float:
        density = norm.pdf(math.atanh(a / 2)) / (2 * (1 - (a / 2) ** 2))
        return float(-density * math.log(density))

    expected = quad(surprise, -2 + 1e-9, 2 - 1e-9, limit=200)[0]
    assert reported(trainer, batch)["policy/entropy_estimate"] == pytest.approx(expected, abs=1e-3)


def test_js_is_exact_only_for_one_categorical() -> None:
    for env_id, exact in zip(ENVS, (True, False), strict=True):
        trainer, batch = collected(env_id)
        trainer.learner.policy_optimizer.update(batch, 0.0)
        metrics = reported(trainer, batch)
        assert ("kl/js" in metrics) == exact
        assert ("kl/js_estimate" in metrics) == (not exact)
        # Near equality both are a quarter of the KL.
        found = metrics["kl/js" if exact else "kl/js_estimate"]
        assert found == pytest.approx(metrics["kl/old_new"] / 4, rel=0.3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (-1.0, 0.5), (2.0, 1.5)])
def test_js_estimate_has_the_mean_of_quadrature(mean: float, std: float) -> None:
    old, new = norm(0, 1), norm(mean, std)

    def js(x: float) -> float:
        p, q = old.pdf(x), new.pdf(x)
        middle = (p + q) / 2
        return float(0.5 * (p * math.log(p / middle) + q * math.log(q / middle)))

    def estimate(x: float) -> float:
        log_ratio = torch.tensor([new.logpdf(x) - old.logpdf(x)], dtype=torch.float64)
        return float(old.pdf(x) * jensen_shannon_estimate(log_ratio))

    # Beyond lies less than 1e-9 of either.
    expected, found = (quad(f, -6, 11, limit=200)[0] for f in (js, estimate))
    assert found == pytest.approx(expected, abs=1e-7)
    assert (expected < 1e-9) == (mean == 0)


def test_js_estimate_is_finite_and_never_negative() -> None:
    sizes = torch.logspace(-16, 2.8, 500, dtype=torch.float64)
    for log_ratio in (sizes, -sizes, sizes.float(), -sizes.float()):
        found = jensen_shannon_estimate(log_ratio)
        assert (found >= 0).all()
        # f(r) ≈ (log r)² / 8 near 1, without cancellation.
        near = (log_ratio.abs() > 1e-6) & (log_ratio.abs() < 1e-3)
        if log_ratio.dtype == torch.float64:
            expected = log_ratio[near].square() / 8
            torch.testing.assert_close(found[near], expected, rtol=1e-3, atol=0)
    lost = jensen_shannon_estimate(torch.tensor([-math.inf, 0.0, math.nan]))
    assert lost[:2].tolist() == pytest.approx([0.5 * math.log(2), 0.0])
    assert lost[2].isnan()

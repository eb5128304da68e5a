"""PPO-clip: its early stop by the KL and by the ratio, and its dual clip."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_checks import (
    BOTH_ENGINES,
    coin,
    in_torch,
    optimizer_of,
    step_gradients,
    true_kl,
)
from made_batches import batch_for, policy_of

from rlkl.algos.base import Metrics
from rlkl.algos.ppo_clip import ClippedSurrogate, PPOClipConfig
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical


def ppo_clip_steps(**settings: Any) -> tuple[int, Metrics, float]:
    """Return the number of steps of an update, its metrics, and its KL."""
    policy = policy_of("gaussian")
    batch = batch_for(policy, "gaussian")
    optimizer = optimizer_of("ppo_clip", policy, learning_rate=1e-3, **settings)
    steps = step_gradients(optimizer, policy)
    metrics = optimizer.update(batch, 0.0).metrics
    return len(steps), metrics, true_kl(policy, batch, "gaussian")


@pytest.mark.parametrize(("scope", "steps"), [("minibatch", 1), ("epoch", 4)])
def test_early_stop_leaves_both_loops(scope: str, steps: int) -> None:
    taken, metrics, _ = ppo_clip_steps(
        num_epochs=5, num_minibatches=4, target_kl=1e-6, target_kl_scope=scope
    )
    assert taken == steps
    assert metrics["optim/stopped_early"] == 1
    assert metrics["optim/epochs"] == steps / 4


@pytest.mark.parametrize("scope", ["minibatch", "epoch"])
@pytest.mark.parametrize("target_kl", [None, 1e3])
def test_without_early_stop_every_step_is_taken(scope: str, target_kl: float | None) -> None:
    taken, metrics, _ = ppo_clip_steps(
        num_epochs=5, num_minibatches=4, target_kl=target_kl, target_kl_scope=scope
    )
    assert taken == 20
    assert metrics["optim/stopped_early"] == 0
    assert metrics["optim/epochs"] == 5


@pytest.mark.parametrize("scope", ["minibatch", "epoch"])
def test_early_stop_uses_multiple_of_target_kl(scope: str) -> None:
    once = {"num_minibatches": 1, "target_kl_scope": scope, "target_kl_multiplier": 3.0}
    _, _, kl = ppo_clip_steps(num_epochs=1, **once)
    stopped, _, _ = ppo_clip_steps(num_epochs=2, target_kl=0.999 * kl / 3, **once)
    completed, _, _ = ppo_clip_steps(num_epochs=2, target_kl=1.001 * kl / 3, **once)
    assert (stopped, completed) == (1, 2)


def test_epoch_stop_measures_full_batch() -> None:
    settings = {"num_minibatches": 4, "target_kl_scope": "epoch", "target_kl_multiplier": 1.0}
    _, _, kl = ppo_clip_steps(num_epochs=1, **settings)
    stopped, _, _ = ppo_clip_steps(num_epochs=2, target_kl=0.999 * kl, **settings)
    completed, _, _ = ppo_clip_steps(num_epochs=2, target_kl=1.001 * kl, **settings)
    assert (stopped, completed) == (4, 8)


def test_minibatch_stop_measures_that_minibatch() -> None:
    taken = set()
    for stale_row in range(8):
        policy = policy_of("gaussian")
        batch = batch_for(policy, "gaussian")
        batch.old_parameters[stale_row, 0] += 1e3  # one row, so one minibatch
        settings = {"num_minibatches": 4, "target_kl": 1.0, "target_kl_scope": "minibatch"}
        optimizer = optimizer_of("ppo_clip", policy, **settings)
        steps = step_gradients(optimizer, policy)
        assert optimizer.update(batch, 0.0).metrics["optim/stopped_early"] == 1
        taken.add(len(steps))
    assert len(taken) > 1
    assert taken <= {0, 1, 2, 3}


def test_complete_update_is_not_stopped_early() -> None:
    taken, metrics, kl = ppo_clip_steps(num_epochs=2, num_minibatches=1, target_kl=0.1)
    assert taken == 2
    assert metrics["optim/stopped_early"] == 0
    taken, metrics, _ = ppo_clip_steps(num_epochs=1, num_minibatches=1, target_kl=1e-9 * kl)
    assert taken == 1
    assert metrics["optim/stopped_early"] == 0


def test_stop_before_first_step_changes_nothing() -> None:
    policy = policy_of("gaussian")
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, "gaussian")
    # Rounding alone can exceed such a small target.
    batch = replace(batch, old_parameters=batch.old_parameters + 1e-6)
    settings = {"target_kl": 1e-20, "target_kl_scope": "minibatch"}
    metrics = optimizer_of("ppo_clip", policy, **settings).update(batch, 0.0).metrics
    assert metrics["optim/epochs"] == 0
    assert metrics["optim/stopped_early"] == 1
    assert torch.equal(policy.actor_parameters.vector, start)


@torch.no_grad()
def ratio_deviations(steps: int) -> list[float]:
    """Return E[|r - 1|] after each of some full-batch steps, by torch.distributions."""
    found = []
    for taken in range(1, steps + 1):
        policy = policy_of("gaussian")
        batch = batch_for(policy, "gaussian")
        once = {"num_epochs": taken, "num_minibatches": 1, "learning_rate": 1e-3}
        with torch.enable_grad():
            optimizer_of("ppo_clip", policy, **once).update(batch, 0.0)
        new = in_torch(policy.distribution(batch.inputs).parameters, "gaussian")
        old = in_torch(batch.old_parameters, "gaussian")
        ratio = (new.log_prob(batch.actions) - old.log_prob(batch.actions)).exp()
        found.append(float((ratio - 1).abs().mean()))
    return found


@BOTH_ENGINES
@pytest.mark.parametrize("scope", ["minibatch", "epoch"])
def test_update_stops_once_ratios_deviate(scope: str, engine: str) -> None:
    deviations = ratio_deviations(4)
    assert deviations == sorted(deviations)
    for taken, deviation in enumerate(deviations, start=1):
        policy = policy_of("gaussian", engine=engine)
        batch = batch_for(policy, "gaussian")
        settings = {"num_minibatches": 1, "target_kl_scope": scope, "learning_rate": 1e-3}
        optimizer = optimizer_of(
            "ppo_clip", policy, target_ratio_deviation=0.999 * deviation, **settings
        )
        metrics = optimizer.update(batch, 0.0).metrics
        assert metrics["optim/epochs"] == taken
        assert metrics["optim/stopped_early"] == 1


def test_either_limit_stops_the_update() -> None:
    settings = {"num_epochs": 2, "num_minibatches": 1}
    for limits in ({"target_kl": 1e-9}, {"target_ratio_deviation": 1e-9}):
        both = {"target_kl": 1e9, "target_ratio_deviation": 1e9} | limits
        assert ppo_clip_steps(**settings, **both)[0] == 1
    assert ppo_clip_steps(**settings, target_kl=1e9, target_ratio_deviation=1e9)[0] == 2


def test_dual_clip_reaches_the_objective() -> None:
    batch = coin((1.0, -2.0))
    for dual_clip, loss, derivatives in (
        (None, -0.5 * (0.2 - 3.6), [-0.1, 1.8]),
        (1.5, -0.5 * (0.2 - 3.0), [-0.1, 0.0]),
    ):
        new = Categorical(torch.tensor([[0.1, 0.9]] * 2, dtype=torch.float64).log())
        config = PPOClipConfig(dual_clip=dual_clip)
        found = ClippedSurrogate(config).loss(TorchPolicy(new, batch), batch)
        assert float(found.value) == pytest.approx(loss)
        assert found.log_prob.tolist() == pytest.approx(derivatives)

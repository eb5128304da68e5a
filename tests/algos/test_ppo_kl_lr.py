"""PPO-clip with a learning rate that follows the KL."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_checks import BOTH_ENGINES, optimizer_of, true_kl
from learning_loop import config_of
from made_batches import batch_for, policy_of

from rlkl.algos.ppo_kl_lr import KLAdaptiveRate, adapted_learning_rate
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("kl", "rate"),
    [
        (0.0201, 0.002),
        (0.02, 0.003),
        (0.005, 0.003),
        (0.0049, 0.0045),
        (1e-9, 0.0045),
        (0.0, 0.003),
        (-1e-17, 0.003),
        (math.inf, 0.002),
        (math.nan, 0.003),
    ],
)
def test_rate_falls_above_and_rises_below_target(kl: float, rate: float) -> None:
    assert adapted_learning_rate(0.003, kl, 0.01, 1e-5, 1e-2) == pytest.approx(rate, rel=1e-12)


def test_rate_stays_within_bounds() -> None:
    assert adapted_learning_rate(1.4e-5, 1.0, 0.01, 1e-5, 1e-2) == 1e-5
    assert adapted_learning_rate(1e-5, 1.0, 0.01, 1e-5, 1e-2) == 1e-5
    assert adapted_learning_rate(8e-3, 1e-4, 0.01, 1e-5, 1e-2) == 1e-2
    assert adapted_learning_rate(1e-2, 1e-4, 0.01, 1e-5, 1e-2) == 1e-2


def updates(number: int, engine: str = "auto", **settings: Any) -> tuple[list[float], list[float]]:
    """Return the learning rate of each step and the KL after each update, to which it adapts."""
    policy = policy_of("gaussian", engine=engine)
    settings = {"num_epochs": 2, "num_minibatches": 2} | settings
    optimizer = optimizer_of("ppo_kl_lr", policy, **settings)
    assert isinstance(optimizer, KLAdaptiveRate)
    step, rates, kls = optimizer.adam.step, [], []

    def recorded(max_grad_norm: float | None = None) -> Any:
        rates.append(optimizer.adam.learning_rate)
        return step(max_grad_norm)

    optimizer.adam.step = recorded  # type: ignore[method-assign]
    for seed in range(number):
        batch = batch_for(policy, "gaussian", seed=seed)
        metrics = optimizer.update(batch, 0.5).metrics
        assert metrics["optim/lr"] == optimizer.adam.learning_rate
        assert metrics["kl/target"] == optimizer.config.target_kl
        kls.append(true_kl(policy, batch, "gaussian"))
        optimizer.adapt(kls[-1])
    return rates, kls


@BOTH_ENGINES
@pytest.mark.parametrize("target_kl", [1e-9, 1e9])
def test_rate_changes_at_minibatches_except_the_first(engine: str, target_kl: float) -> None:
    rates, _ = updates(2, engine, target_kl=target_kl, learning_rate=9e-4, learning_rate_max=2e-3)
    if target_kl < 1:
        expected = [9e-4 / 1.5**k for k in (0, 1, 2, 3, 3, 4, 5, 6)]
    else:
        expected = [9e-4, 1.35e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3, 2e-3]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_rounding_before_first_step_keeps_rate() -> None:
    policy = policy_of("gaussian")
    batch = batch_for(policy, "gaussian")
    batch = replace(batch, old_parameters=batch.old_parameters + 1e-6)
    assert true_kl(policy, batch, "gaussian") > 0
    optimizer = optimizer_of("ppo_kl_lr", policy, num_epochs=1, num_minibatches=1)
    assert optimizer.update(batch, 0.0).metrics["optim/lr"] == 1e-3


def test_rate_changes_once_after_each_epoch() -> None:
    rates, _ = updates(2, target_kl=1e-9, target_kl_scope="epoch", learning_rate=9e-3)
    assert rates == pytest.approx([9e-3, 9e-3, 6e-3, 6e-3, 4e-3, 4e-3, 8e-3 / 3, 8e-3 / 3])


@pytest.mark.parametrize("scope", ["minibatch", "epoch"])
@pytest.mark.parametrize(
    ("target_over_kl", "factor"),
    [(0.999 / 2, 1 / 1.5), (1.001 / 2, 1.0), (0.999 * 2, 1.0), (1.001 * 2, 1.5)],
)
def test_rate_follows_exact_kl(scope: str, target_over_kl: float, factor: float) -> None:
    once = {"num_minibatches": 1, "target_kl_scope": scope}
    _, (kl,) = updates(1, num_epochs=1, **once)
    rates, _ = updates(1, num_epochs=2, target_kl=target_over_kl * kl, **once)
    assert rates == pytest.approx([1e-3, factor * 1e-3])


def test_rate_without_room_is_that_of_ppo_clip() -> None:
    ends = []
    fixed = {"learning_rate_min": 2e-3, "learning_rate_max": 2e-3, "learning_rate": 2e-3}
    for name, given in (("ppo_kl_lr", fixed), ("ppo_clip", {"learning_rate": 2e-3})):
        policy = policy_of("categorical")
        settings = {"num_epochs": 3, "learning_rate_schedule": "constant"} | given
        optimizer = optimizer_of(name, policy, **settings)
        optimizer.update(batch_for(policy, "categorical"), 0.5)
        ends.append(policy.actor_parameters.vector.detach().clone())
    assert torch.equal(*ends)


def test_rate_is_part_of_the_state() -> None:
    first, second = (optimizer_of("ppo_kl_lr", policy_of("categorical")) for _ in range(2))
    assert isinstance(first, KLAdaptiveRate) and isinstance(second, KLAdaptiveRate)
    first.adam.learning_rate = 0.00123
    second.load_state_dict(first.state_dict())
    assert second.adam.learning_rate == 0.00123


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate_schedule": "linear"},
            "learning_rate_schedule=linear: with algo=ppo_kl_lr",
        ),
        ({"learning_rate": 0.02}, "learning_rate=0.02: expected between"),
        ({"learning_rate_min": 2e-3}, "learning_rate=0.001: expected between"),
        ({"target_kl": None}, "algo.target_kl"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("ppo_kl_lr", **settings)

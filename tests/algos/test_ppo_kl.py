"""PPO-KL: how its coefficient adapts."""

import math
from typing import Any

import pytest
from algorithm_checks import optimizer_of, true_kl, watch
from made_batches import batch_for, policy_of

from rlkl.algos.first_order import FirstOrder
from rlkl.algos.ppo_kl import (
    KLPenalizedSurrogate,
    PPOKLConfig,
    adapted_kl_coefficient,
)


@pytest.mark.parametrize(
    ("kl", "coefficient"),
    [
        (0.0301, 2.0),
        (0.0299, 1.0),
        (0.02, 1.0),
        (0.0134, 1.0),
        (0.0133, 0.5),
        (0.0, 0.5),
        (-1e-17, 0.5),
        (1e9, 2.0),
        (math.inf, 1.0),
        (math.nan, 1.0),
    ],
)
def test_coefficient_doubles_above_and_halves_below_target(kl: float, coefficient: float) -> None:
    assert adapted_kl_coefficient(1.0, kl, 0.02, 1e-4, 1e4) == coefficient


def test_coefficient_stays_within_bounds() -> None:
    assert adapted_kl_coefficient(3.0, 1.0, 0.02, 0.5, 4.0) == 4.0
    assert adapted_kl_coefficient(4.0, 1.0, 0.02, 0.5, 4.0) == 4.0
    assert adapted_kl_coefficient(0.75, 0.0, 0.02, 0.5, 4.0) == 0.5
    assert adapted_kl_coefficient(0.5, 0.0, 0.02, 0.5, 4.0) == 0.5


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_nonfinite_kl_keeps_coefficient(kl: float) -> None:
    objective = KLPenalizedSurrogate(PPOKLConfig(kl_coefficient=3.0))
    objective.adapt(kl)
    assert objective.kl_coefficient == 3.0


def ppo_kl_updates(updates: int, **settings: Any) -> tuple[list[float], list[float], list[float]]:
    """Return the coefficients at each minibatch, those reported, and the KL of each update."""
    policy = policy_of("gaussian")
    settings = {"num_epochs": 2, "num_minibatches": 3, "learning_rate": 1e-3} | settings
    optimizer = optimizer_of(settings.pop("name", "ppo_kl"), policy, **settings)
    assert isinstance(optimizer, FirstOrder)
    objective = optimizer.objective
    assert isinstance(objective, KLPenalizedSurrogate)
    used, reported, kls = [], [], []
    watch(optimizer, lambda *_: used.append(objective.kl_coefficient))
    for seed in range(updates):
        batch = batch_for(policy, "gaussian", seed=seed)
        reported.append(optimizer.update(batch, 0.0).metrics["kl/coefficient"])
        kls.append(true_kl(policy, batch, "gaussian"))
        optimizer.adapt(kls[-1])
    return used, reported, kls


def test_coefficient_changes_once_after_each_update() -> None:
    used, reported, _ = ppo_kl_updates(3, target_kl=1e-9)
    assert used == [1.0] * 6 + [2.0] * 6 + [4.0] * 6
    assert reported == [1.0, 2.0, 4.0]
    used, reported, _ = ppo_kl_updates(3, target_kl=1e9, kl_coefficient_min=0.4)
    assert used == [1.0] * 6 + [0.5] * 6 + [0.4] * 6
    assert reported == [1.0, 0.5, 0.4]


def test_larger_coefficient_gives_smaller_kl() -> None:
    _, _, (weak,) = ppo_kl_updates(1, kl_coefficient=1e-3, num_epochs=10)
    _, _, (strong,) = ppo_kl_updates(1, kl_coefficient=1e3, num_epochs=10)
    assert strong < weak / 2


@pytest.mark.parametrize(
    ("target_over_kl", "factor"),
    [(0.999 / 1.5, 2.0), (1.001 / 1.5, 1.0), (0.999 * 1.5, 1.0), (1.001 * 1.5, 0.5)],
)
def test_coefficient_follows_full_batch_kl_after_update(
    target_over_kl: float, factor: float
) -> None:
    _, _, (kl,) = ppo_kl_updates(1)
    _, reported, (same_kl, _) = ppo_kl_updates(2, target_kl=target_over_kl * kl)
    assert same_kl == kl
    assert reported == [1.0, factor]


def test_fixed_coefficient_stays() -> None:
    used, _, _ = ppo_kl_updates(3, name="ppo_kl_fixed", kl_coefficient=3.0)
    assert used == [3.0] * 18

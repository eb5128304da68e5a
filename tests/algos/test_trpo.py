"""TRPO: its bound, its line search, and what it measures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from algorithm_checks import (
    BOTH_KINDS,
    CARTPOLE_OR_PENDULUM,
    EVERY_KIND,
    in_torch,
    loop_of,
    optimizer_of,
    true_kl,
    true_surrogate,
)
from made_batches import KINDS, batch_for, policy_of

from rlkl.algos import trpo
from rlkl.algos.trpo import TRPOConfig


@EVERY_KIND
def test_trpo_keeps_kl_within_bound(kind: str) -> None:
    loop = loop_of(kind, TRPOConfig(max_kl=0.02, cg_damping=1e-3), normalize=True)
    accepted, iterations = 0, 6 if kind in CARTPOLE_OR_PENDULUM else 3
    for _ in range(iterations):
        batch = loop.collect()
        before = true_surrogate(loop.policy, batch, kind)
        metrics = loop.optimizer.update(batch, 0.0).metrics
        kl = true_kl(loop.policy, batch, kind)
        assert kl <= 0.02
        if metrics["trust_region/accepted"]:
            accepted += 1
            assert kl > 1e-4
            assert true_surrogate(loop.policy, batch, kind) > before
    assert accepted >= iterations - 2


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("multi_categorical", "gru")]
)
def test_trpo_backtracks_until_bound_holds(kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    settings = {"max_kl": 0.5, "cg_damping": 1e-4, "line_search_decay": 0.7}
    metrics = optimizer_of("trpo", policy, **settings).update(batch, 0.0).metrics
    backtracks = metrics["trust_region/backtracks"]
    assert backtracks >= 1
    assert metrics["trust_region/step_fraction"] == pytest.approx(0.7**backtracks)
    assert 0.05 < true_kl(policy, batch, kind) <= 0.5


@EVERY_KIND
def test_trpo_rejected_step_restores_parameters(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reject_all(evaluate: Callable[[float], tuple[float, float]], *_: Any) -> tuple[float, int]:
        assert evaluate(1.0)[1] > 0
        return 0.0, 1

    monkeypatch.setattr(trpo, "backtracking_line_search", reject_all)
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    metrics = optimizer_of("trpo", policy).update(batch_for(policy, kind), 0.0).metrics
    assert torch.equal(policy.actor_parameters.vector, start)
    assert metrics["trust_region/accepted"] == 0
    assert metrics["trust_region/step_fraction"] == 0


@BOTH_KINDS
def test_trpo_measures_improvement_and_kl_from_old_policy(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {}

    def measure(evaluate: Callable[[float], tuple[float, float]], *_: Any) -> tuple[float, int]:
        measured.update({fraction: evaluate(fraction) for fraction in (0.5, 0.0, 1.0)})
        return 1.0, 0

    monkeypatch.setattr(trpo, "backtracking_line_search", measure)
    policy = policy_of(kind)
    batch = batch_for(policy, kind)

    def objective() -> float:
        new = in_torch(policy.distribution(batch.inputs).parameters.detach(), kind)
        return true_surrogate(policy, batch, kind) + 0.1 * float(new.entropy().mean())

    before = objective()
    optimizer_of("trpo", policy, entropy_coefficient=0.1).update(batch, 0.0)
    improvement, kl = objective() - before, true_kl(policy, batch, kind)
    assert measured[1.0] == pytest.approx((improvement, kl), rel=1e-4)
    assert measured[0.0] == pytest.approx((0, 0), abs=1e-6)
    assert measured[0.5][1] == pytest.approx(kl / 4, rel=0.2)


@BOTH_KINDS
def test_trpo_rejects_too_long_step_without_backtracks(kind: str) -> None:
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, kind)
    settings = {"max_kl": 0.5, "cg_damping": 1e-4, "max_backtracks": 0}
    metrics = optimizer_of("trpo", policy, **settings).update(batch, 0.0).metrics
    assert metrics["trust_region/accepted"] == 0
    assert torch.equal(policy.actor_parameters.vector, start)
    assert true_kl(policy, batch, kind) == 0


@BOTH_KINDS
def test_line_search_measures_in_float64(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(evaluate: Callable[[float], tuple[float, float]], *_: Any) -> tuple[float, int]:
        measured.append(evaluate(1.0))
        return 1.0, 0

    monkeypatch.setattr(trpo, "backtracking_line_search", measure)
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    optimizer_of("trpo", policy, max_kl=1e-10).update(batch, 0.0)
    # Float32, with its rounding of 6e-8, would give another KL.
    assert measured[0][1] == pytest.approx(true_kl(policy, batch, kind), rel=1e-5)
    assert 1e-11 < measured[0][1] < 2e-10

"""The natural-gradient step of NPG and TRPO."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_checks import (
    BOTH_ENGINES,
    BOTH_KINDS,
    EVERY_KIND,
    algorithms_with,
    evaluations,
    optimizer_of,
    true_kl,
    true_surrogate,
    updated,
)
from made_batches import batch_for, policy_of
from torch import Generator

from rlkl.algos import natural_gradient
from rlkl.algos.natural_gradient import NaturalGradient
from rlkl.algos.npg import NPGConfig
from rlkl.algos.trpo import TRPOConfig
from rlkl.engines.make import make_engine


@algorithms_with("max_kl_schedule")
@BOTH_KINDS
def test_linear_max_kl_ends_at_zero(name: str, kind: str) -> None:
    for progress, max_kl in ((0.0, 4e-5), (0.75, 1e-5), (1.0, 0.0)):
        policy = policy_of(kind)
        batch = batch_for(policy, kind)
        settings = {"max_kl": 4e-5, "max_kl_schedule": "linear", "cg_damping": 1e-4}
        optimizer_of(name, policy, **settings).update(batch, progress)
        # A step slightly too long is shortened once, to 0.8² of its KL.
        assert 0.6 * max_kl <= true_kl(policy, batch, kind) <= 1.1 * max_kl


@algorithms_with("max_kl")
@EVERY_KIND
def test_small_natural_step_has_predicted_kl_and_improvement(name: str, kind: str) -> None:
    policy = policy_of(kind)
    batch = batch_for(policy, kind)
    before = true_surrogate(policy, batch, kind)
    metrics = optimizer_of(name, policy, max_kl=1e-5, cg_damping=1e-4).update(batch, 0.0).metrics
    # A step slightly too long is shortened once.
    fraction = metrics["trust_region/step_fraction"]
    assert fraction in ((1.0, 0.8) if name == "trpo" else (1.0,))
    assert true_kl(policy, batch, kind) == pytest.approx(fraction**2 * 1e-5, rel=0.1)
    improvement = true_surrogate(policy, batch, kind) - before
    expected = fraction * metrics["trust_region/expected_improvement"]
    assert expected == pytest.approx(improvement, rel=0.05)
    assert metrics["kl/target"] == 1e-5


@algorithms_with("max_kl")
@BOTH_KINDS
@pytest.mark.parametrize("advantage", [0.0, math.nan, math.inf])
def test_zero_or_nonfinite_advantages_keep_policy(name: str, kind: str, advantage: float) -> None:
    policy = policy_of(kind)
    start = policy.actor_parameters.vector.detach().clone()
    batch = batch_for(policy, kind)
    batch = replace(batch, advantages=torch.full_like(batch.advantages, advantage))
    metrics = optimizer_of(name, policy).update(batch, 0.0).metrics
    assert torch.equal(policy.actor_parameters.vector, start)
    assert metrics["trust_region/accepted"] == 0
    assert metrics["trust_region/step_fraction"] == 0
    assert metrics["trust_region/backtracks"] == 0


@algorithms_with("max_kl")
def test_natural_step_ignores_scale_of_advantages(name: str) -> None:
    batch = batch_for(policy_of("gaussian"), "gaussian")
    off = {"advantage_standardization": "none", "cg_iterations": 5}
    torch.testing.assert_close(
        updated(name, "gaussian", replace(batch, advantages=100 * batch.advantages), **off),
        updated(name, "gaussian", batch, **off),
        rtol=0,
        atol=1e-4,
    )


@algorithms_with("fisher_fraction")
@BOTH_KINDS
def test_fisher_fraction_of_all_states_is_full_matrix(name: str, kind: str) -> None:
    torch.testing.assert_close(
        updated(name, kind, fisher_fraction=0.9999), updated(name, kind), rtol=0, atol=1e-4
    )


@algorithms_with("fisher_fraction")
@BOTH_KINDS
@BOTH_ENGINES
def test_fisher_states_are_sampled_in_each_update(
    name: str, kind: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(kind, engine=engine)
    batch = batch_for(policy, kind)
    optimizer: Any = optimizer_of(name, policy, fisher_fraction=0.25)
    found = evaluations(optimizer.engine, monkeypatch)
    before = true_surrogate(policy, batch, kind)
    optimizer.update(batch, 0.0)
    assert true_surrogate(policy, batch, kind) > before
    optimizer.update(batch_for(policy, kind), 0.0)
    first, second = (vectors for vectors, _ in found if len(vectors) == 64)
    assert not torch.equal(first, second)
    assert len({tuple(row) for row in first.tolist()}) == 64


@BOTH_ENGINES
def test_inexact_direction_is_scaled_by_true_curvature(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, float] = {}

    def inexact(product: Any, gradient: Any, *_: Any) -> tuple[Any, Any]:
        direction = 1.0 * gradient
        direction[::2] = 0  # not the solution, and not orthogonal to its residual
        image = product(direction)
        found["curvature"] = float(direction @ image)
        found["length"] = float(direction @ direction) ** 0.5
        return direction, gradient - image

    monkeypatch.setattr(natural_gradient, "conjugate_gradient", inexact)
    policy = policy_of("gaussian", engine=engine)
    batch = batch_for(policy, "gaussian")
    start = policy.actor_parameters.vector.detach().clone()
    gradient = NaturalGradient(TRPOConfig(), make_engine(policy), Generator().manual_seed(0))
    step, _ = gradient.step(*gradient.prepared(batch, 0.0))
    direction = -policy.actor_parameters.gradient.clone()
    direction[::2] = 0
    cosine = float(step @ direction / (step.norm() * direction.norm()))
    assert cosine == pytest.approx(1, rel=1e-5)
    # xᵀFx of the step is 2δ: its length is that of the direction times √(2δ / curvature).
    length = found["length"] * (2 * 0.01 / found["curvature"]) ** 0.5
    assert float(step.norm()) == pytest.approx(length, rel=1e-4)
    assert torch.equal(policy.actor_parameters.vector, start)


@BOTH_ENGINES
@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e12])
def test_natural_step_handles_advantages_of_any_size(size: float, engine: str) -> None:
    policy = policy_of("gaussian", engine=engine)
    batch = batch_for(policy, "gaussian")
    config = NPGConfig(advantage_standardization="none", cg_residual_tolerance=1e-4)
    natural = NaturalGradient(config, make_engine(policy), Generator().manual_seed(0))
    step, metrics = natural.step(batch, 0.01)
    scaled, others = natural.step(replace(batch, advantages=size * batch.advantages), 0.01)
    assert step.norm() > 0.01
    torch.testing.assert_close(scaled, step, rtol=1e-3, atol=1e-6)
    for name in (
        "trust_region/expected_improvement",
        "optim/grad_norm",
        "trust_region/cg_residual",
    ):
        assert others[name] == pytest.approx(size * metrics[name], rel=1e-2), name

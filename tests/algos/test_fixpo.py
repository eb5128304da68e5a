"""FixPO: its bound on every state, its fixup phase, and its coefficient."""

from typing import Any

import pytest
import torch
from algorithm_checks import BOTH_ENGINES, in_torch, loss_of, optimizer_of
from made_batches import batch_for, policy_of
from torch import Tensor

from rlkl.algos.base import Metrics
from rlkl.algos.fixpo import BoundedSurrogate, FixPO, FixPOConfig
from rlkl.rollouts.batch import Batch


@torch.no_grad()
def largest_kl(optimizer: Any, batch: Batch, kind: str) -> float:
    """Return the largest KL(π_old ‖ π_θ) of a state, by torch.distributions."""
    new = optimizer.engine.distribution(batch.inputs).parameters
    return float(in_torch(batch.old_parameters, kind).kl(in_torch(new, kind)).max())


def updated(kind: str, engine: str = "auto", **settings: Any) -> tuple[Metrics, float, Tensor]:
    """Return metrics, the largest KL and the parameters after an update that goes too far."""
    policy = policy_of(kind, engine=engine)
    batch = batch_for(policy, kind, size=64)
    settings = {"learning_rate": 0.02, "max_state_kl": 0.05, "num_epochs": 2} | settings
    optimizer = optimizer_of("fixpo", policy, **settings)
    metrics = optimizer.update(batch, 0.0).metrics
    return metrics, largest_kl(optimizer, batch, kind), policy.actor_parameters.vector.detach()


@pytest.mark.parametrize("kind", ["categorical", "masked", "gaussian", "tanh_gaussian", "gru"])
@BOTH_ENGINES
def test_every_state_is_within_bound(kind: str, engine: str) -> None:
    if kind == "gru" and engine == "numpy":
        pytest.skip("the NumPy engine has no memories")
    metrics, largest, _ = updated(kind, engine)
    assert 0 < largest <= 0.05 * (1 + 1e-6)
    assert 0 < metrics["trust_region/fixup_steps"] < 100
    assert metrics["trust_region/step_fraction"] == 1


@BOTH_ENGINES
def test_bound_holds_after_every_update(engine: str) -> None:
    for kind in ("categorical", "gaussian"):
        policy = policy_of(kind, engine=engine)
        settings = {"learning_rate": 0.02, "max_state_kl": 0.01, "max_fixup_steps": 3}
        optimizer = optimizer_of("fixpo", policy, num_epochs=2, **settings)
        fractions = set()
        for seed in range(4):
            batch = batch_for(policy, kind, size=64, seed=seed)
            metrics = optimizer.update(batch, 0.0).metrics
            assert 0 < largest_kl(optimizer, batch, kind) <= 0.01 * (1 + 1e-6)
            fractions.add(metrics["trust_region/step_fraction"])
        assert min(fractions) < 1


@BOTH_ENGINES
def test_unfinished_fixup_shortens_update(engine: str) -> None:
    settings = {"max_fixup_steps": 0, "kl_coefficient_learning_rate": 1e-12}
    metrics, largest, shortened = updated("gaussian", engine, max_state_kl=0.1, **settings)
    fraction = metrics["trust_region/step_fraction"]
    assert fraction in (0.5, 0.25, 0.125, 0.0625)
    assert largest <= 0.1
    start = policy_of("gaussian").actor_parameters.vector.detach()
    _, too_large, end = updated("gaussian", engine, max_state_kl=1e6, **settings)
    assert too_large > 0.1
    torch.testing.assert_close(shortened, start + fraction * (end - start), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("of_minibatch", "max_fixup_steps"), [(1.0, 0), (1.0, 3), (0.0, 100)])
def test_hopeless_update_restores_parameters(
    of_minibatch: float, max_fixup_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of("gaussian")
    start = policy.actor_parameters.vector.detach().clone()
    optimizer = optimizer_of("fixpo", policy, num_epochs=1, max_fixup_steps=max_fixup_steps)
    monkeypatch.setattr(FixPO, "largest", lambda _, rows: 1.0 if len(rows) == 256 else of_minibatch)
    metrics = optimizer.update(batch_for(policy, "gaussian"), 0.0).metrics
    assert metrics["trust_region/step_fraction"] == 0
    assert torch.equal(policy.actor_parameters.vector, start)


def test_loss_has_known_value_on_coin() -> None:
    # E[r · A] = ½ (1.5 - 0.5), and KL((½, ½) ‖ (¾, ¼)) = ½ ln(4/3) nats.
    objective = BoundedSurrogate(FixPOConfig(kl_coefficient=2.0))
    assert loss_of(objective, 0.75, (1, -1)) == pytest.approx(-0.5 + 0.2876821, abs=1e-6)


@pytest.mark.parametrize(("largest", "grows"), [(0.09, False), (0.11, True)])
def test_coefficient_steers_to_bound_over_margin(largest: float, grows: bool) -> None:
    objective = BoundedSurrogate(FixPOConfig(max_state_kl=0.2, kl_margin=2.0))
    objective.adapt_to_largest(largest)
    assert (objective.kl_coefficient > 1) == grows
    assert abs(objective.kl_coefficient - 1) == pytest.approx(0.01, rel=0.02)
    assert objective.metrics == {"kl/coefficient": objective.kl_coefficient, "kl/target": 0.2}

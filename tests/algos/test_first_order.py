"""The loop over epochs and minibatches: standardization, clipping, schedules."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_checks import (
    BOTH_ENGINES,
    BOTH_KINDS,
    algorithms_with,
    optimizer_of,
    step_gradients,
)
from made_batches import batch_for, policy_of
from torch import Tensor

from rlkl.algos import ALGORITHMS
from rlkl.algos.first_order import FirstOrder
from rlkl.rollouts.batch import Batch


def advantages_seen(name: str, batch: Batch, engine: str, **settings: Any) -> list[Tensor]:
    """Return the advantages of every step's minibatch in one update."""
    policy, found = policy_of("categorical", engine=engine), []
    optimizer: Any = optimizer_of(name, policy, **settings)
    step = optimizer.step

    def recorded(minibatch: Any) -> Any:
        found.append(torch.as_tensor(minibatch.advantages).clone())
        return step(minibatch)

    optimizer.step = recorded
    optimizer.update(batch, 0.0)
    return found


@algorithms_with("num_minibatches")
@BOTH_ENGINES
def test_advantages_are_standardized_per_batch_or_minibatch(name: str, engine: str) -> None:
    batch = batch_for(policy_of("categorical"), "categorical")
    for mode, of_each in (("batch", False), ("minibatch", True)):
        settings = {"num_minibatches": 4, "num_epochs": 1, "advantage_standardization": mode}
        parts = advantages_seen(name, batch, engine, **settings)
        assert len(parts) == 4
        whole = torch.cat(parts).double()
        assert whole.mean().abs() < 1e-6
        means = torch.stack([part.double().mean().abs() for part in parts])
        assert bool((means < 1e-6).all()) == of_each
        deviations = torch.stack([(part.double().std() - 1).abs() for part in parts])
        assert bool((deviations < 1e-5).all()) == of_each
        assert of_each or abs(whole.std() - 1) < 1e-5


@algorithms_with("num_minibatches")
@BOTH_ENGINES
def test_every_epoch_visits_all_rows_in_new_order(name: str, engine: str) -> None:
    batch = batch_for(policy_of("categorical"), "categorical", size=50)
    batch = replace(batch, advantages=torch.arange(50.0))
    settings = {"num_minibatches": 4, "num_epochs": 3, "advantage_standardization": "none"}
    parts = advantages_seen(name, batch, engine, **settings)
    assert [len(part) for part in parts] == [13, 13, 12, 12] * 3
    epochs = [torch.cat(parts[i : i + 4]) for i in (0, 4, 8)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == batch.advantages.tolist()
    assert not torch.equal(epochs[0], epochs[1])


@algorithms_with("max_grad_norm")
@BOTH_KINDS
def test_gradient_is_clipped_and_reported_unclipped(name: str, kind: str) -> None:
    found = []
    for max_grad_norm in (0.01, None, 1e6):
        policy = policy_of(kind)
        once = {"num_epochs": 1, "num_minibatches": 1, "max_grad_norm": max_grad_norm}
        optimizer = optimizer_of(name, policy, **once)
        gradients = step_gradients(optimizer, policy)
        metrics = optimizer.update(batch_for(policy, kind), 0.0).metrics
        found.append((gradients[0], metrics["optim/grad_norm"]))
    (clipped, reported), (free, free_reported), (loose, _) = found
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(free.norm()) > 0.02
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(free, loose)
    assert reported == free_reported == pytest.approx(float(free.norm()), rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, algorithm in ALGORITHMS.items()
        if getattr(algorithm.config(), "learning_rate_schedule", "") == "linear"
    ],
)
def test_linear_learning_rate_ends_at_zero(name: str) -> None:
    policy = policy_of("categorical")
    optimizer = optimizer_of(name, policy, learning_rate=0.01, learning_rate_schedule="linear")
    assert isinstance(optimizer, FirstOrder)
    for progress, rate in ((0.0, 0.01), (0.25, 0.0075), (1.0, 0.0)):
        start = policy.actor_parameters.vector.detach().clone()
        metrics = optimizer.update(batch_for(policy, "categorical"), progress).metrics
        assert metrics["optim/lr"] == pytest.approx(rate, abs=1e-12)
        assert optimizer.adam.learning_rate == pytest.approx(rate, abs=1e-12)
        assert torch.equal(policy.actor_parameters.vector, start) == (rate == 0)
    constant = optimizer_of(name, policy, learning_rate=0.01, learning_rate_schedule="constant")
    assert constant.update(batch_for(policy, "categorical"), 0.9).metrics["optim/lr"] == 0.01

"""Objectives: known values for two actions, and derivatives compared with autograd."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import coin, loss_of
from learning_loop import config_of
from made_batches import policy_of
from scipy.optimize import minimize_scalar
from torch import Generator, Tensor

from rlkl.algos import ALGORITHMS, make_policy_optimizer
from rlkl.algos.ppo_clip import ClippedSurrogate, PPOClipConfig
from rlkl.algos.ppo_kl import KLPenalizedSurrogate, PPOKLConfig, PPOKLFixedConfig
from rlkl.engines.base import Loss
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical
from rlkl.rollouts.batch import Batch

# Derivatives, for every algorithm of the registry.


class Leaves:
    """A policy at B rows, given by its log-probabilities, KLs, entropies and reverse KLs."""

    def __init__(self, xp: Any, batch: Batch, *rows: Any) -> None:
        self.xp, self.batch = xp, batch
        self.log_prob, self.kl, self.entropy, self.reverse_kl = rows

    @property
    def ratio(self) -> Any:
        return self.xp.exp(self.log_prob - self.batch.old_log_prob)

    def mean_kl(self) -> Any:
        return self.kl.mean()

    def mean_entropy(self) -> Any:
        return self.entropy.mean()


class Rows:
    """A minibatch of the fields that objectives read."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __len__(self) -> int:
        return len(self.advantages)


def objective_of(name: str, **settings: Any) -> Any:
    """Return the objective of an algorithm, with its entropy bonus."""
    engine = make_engine(policy_of("categorical"))
    if name == "klip_ppo":
        settings.pop("dual_clip", None)
    optimizer: Any = make_policy_optimizer(config_of(name, **settings), engine, Generator())
    return getattr(optimizer, "penalized", optimizer.objective)


def example() -> tuple[Rows, list[Tensor]]:
    """Return 60 rows, and what `Leaves` takes; some ratios are clipped."""
    noise = torch.randn(6, 60, generator=Generator().manual_seed(0), dtype=torch.float64)
    old_log_prob = -noise[0].abs()
    rows = Rows(old_log_prob=old_log_prob, advantages=noise[1])
    return rows, [old_log_prob + 0.3 * noise[2], noise[3].abs(), noise[4], noise[5].abs()]


OF_ROWS = [name for name in ALGORITHMS if name != "trpl"]
"""All algorithms but TRPL, whose loss torch differentiates: tests/algos/test_trpl.py."""

SETTINGS: list[dict[str, Any]] = [
    {},
    {
        "entropy_coefficient": 0.3,
        "kl_coefficient": 2.5,
        "kl_form": "exact",
        "step_size": 0.4,
        "dual_clip": 1.3,
    },
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "with entropy"])
@pytest.mark.parametrize("name", OF_ROWS)
def test_derivatives_match_autograd(name: str, settings: dict[str, Any]) -> None:
    objective = objective_of(name, **settings)
    rows, given = example()
    leaves = [part.clone().requires_grad_() for part in given]
    loss: Loss = objective.loss(Leaves(torch, rows, *leaves), rows)
    expected = torch.autograd.grad(loss.value, leaves, materialize_grads=True)
    for derivative, of_autograd in zip(
        (loss.log_prob, loss.kl, loss.entropy, loss.reverse_kl), expected, strict=True
    ):
        found = torch.as_tensor(derivative, dtype=torch.float64).detach().expand(60)
        torch.testing.assert_close(found, of_autograd, rtol=1e-12, atol=1e-15)
    assert expected[0].abs().max() > 1e-3
    assert bool(expected[1].any() or expected[3].any()) == objective.uses_kl
    assert bool(expected[2].any()) == objective.uses_entropy


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "with entropy"])
@pytest.mark.parametrize("name", OF_ROWS)
def test_arrays_give_same_loss_as_tensors(name: str, settings: dict[str, Any]) -> None:
    objective = objective_of(name, **settings)
    rows, given = example()
    expected = objective.loss(Leaves(torch, rows, *given), rows)
    arrays = Rows(**{key: tensor.numpy() for key, tensor in vars(rows).items()})
    found = objective.loss(Leaves(np, arrays, *(part.numpy() for part in given)), arrays)
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-12)
    for name_of in ("log_prob", "kl", "entropy", "reverse_kl"):
        mine, theirs = getattr(found, name_of), getattr(expected, name_of)
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-15)


# Two actions, each taken once by π_old = (½, ½).


@pytest.mark.parametrize(("clip_ratio_high", "loss"), [(None, -0.4), (0.28, -0.48)])
def test_ppo_clip_has_separate_bounds(clip_ratio_high: float | None, loss: float) -> None:
    config = PPOClipConfig(clip_ratio=0.2, clip_ratio_high=clip_ratio_high)
    assert loss_of(ClippedSurrogate(config), 0.75, (2, -2)) == pytest.approx(loss)


@pytest.mark.parametrize("config", [PPOKLConfig(), PPOKLFixedConfig()])
def test_ppo_kl_optimum_is_that_of_forward_kl(config: PPOKLFixedConfig) -> None:
    objective = KLPenalizedSurrogate(config)
    found = minimize_scalar(
        lambda p: loss_of(objective, p, (0.5, -0.5)),
        bounds=(0.01, 0.99),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert found.x == pytest.approx(0.7071, abs=5e-5)


def test_ppo_kl_penalty_uses_current_coefficient() -> None:
    objective = KLPenalizedSurrogate(PPOKLConfig(kl_coefficient=1.0))
    assert loss_of(objective, 0.75, (0, 0)) == pytest.approx(0.143841, abs=1e-6)
    objective.adapt(1.0)
    assert loss_of(objective, 0.75, (0, 0)) == pytest.approx(0.287682, abs=1e-6)


def test_zero_coefficient_ignores_infinite_kl() -> None:
    objective = KLPenalizedSurrogate(PPOKLFixedConfig(kl_coefficient=0.0))
    batch = coin((3.0, 1.0))
    new = TorchPolicy(Categorical(torch.tensor([[0.0, -math.inf]] * 2)), batch)
    assert new.kl.tolist() == [math.inf] * 2
    loss = objective.loss(new, batch)
    assert loss.value == -3.0
    assert (loss.log_prob.tolist(), loss.kl) == ([-3.0, 0.0], 0.0)

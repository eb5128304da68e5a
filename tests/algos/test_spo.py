"""SPO: its values on a bandit and a Gaussian, and the bound of the ratio at the optimum."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import coin
from torch import Tensor

from rlkl.algos.spo import BoundedSurrogate, SPOConfig
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Categorical, DiagonalGaussian, Distribution
from rlkl.rollouts.batch import Batch


def objective_of(ratio_bound: float = 0.2) -> BoundedSurrogate:
    return BoundedSurrogate(SPOConfig(ratio_bound=ratio_bound))


class Rows:
    """A minibatch of advantages alone."""

    def __init__(self, advantages: Any) -> None:
        self.advantages = advantages

    def __len__(self) -> int:
        return len(self.advantages)


def test_bandit_has_known_loss_and_derivatives() -> None:
    batch = coin((2.0, -1.0))
    new = Categorical(torch.tensor([[0.7, 0.3]] * 2, dtype=torch.float64).log())
    loss = objective_of().loss(TorchPolicy(new, batch), batch)
    # r = 1.4 and 0.6: (2.8 - 0.8 - 0.6 - 0.4) / 2
    assert float(loss.value) == pytest.approx(-0.5, rel=1e-12)
    assert loss.log_prob.tolist() == pytest.approx([1.4, -0.3], rel=1e-12)


def one_action(family: type[Distribution], old: list[float], action: Any, sign: float) -> Batch:
    """Return a single sample with the advantage ±3."""
    parameters = torch.tensor([old], dtype=torch.float64)
    actions, zeros = torch.tensor([action]), torch.zeros(1, dtype=torch.float64)
    old_log_prob = family(parameters).log_prob(actions)
    inputs: Any = None
    return Batch(inputs, actions, zeros + 3 * sign, zeros, parameters, old_log_prob, zeros)


def test_gaussian_has_known_loss_and_derivative() -> None:
    batch = one_action(DiagonalGaussian, [0.0, 0.0], [1.0], 1 / 3)
    new = DiagonalGaussian(torch.tensor([[1.0, 0.0]], dtype=torch.float64))  # r = √e
    loss = objective_of().loss(TorchPolicy(new, batch), batch)
    assert float(loss.value) == pytest.approx(-0.596624, abs=1e-6)
    assert float(loss.log_prob) == pytest.approx(3.699078, abs=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("bound", [0.2, 0.05])
@pytest.mark.parametrize(
    ("family", "old", "action"),
    [(Categorical, [0.3, -0.2, 0.0], 1), (DiagonalGaussian, [0.5, -0.3], [1.1])],
)
def test_ascent_on_one_sample_ends_at_the_bound(
    family: type[Distribution], old: list[float], action: Any, bound: float, sign: float
) -> None:
    batch = one_action(family, old, action, sign)
    parameters: Tensor = batch.old_parameters.clone().requires_grad_()
    for _ in range(60):
        parameters.grad = None
        new = TorchPolicy(family(parameters), batch)
        new.backward(objective_of(bound).loss(new, batch))
        assert parameters.grad is not None
        parameters.data -= 0.3 * bound * parameters.grad
    ratio = TorchPolicy(family(parameters), batch).ratio
    assert float(ratio) == pytest.approx(1 + sign * bound, abs=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradient_vanishes_at_the_bound_and_turns_beyond(sign: float) -> None:
    ratios = 1 + sign * np.array([0.125, 0.25, 0.5])
    new: Any = SimpleNamespace(xp=np, ratio=ratios)
    batch: Any = Rows(np.full(3, 2 * sign))
    before, at, beyond = -objective_of(0.25).loss(new, batch).log_prob * sign
    assert at == 0
    assert before > 0 > beyond


def test_report_counts_ratios_beyond_the_bound() -> None:
    assert SPOConfig(ratio_bound=0.25).ratio_bounds == (0.75, 1.25)

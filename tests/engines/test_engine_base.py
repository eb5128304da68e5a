"""What all engines share: the entropy bonus, and the KL of a whole batch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlkl.algos.base import FixedObjective
from rlkl.engines.base import EntropyBonus, Loss
from rlkl.engines.torch import TorchEngine
from rlkl.numerics.distributions import DiagonalGaussian


class Constant(FixedObjective):
    """An objective whose loss is 1, with given derivatives."""

    def loss(self, new: Any, batch: Any) -> Loss:
        return Loss(1.0, np.array([2.0, -2.0]), kl=0.5, entropy=0.125)


def test_entropy_bonus_subtracts_the_mean_entropy() -> None:
    new: Any = SimpleNamespace(mean_entropy=lambda: 0.75)
    loss = EntropyBonus(Constant(), 0.5).loss(new, [None, None])
    assert (loss.value, loss.kl, loss.entropy) == (0.625, 0.5, -0.125)
    assert loss.log_prob.tolist() == [2.0, -2.0]


def test_entropy_bonus_adds_entropy_to_its_uses() -> None:
    objective = Constant()
    objective.uses_kl = True
    bonus = EntropyBonus(objective, 0.5)
    assert (bonus.uses_entropy, bonus.uses_kl, bonus.uses_distribution) == (True, True, False)


class Fixed(TorchEngine):
    """An engine of a Gaussian policy with these parameters."""

    def __init__(self, parameters: torch.Tensor) -> None:
        self.policy: Any = SimpleNamespace(family=DiagonalGaussian)
        self.parameters = parameters

    def distribution(self, inputs: Any, dtype: Any = None) -> DiagonalGaussian:
        return DiagonalGaussian(self.parameters)


def test_mean_of_state_kl_is_batch_kl() -> None:
    old = torch.zeros(2, 2)  # N(0, 1) in both states
    engine = Fixed(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # N(1, 1), whose KL is ½, and N(0, 1)
    batch = SimpleNamespace(inputs=None, old_parameters=old)
    assert engine.mean_kl(batch) == pytest.approx(0.25, rel=1e-15)


def test_state_kl_is_computed_in_float64() -> None:
    old, new = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1e-4]])
    # Float32 would give this KL with two digits.
    kl = Fixed(new).mean_kl(SimpleNamespace(inputs=None, old_parameters=old))
    assert kl == pytest.approx(9.9993334e-9, rel=1e-6)


def test_ratio_deviation_is_the_mean_distance_from_one() -> None:
    engine = Fixed(torch.tensor([[1.0, 0.0]] * 3))
    # From N(0, 1) to N(1, 1) the ratio is exp(a - ½).
    actions = torch.tensor([[0.5], [1.5], [-0.5]])
    batch = SimpleNamespace(inputs=None, old_parameters=torch.zeros(3, 2), actions=actions)
    expected = (0 + 1.718281828459045 + 0.6321205588285577) / 3
    assert engine.mean_ratio_deviation(batch) == pytest.approx(expected, rel=1e-12)

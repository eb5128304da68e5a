"""Lagrange multipliers and temperatures: positive numbers that gradient steps adapt."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from rlkl.models.adam import Adam
from rlkl.models.flat_parameters import FlatParameters
from rlkl.utils.state import Stateful

LOWEST, HIGHEST = 1e-6, 1e6


class Multipliers(Stateful):
    """Positive numbers whose logarithms Adam adapts, between `LOWEST` and `HIGHEST`.

    Args:
        values: initial numbers, above 0.
        learning_rate: of Adam; the largest relative change of a number in one step, roughly.
    """

    saved = ("logarithms", "adam")

    def __init__(self, values: Sequence[float], learning_rate: float) -> None:
        start = torch.tensor(values, dtype=torch.float64).log()
        self._parameters = FlatParameters([nn.Parameter(start)])
        self.logarithms = self._parameters.vector.data
        self.adam = Adam(self._parameters, learning_rate, epsilon=1e-8)

    @property
    def values(self) -> list[float]:
        """The numbers."""
        values: list[float] = self.logarithms.exp().tolist()
        return values

    def step(self, derivatives: Sequence[float]) -> None:
        """Take one descent step on a loss, from ∂loss/∂number; none if one is not finite."""
        if not all(map(math.isfinite, derivatives)):
            return
        self._parameters.gradient.copy_(self.logarithms.exp() * torch.tensor(derivatives))
        self.adam.step()
        self.logarithms.clamp_(math.log(LOWEST), math.log(HIGHEST))

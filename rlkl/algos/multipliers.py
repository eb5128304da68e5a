"""Lagrange multipliers and temperatures: positive numbers that gradient steps adapt."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rlkl.models.adam import Adam
from rlkl.models.flat_parameters import FlatParameters

LOWEST, HIGHEST = 1e-6, 1e6


class Multipliers:
    """Positive numbers whose logarithms Adam adapts, between `LOWEST` and `HIGHEST`.

    Args:
        values: initial numbers, above 0.
        learning_rate: of Adam; the largest relative change of a number in one step, roughly.
    """

    def __init__(self, values: Sequence[float], learning_rate: float) -> None:
        logarithms = torch.tensor(values, dtype=torch.float64).log()
        self._logarithms = FlatParameters([nn.Parameter(logarithms)])
        self._adam = Adam(self._logarithms, learning_rate, epsilon=1e-8)

    @property
    def values(self) -> list[float]:
        """The numbers."""
        values: list[float] = self._logarithms.vector.detach().exp().tolist()
        return values

    def step(self, derivatives: Sequence[float]) -> None:
        """Take one descent step on a loss, from ∂loss/∂number; none if one is not finite."""
        if not all(map(math.isfinite, derivatives)):
            return
        logarithms = self._logarithms.vector.data
        self._logarithms.gradient.copy_(logarithms.exp() * torch.tensor(derivatives))
        self._adam.step()
        logarithms.clamp_(math.log(LOWEST), math.log(HIGHEST))

    def state_dict(self) -> dict[str, Any]:
        """Return the logarithms and the state of Adam."""
        return {"logarithms": self._logarithms.vector.data, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._logarithms.vector.data.copy_(state["logarithms"])
        self._adam.load_state_dict(state["adam"])

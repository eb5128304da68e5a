"""Families of action distributions for tests, each with six parameters."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from rlkl.numerics.beta import Beta
from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)

Make = Callable[[Tensor], Distribution]

MULTI = partial(MultiCategorical, sizes=(3, 3))

UNEQUAL = partial(MultiCategorical, sizes=(1, 3, 2))

FAMILIES: dict[str, Make] = {
    "categorical": Categorical,
    "multi": MULTI,
    "unequal": UNEQUAL,
    "bernoulli": Bernoulli,
    "gaussian": DiagonalGaussian,
    "tanh": TanhGaussian,
    "beta": Beta,
}

# Possible actions of each choice, and those that the masks allow.
SIZES = {"categorical": [6], "multi": [3, 3], "unequal": [1, 3, 2], "bernoulli": [2] * 6}

ALLOWED = {
    "categorical": [[0, 2, 4, 5]],
    "multi": [[1, 2], [0, 2]],
    "unequal": [[0], [0, 2], [1]],
    "bernoulli": [[0, 1], [0], [1], [0, 1], [0, 1], [1]],
}

ALL = pytest.mark.parametrize("family", FAMILIES)
DISCRETE = pytest.mark.parametrize("family", SIZES)
CONTINUOUS = pytest.mark.parametrize("kind", [DiagonalGaussian, TanhGaussian])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_parameters(seed: int = 0, rows: int = 5) -> Tensor:
    return torch.randn(rows, 6, generator=seeded(seed), dtype=torch.float64)


def mask_of(family: str) -> Tensor:
    """Return one row of a mask that allows ALLOWED."""
    choices = zip(SIZES[family], ALLOWED[family], strict=True)
    return torch.tensor([[a in allowed for size, allowed in choices for a in range(size)]])


def joint_actions(family: str, choices: list[list[int]]) -> Tensor:
    """Return all joint actions of these choices, in the shape of the family."""
    actions = torch.tensor(list(product(*choices)))
    return actions.squeeze(-1) if family == "categorical" else actions


def dimensions(actions: Tensor) -> list[Tensor]:
    return [actions] if actions.ndim == 1 else list(actions.unbind(-1))


def total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


def joint_log_probabilities(distribution: Distribution, family: str) -> Tensor:
    """Return log π of all joint actions, `[B, joint actions]`."""
    everything = joint_actions(family, [list(range(size)) for size in SIZES[family]])
    rows = len(distribution.parameters)
    columns = [distribution.log_prob(a.expand(rows, *a.shape)) for a in everything]
    return torch.stack(columns, -1)

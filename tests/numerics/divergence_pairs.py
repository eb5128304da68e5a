"""Pairs of distributions, and divergences by name, for tests."""

import numpy as np
import torch
from action_families import FAMILIES, joint_log_probabilities, mask_of, seeded
from torch import Tensor

from rlkl import divergences
from rlkl.divergences import estimate, from_probabilities, kl
from rlkl.numerics.distributions import Categorical, Distribution

ORDERED = ("renyi", "alpha")


def random_pair(family: str, rows: int = 4, scale: float = 1.0) -> tuple[Distribution, ...]:
    shape = (2, rows, 6)
    parameters = scale * torch.randn(shape, generator=seeded(3), dtype=torch.float64)
    if family in ("gaussian", "tanh"):
        parameters[..., 3:] *= 0.4
    return tuple(FAMILIES[family](p) for p in parameters)


def masked_pair(family: str) -> tuple[Distribution, ...]:
    return tuple(d.masked(mask_of(family)) for d in random_pair(family))


def joint(distribution: Distribution, family: str) -> np.ndarray:
    """Return the probabilities of all joint actions, `[B, joint actions]`."""
    return joint_log_probabilities(distribution, family).exp().numpy()


def bits(*probabilities: float) -> list[Categorical]:
    return [from_probabilities([p, 1 - p]) for p in probabilities]


def divergence(name: str, p: Distribution, q: Distribution, order: float = 0.5) -> Tensor:
    if name == "reverse_kl":
        return kl(q, p)
    function = getattr(divergences, name)
    return function(p, q, order) if name in ORDERED else function(p, q)


def estimated(
    name: str, p: Distribution, q: Distribution, samples: int, order: float = 0.5, seed: int = 0
) -> divergences.Divergence:
    own_order = order if name in ORDERED else None
    return estimate(name, p, q, samples, seeded(seed), own_order)

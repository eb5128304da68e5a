"""Tests whether two groups of runs differ, and corrects for the number of pairs tested."""

import math
from collections.abc import Sequence

import numpy as np

from rlkl.numerics.statistics import Floats, probability_of_improvement

__all__ = ["holm", "improvement_p_value"]

LARGEST_EXACT = 25
"""Runs of a group in a task beyond which the normal approximation is used."""

FINEST_GRID = 2000
"""Values in [0, 1] that the probability of a task may have over several tasks."""


def improvement_p_value(first: Sequence[Floats], second: Sequence[Floats]) -> float:
    """Return the two-sided p-value of a probability of improvement, by permutation.

    p = share of all ways to exchange runs within each task for which |P - ½| is at least as large
    as observed. If the groups have the same distribution in each task, p ≤ α has a probability of
    at most α. With one task this is the exact Mann-Whitney test, also with ties. With more than
    `LARGEST_EXACT` runs of a group in a task, P is taken as normal, with the variance of these
    permutations.

    Args:
        first: scores of the runs of each task, `[N_k]`.
        second: scores in the same tasks, `[M_k]`.
    """
    pairs = list(zip(first, second, strict=True))
    if max(max(len(x), len(y)) for x, y in pairs) > LARGEST_EXACT:
        return _normal_p_value(pairs)
    # Probabilities of a task are multiples of 1 / 2NM.
    grid = min(math.lcm(*(2 * len(x) * len(y) for x, y in pairs)), FINEST_GRID)
    null, observed = np.ones(1), 0
    for x, y in pairs:
        probabilities, weights = _permutations(x, y)
        null = np.convolve(null, np.bincount(_on_grid(probabilities, grid), weights, grid + 1))
        observed += int(_on_grid(probability_of_improvement([x], [y]), grid))
    distance = np.abs(2 * np.arange(len(null)) - grid * len(pairs))
    return min(1.0, float(null[distance >= abs(2 * observed - grid * len(pairs))].sum()))


def _on_grid(probabilities: Floats, grid: int) -> np.ndarray:
    return np.rint(probabilities * grid).astype(int)


def _permutations(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return each probability that an exchange of runs can give, and its share of all exchanges."""
    ranks = _doubled_ranks(x, y)
    # ways[n, s]: how many choices of n runs have the sum of ranks s.
    ways = np.zeros((len(x) + 1, int(ranks.sum()) + 1))
    ways[0, 0] = 1
    for rank in ranks.tolist():
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    sums = np.flatnonzero(ways[-1])
    smallest = len(x) * (len(x) + 1)
    return (sums - smallest) / (2 * len(x) * len(y)), ways[-1, sums] / ways[-1].sum()


def _doubled_ranks(x: Floats, y: Floats) -> np.ndarray:
    """Return twice the rank of each score among both groups; ties have their mean rank."""
    _, places, counts = np.unique(np.concatenate([x, y]), return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (2 * below + counts + 1)[places]


def _normal_p_value(pairs: Sequence[tuple[Floats, Floats]]) -> float:
    distance = variance = 0.0
    for x, y in pairs:
        ranks = _doubled_ranks(x, y) / 2
        distance += float(probability_of_improvement([x], [y])) - 0.5
        variance += float(np.var(ranks, ddof=1)) / (len(ranks) * len(x) * len(y))
    return math.erfc(abs(distance) / math.sqrt(2 * variance)) if variance else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for their number m by Holm's step-down method.

    In ascending order, p̃₍ᵢ₎ = max over j ≤ i of min(1, (m - j + 1) p₍ⱼ₎) (Holm 1979). If p̃ < α is
    called a difference, the probability of any false one among the m is at most α.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - step) * p_values[index]))
        corrected[index] = largest
    return corrected

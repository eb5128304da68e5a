"""Aggregates scores of few runs over tasks, compares them, and bootstraps intervals.

A *stratum* is the scores of the runs of one task, `[..., N_k]`. A statistic takes a sequence of
strata and returns `[...]`, so it can process many resamples at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Statistic", "bootstrap_interval", "interquartile_mean", "mean", "mean_of_means",
    "median_of_means", "optimality_gap", "performance_profile", "pooled",
    "probability_of_improvement",
]  # fmt: skip

Floats = NDArray[np.floating[Any]]
Statistic = Callable[[Sequence[Floats]], Any]
"""From strata, `[..., N_k]` each, to values `[...]`."""

BLOCK = 2**20
"""Numbers that a bootstrap resamples at once, which bounds its memory."""


def mean(scores: Floats) -> Any:
    """Return the mean of scores `[..., N]` over the last axis."""
    return np.mean(scores, axis=-1)


def interquartile_mean(scores: Floats) -> Any:
    """Return the mean of the middle half of scores `[..., N]`, N ≥ 1, over the last axis.

    IQM = mean of the sorted x₍ₖ₊₁₎ ... x₍N₋ₖ₎, k = ⌊N/4⌋ (Agarwal 2021, section 4.3).
    """
    size = np.shape(scores)[-1]
    return mean(np.sort(scores, axis=-1)[..., size // 4 : size - size // 4])


def pooled(statistic: Callable[[Floats], Any]) -> Statistic:
    """Return a statistic of all strata together, from one over the last axis."""
    return lambda strata: statistic(np.concatenate(list(strata), axis=-1))


def mean_of_means(strata: Sequence[Floats]) -> Any:
    """Return the mean over tasks of each task's mean, which weighs all tasks equally."""
    return np.mean([mean(scores) for scores in strata], axis=0)


def median_of_means(strata: Sequence[Floats]) -> Any:
    """Return the median over tasks of each task's mean."""
    return np.median([mean(scores) for scores in strata], axis=0)


def optimality_gap(strata: Sequence[Floats], optimum: float = 1.0) -> Any:
    """Return how far normalized scores fall short of an optimum γ; lower is better.

    gap = γ - mean over tasks of mean over runs of min(x, γ) (Agarwal 2021, section 4.3).
    """
    return optimum - mean_of_means([np.minimum(scores, optimum) for scores in strata])


def performance_profile(strata: Sequence[Floats], thresholds: Floats) -> Any:
    """Return the share of runs whose score is above each threshold τ `[M]`, `[M, ...]`.

    F(τ) = mean over tasks of mean over runs of 1[x > τ], the run-score distribution (Agarwal 2021,
    section 4.2).
    """
    column = np.reshape(thresholds, (-1, *[1] * np.ndim(strata[0])))
    return mean_of_means([np.asarray(scores > column, float) for scores in strata])


def probability_of_improvement(first: Sequence[Floats], second: Sequence[Floats]) -> Any:
    """Return the probability that a run of the first beats one of the second on a task.

    P = mean over tasks of P(X > Y) + ½ P(X = Y), over all pairs of runs: the Mann-Whitney U over
    its largest value (Agarwal 2021, section 4.3). Strata `[..., N_k]` and `[..., M_k]` are of the
    same tasks in the same order.
    """
    probabilities = []
    for x, y in zip(first, second, strict=True):
        # A loop over the runs of x avoids a table of all pairs for each resample.
        runs = range(np.shape(x)[-1])
        wins = [mean((x[..., i, None] > y) + 0.5 * (x[..., i, None] == y)) for i in runs]
        probabilities.append(np.mean(wins, axis=0))
    return np.mean(probabilities, axis=0)


def bootstrap_interval(
    strata: Sequence[Floats],
    statistic: Statistic,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> tuple[Any, Any]:
    """Return a stratified percentile bootstrap interval of a statistic, lower and upper end.

    The runs of each stratum are resampled with replacement. The interval leaves (1 - confidence)/2
    of the statistic's values below it and above it (Efron 1979; stratified as in Agarwal 2021,
    section 4.1). A stratum of one run never varies.

    Args:
        strata: `[..., N_k]` each. Earlier axes, such as the points of a curve, stay together.
        statistic: see `Statistic`; it may add axes in front.
        generator: for the resamples.
        confidence: between 0 and 1.
        resamples: their number.
    """
    arrays = [np.asarray(scores, float) for scores in strata]
    block = max(1, BLOCK // sum(scores.size for scores in arrays))
    values = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        resampled = [
            scores[..., generator.integers(scores.shape[-1], size=(count, scores.shape[-1]))]
            for scores in arrays
        ]
        values.append(statistic(resampled))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values, axis=-1), (tail, 1 - tail), axis=-1)
    return low, high

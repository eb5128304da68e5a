"""What a handful of scores says: aggregates over tasks, comparisons, and bootstrap intervals.

A *stratum* is the scores of one task, one for each run, along the last axis: `[..., N_k]`. Every
statistic takes a sequence of strata and returns `[...]`, so that many resamples are one operation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Statistic = Callable[[Sequence[Floats]], Any]
"""From strata, `[..., N_k]` each, to values `[...]`."""

BLOCK = 2**20
"""Numbers that are resampled at a time: it bounds the memory of a bootstrap, at no cost in time."""


def mean(scores: Floats) -> Any:
    """Return the mean over the last axis.

    Args:
        scores: `[..., N]`.
    """
    return np.mean(scores, axis=-1)


def interquartile_mean(scores: Floats) -> Any:
    """Return the mean of the middle half, over the last axis.

    IQM = mean of x₍ₖ₊₁₎ ... x₍N₋ₖ₎ in order, k = ⌊N/4⌋ (Agarwal 2021, section 4.3): it bends less
    to outliers than the mean, and has less variance than the median.

    Args:
        scores: `[..., N]`, N at least 1.
    """
    cut = np.shape(scores)[-1] // 4
    ordered = np.sort(scores, axis=-1)
    return np.mean(ordered[..., cut : np.shape(scores)[-1] - cut], axis=-1)


def pooled(statistic: Callable[[Floats], Any]) -> Statistic:
    """Return a statistic of strata that takes all their scores side by side.

    Args:
        statistic: over the last axis, such as `interquartile_mean`.
    """
    return lambda strata: statistic(np.concatenate(list(strata), axis=-1))


def mean_of_means(strata: Sequence[Floats]) -> Any:
    """Return the mean over tasks of each task's mean, so that every task weighs the same."""
    return np.mean([mean(scores) for scores in strata], axis=0)


def median_of_means(strata: Sequence[Floats]) -> Any:
    """Return the median over tasks of each task's mean."""
    return np.median([mean(scores) for scores in strata], axis=0)


def optimality_gap(strata: Sequence[Floats], optimum: float = 1.0) -> Any:
    """Return by how much runs fall short of an optimum, where more than it counts as it.

    gap = γ - mean over tasks of mean over runs of min(x, γ) (Agarwal 2021, section 4.3); less is
    better.

    Args:
        strata: normalised scores, `[..., N_k]` each.
        optimum: γ.
    """
    return optimum - mean_of_means([np.minimum(scores, optimum) for scores in strata])


def performance_profile(strata: Sequence[Floats], thresholds: Floats) -> Any:
    """Return for each threshold the share of runs whose score is above it.

    F(τ) = mean over tasks of mean over runs of 1[x > τ], the run-score distribution (Agarwal 2021,
    section 4.2): its height at τ is the chance that a run does better than τ.

    Args:
        strata: `[..., N_k]` each.
        thresholds: τ, `[M]`.

    Returns:
        `[M, ...]`.
    """
    found = []
    for scores in strata:
        above = np.reshape(thresholds, (-1, *[1] * np.ndim(scores)))
        found.append(mean(np.asarray(scores > above, float)))
    return np.mean(found, axis=0)


def probability_of_improvement(first: Sequence[Floats], second: Sequence[Floats]) -> Any:
    """Return how likely a run of the first does better than one of the second on the same task.

    P = mean over tasks of P(X > Y) + ½ P(X = Y), over all pairs of runs: the Mann-Whitney U over
    its largest value (Agarwal 2021, section 4.3). It says nothing of how much better.

    Args:
        first: X, a stratum `[..., N_k]` for each task.
        second: Y, `[..., M_k]`, for the same tasks in the same order.
    """
    found = []
    for x, y in zip(first, second, strict=True):
        # A loop over the runs of one side needs no table of all pairs for each resample.
        wins = [mean((x[..., i, None] > y) + 0.5 * (x[..., i, None] == y)) for i in _runs(x)]
        found.append(np.mean(wins, axis=0))
    return np.mean(found, axis=0)


def _runs(scores: Floats) -> range:
    return range(np.shape(scores)[-1])


def bootstrap_interval(
    strata: Sequence[Floats],
    statistic: Statistic,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> tuple[Any, Any]:
    """Return a stratified bootstrap interval of a statistic, by percentiles.

    The runs of each stratum are drawn anew from that stratum, with replacement; the interval
    leaves (1 - confidence)/2 of the statistic's values below it and as many above (Efron 1979;
    stratified as in Agarwal 2021, section 4.1). A stratum of one run never varies.

    Args:
        strata: scores that belong together, such as the runs of one task, `[..., N_k]` each. What
            stands before the last axis, such as the points of a curve, stays with its run.
        statistic: see `Statistic`; it may put axes of its own in front.
        generator: source of the resamples.
        confidence: between 0 and 1.
        resamples: how many.

    Returns:
        The lower and the upper end, each `[...]`: a number where the strata are `[N_k]`.
    """
    arrays = [np.asarray(scores, float) for scores in strata]
    at_once = max(1, BLOCK // sum(scores.size for scores in arrays))
    values = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = [
            scores[..., generator.integers(scores.shape[-1], size=(count, scores.shape[-1]))]
            for scores in arrays
        ]
        values.append(statistic(drawn))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values, axis=-1), (tail, 1 - tail), axis=-1)
    return low, high

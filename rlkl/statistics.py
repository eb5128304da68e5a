"""What a handful of scores says: the interquartile mean, and bootstrap intervals of a statistic."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

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


def bootstrap_interval(
    strata: Sequence[Floats],
    statistic: Callable[[Floats], Any],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Return a stratified bootstrap interval of a statistic, by percentiles.

    Each stratum is drawn anew from itself, with replacement; the interval leaves (1 - confidence)/2
    of the statistic's values below it and as many above (Efron 1979; stratified as in Agarwal 2021,
    section 4.1). A stratum of one score never varies.

    Args:
        strata: scores that belong together, such as the runs of one task, `[N_k]` each.
        statistic: from scores of all strata side by side, `[..., Σ N_k]`, to values `[...]`.
        generator: source of the resamples.
        confidence: between 0 and 1.
        resamples: how many.

    Returns:
        The lower and the upper end.
    """
    total = sum(len(scores) for scores in strata)
    at_once = max(1, BLOCK // total)
    values = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = [
            scores[generator.integers(len(scores), size=(count, len(scores)))]
            for scores in map(np.asarray, strata)
        ]
        values.append(statistic(np.concatenate(drawn, axis=-1)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), (tail, 1 - tail))
    return float(low), float(high)

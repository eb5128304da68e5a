"""From rewards and values to advantages and returns."""

import math
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def generalized_advantages(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Bools,
    truncated: Bools,
    gamma: float,
    gae_lambda: float,
) -> Floats:
    """Generalised advantage estimation (Schulman 2016, eq. 16).

    A_t = δ_t + γλ · (1 - end_t) · A_{t+1}, δ_t = r_t + γ · (1 - terminated_t) · V(s'_t) - V(s_t).
    A truncated step bootstraps from its own true next observation s'_t; the trace is cut at the end
    of an episode whatever ended it.

    Args:
        rewards: r, `[T, N]`.
        values: V(s), `[T, N]`.
        next_values: V(s') of the observation each step truly led to, `[T, N]`: where an episode
            was truncated its final observation, never the first one of the next episode.
        terminated: where the episode ended in a terminal state, `[T, N]`.
        truncated: where it was cut off, by a time limit for instance, `[T, N]`.
        gamma: discount factor, 0 to 1.
        gae_lambda: λ, 0 (one-step temporal difference) to 1 (Monte Carlo).

    Returns:
        Advantages, `[T, N]`; add `values` for the returns that the critic learns.
    """
    deltas = rewards + gamma * ~terminated * next_values - values
    decay = gamma * gae_lambda * ~(terminated | truncated)
    return linear_recurrence(decay[::-1], deltas[::-1], np.zeros(deltas.shape[1]))[::-1]


def linear_recurrence(
    decay: NDArray[np.floating[Any]], terms: NDArray[np.floating[Any]], start: Floats
) -> Floats:
    """Return y with y_t = decay_t · y_{t-1} + terms_t, `[T, N]`.

    Args:
        decay: `[T, N]`.
        terms: `[T, N]`.
        start: y before the first row, `[N]`.
    """
    results = np.empty(terms.shape, np.float64)
    if terms.shape[1] < 4:
        # A step of Python's numbers takes 0.2 µs, one of NumPy's rows 2 µs however short they are.
        for column, first in enumerate(start.tolist()):
            pairs = zip(decay[:, column].tolist(), terms[:, column].tolist(), strict=True)
            steps = accumulate(pairs, lambda y, pair: pair[0] * y + pair[1], initial=first)
            results[:, column] = list(steps)[1:]
        return results
    row = start
    for t in range(len(terms)):
        row = results[t] = decay[t] * row + terms[t]
    return results


def standardize(advantages: Tensor) -> Tensor:
    """Return advantages `[B]` with mean 0 and sample standard deviation 1; one alone becomes 0.

    Mean and deviation are those of float64. Numbers that vary by no more than their own rounding
    are constant and become exactly 0, whatever their size: there is nothing in them to learn from.
    """
    exact = advantages.double()
    exact = exact - exact[:1]  # so that a constant has the mean 0 to the last bit
    centered = exact - exact.mean()
    if len(advantages) < 2:  # the standard deviation of one sample is 0/0
        return centered.to(advantages.dtype)
    deviation = centered.std()
    resolution = torch.finfo(advantages.dtype).eps * advantages.abs().max()
    standardized = (centered / (deviation + 1e-8)).to(advantages.dtype)
    # A product, so that NaN stays NaN.
    return standardized * ~(deviation <= resolution)


def explained_variance(values: Tensor, returns: Tensor) -> list[float]:
    """Share of the returns' variance that values explain, 1 - Var[R - V] / Var[R].

    Args:
        values: of K critics, `[K, B]`.
        returns: `[B]`.

    Returns:
        One share for each critic: at most 1; 0 for a constant guess; NaN where the returns do not
        vary.
    """
    returns = returns.double()
    errors = returns - values.double()
    variance, *residuals = torch.cat((returns[None], errors)).var(-1, correction=0).tolist()
    return [1 - residual / variance if variance > 0 else math.nan for residual in residuals]

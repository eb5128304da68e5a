"""Computes advantages from rewards and values."""

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
    The trace is cut at every episode end.

    Args:
        rewards: r, `[T, N]`.
        values: V(s), `[T, N]`.
        next_values: V(s'), `[T, N]`; s' of a truncated episode is its final observation.
        terminated: whether the episode terminated, `[T, N]`.
        truncated: whether the episode was truncated, `[T, N]`.
        gamma: discount factor, 0 to 1.
        gae_lambda: λ, 0 (one-step temporal difference) to 1 (Monte Carlo).

    Returns:
        Advantages, `[T, N]`; plus `values` they are the critic's targets.
    """
    deltas = rewards + gamma * ~terminated * next_values - values
    decay = gamma * gae_lambda * ~(terminated | truncated)
    return linear_recurrence(decay[::-1], deltas[::-1], np.zeros(deltas.shape[1]))[::-1]


def linear_recurrence(
    decay: NDArray[np.floating[Any]], terms: NDArray[np.floating[Any]], start: Floats
) -> Floats:
    """Return y with y_t = decay_t · y_{t-1} + terms_t, `[T, N]`, where `start` is y_0, `[N]`."""
    results = np.empty(terms.shape, np.float64)
    if terms.shape[1] < 4:  # for short rows, Python's numbers are faster than NumPy
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
    """Scale advantages `[B]` to mean 0 and sample standard deviation 1, computed in float64.

    A single advantage, or advantages that differ only by rounding, become exactly 0.
    """
    exact = advantages.double()
    exact = exact - exact[:1]  # gives constants a mean of exactly 0
    centered = exact - exact.mean()
    if len(advantages) < 2:  # the standard deviation of one sample is 0/0
        return centered.to(advantages.dtype)
    deviation = centered.std()
    resolution = torch.finfo(advantages.dtype).eps * advantages.abs().max()
    standardized = (centered / (deviation + 1e-8)).to(advantages.dtype)
    # A product keeps NaN.
    return standardized * ~(deviation <= resolution)


def explained_variance(values: Tensor, returns: Tensor) -> list[float]:
    """Share of the variance of returns `[B]` that K critics explain, from their values `[K, B]`.

    1 - Var[R - V] / Var[R]: at most 1, 0 for a constant V, NaN for constant returns.
    """
    returns = returns.double()
    errors = returns - values.double()
    variance, *residuals = torch.cat((returns[None], errors)).var(-1, correction=0).tolist()
    return [1 - residual / variance if variance > 0 else math.nan for residual in residuals]

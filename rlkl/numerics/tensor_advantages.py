"""Compute advantages on a device; the same numbers as `advantages`."""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation in float64; the arguments are those of `advantages`."""
    # A bool times a Python number would be float32.
    deltas = rewards + gamma * (~terminated).double() * next_values - values
    decay = gamma * gae_lambda * (~(terminated | truncated)).double()
    start = torch.zeros_like(deltas[0])
    return linear_recurrence(decay.flip(0), deltas.flip(0), start).flip(0)


def linear_recurrence(decay: Tensor, terms: Tensor, start: Tensor) -> Tensor:
    """Return y with y_t = decay_t · y_{t-1} + terms_t, `[T, N]`, where `start` is y_0, `[N]`."""
    rows = []
    for t in range(len(terms)):
        start = decay[t] * start + terms[t]
        rows.append(start)
    return torch.stack(rows)

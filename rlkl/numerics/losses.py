"""What a policy-optimizer climbs and a critic descends, as functions of one batch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating[Any]]


def policy_gradient(log_prob: Tensor, advantages: Tensor) -> Tensor:
    """Objective whose gradient at π_old is the policy gradient (Williams 1992).

    L = E[log π_θ(a|s) · A].

    Args:
        log_prob: log π_θ(a|s) of the sampled actions, `[B]`.
        advantages: `[B]`.

    Returns:
        The objective to maximise, a scalar.
    """
    return (log_prob * advantages).mean()


def surrogate(ratio: Tensor, advantages: Tensor) -> Tensor:
    """Importance-weighted objective of conservative policy iteration (TRPO, eq. 14).

    L = E[r · A] with r = π_θ(a|s) / π_old(a|s).

    Args:
        ratio: r, `[B]`.
        advantages: `[B]`.

    Returns:
        The objective to maximise, a scalar.
    """
    return (ratio * advantages).mean()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, lowest: float, highest: float) -> Tensor:
    """Pessimistic surrogate of PPO (Schulman 2017, eq. 7), with a bound for each side.

    L = E[min(r · A, clip(r, lowest, highest) · A)], in the paper 1 - ε and 1 + ε. The clip takes
    the gradient away where a bound is passed in the direction that would pay; it does not keep r
    inside.

    Args:
        ratio: r = π_θ(a|s) / π_old(a|s), `[B]`.
        advantages: `[B]`.
        lowest: below it a ratio has no gradient where the advantage is negative.
        highest: above it a ratio has no gradient where the advantage is positive.

    Returns:
        The objective to maximise, a scalar.
    """
    clipped = _clipped(ratio, lowest, highest)
    return torch.minimum(ratio * advantages, clipped * advantages).mean()


def _clipped(numbers: Tensor, lowest: float, highest: float) -> Tensor:
    """Return numbers within bounds, with a gradient of 1 within and on them, of 0 beyond.

    On a bound the gradient of `Tensor.clamp` differs between versions of torch.
    """
    beyond = (numbers < lowest) | (numbers > highest)
    return torch.where(beyond, numbers.detach().clamp(lowest, highest), numbers)


def clipped_surrogate_slopes(
    ratio: Array, advantages: Array, lowest: float, highest: float
) -> tuple[float, Array]:
    """Return `clipped_surrogate` and how it changes with log r.

    The mean's slope is r · A / B where the unclipped product is the smaller, else 0.

    Args:
        ratio: r, `[B]`.
        advantages: `[B]`.
        lowest: see `clipped_surrogate`.
        highest: see `clipped_surrogate`.

    Returns:
        The objective, and its slopes `[B]`.
    """
    product = ratio * advantages
    clipped = np.minimum(np.maximum(ratio, lowest), highest) * advantages
    slopes = product * (product <= clipped)  # NaN stays NaN
    slopes /= len(ratio)
    return float(np.add.reduce(np.minimum(product, clipped))) / len(ratio), slopes


def kl_penalized_surrogate(
    ratio: Tensor, advantages: Tensor, kl: Tensor, kl_coefficient: float
) -> Tensor:
    """Surrogate with a penalty on the divergence from π_old (Schulman 2017, eq. 8).

    L = E[r · A - β · KL(π_old(·|s) ‖ π_θ(·|s))].

    Args:
        ratio: r = π_θ(a|s) / π_old(a|s), `[B]`.
        advantages: `[B]`.
        kl: KL(π_old ‖ π_θ) of each state in nats, `[B]`.
        kl_coefficient: β; 0 is no penalty, were KL infinite.

    Returns:
        The objective to maximise, a scalar.
    """
    product = ratio * advantages
    return (product - kl_coefficient * kl if kl_coefficient else product).mean()


def squared_value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Half the mean squared error, L = ½ E[(V - R)²], of values `[B]` to returns `[B]`."""
    return 0.5 * (values - returns).square().mean()


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, value_clip: float
) -> Tensor:
    """Pessimistic value loss that keeps V near its old self.

    L = ½ E[max((V - R)², (V_old + clip(V - V_old, -c, c) - R)²)], as in OpenAI's baselines
    (Engstrom 2020, "Implementation Matters", section 3).

    Args:
        values: V, `[B]`.
        old_values: V_old, `[B]`.
        returns: R, `[B]`.
        value_clip: c, in the units of the (scaled) return.

    Returns:
        The loss to minimise, a scalar.
    """
    change = values - old_values
    # Within the clip V itself: V_old + (V - V_old) rounds to another number.
    bound = old_values + value_clip * change.detach().sign()
    clipped = torch.where(change.abs() > value_clip, bound, values)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square()).mean()


def value_loss_slopes(
    values: Array, old_values: Array, returns: Array, value_clip: float | None
) -> tuple[float, Array]:
    """Return `clipped_value_loss`, or `squared_value_loss`, and how it changes with the values.

    The mean's slope is (V - R) / B, but 0 where the clipped error is the larger.

    Args:
        values: V, `[B]`.
        old_values: V_old, `[B]`.
        returns: R, `[B]`.
        value_clip: c; None clips nothing.

    Returns:
        The loss, and its slopes `[B]`.
    """
    error = values - returns
    squared = error * error
    slopes = error / len(error)
    if value_clip is not None:
        change = values - old_values
        clipped = old_values + np.clip(change, -value_clip, value_clip)
        # Within the clip V itself: V_old + (V - V_old) rounds to another number.
        clipped_squared = np.square(
            np.where(np.abs(change) <= value_clip, values, clipped) - returns
        )
        slopes = np.where(clipped_squared > squared, 0, slopes)
        squared = np.maximum(squared, clipped_squared)
    return 0.5 * float(np.add.reduce(squared)) / len(error), slopes

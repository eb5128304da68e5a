"""Surrogates and losses of one batch, each with its derivative, for NumPy arrays and torch tensors.

Stated once, so that every engine differentiates the same thing. `xp` is `numpy` or `torch`.
"""

from typing import Any

Array = Any
"""A NumPy array or a torch tensor."""


def policy_gradient(log_prob: Array, advantages: Array) -> tuple[Any, Array]:
    """Return L = E[log π_θ(a|s) · A], whose gradient at π_old is the policy gradient.

    (Williams 1992; Sutton 2000, theorem 1.)

    Args:
        log_prob: log π_θ(a|s) of the sampled actions, `[B]`.
        advantages: `[B]`.

    Returns:
        The objective to maximise, and ∂L/∂log π_θ = A / B, `[B]`.
    """
    derivative = advantages / len(advantages)
    return log_prob @ derivative, derivative


def surrogate(ratio: Array, advantages: Array) -> tuple[Any, Array]:
    """Return L = E[r · A], the objective of conservative policy iteration (TRPO, eq. 14).

    Args:
        ratio: r = π_θ(a|s) / π_old(a|s), `[B]`.
        advantages: `[B]`.

    Returns:
        The objective to maximise, and ∂L/∂log π_θ = r · A / B, `[B]`.
    """
    derivative = ratio * advantages / len(advantages)
    return derivative.sum(), derivative


def clipped_surrogate(
    xp: Any, ratio: Array, advantages: Array, lowest: float, highest: float
) -> tuple[Any, Array]:
    """Return L = E[min(r · A, clip(r, lowest, highest) · A)] (Schulman 2017, eq. 7).

    In the paper the bounds are 1 - ε and 1 + ε. The clip removes the gradient where a bound is
    passed in the direction that pays; it does not keep r inside.

    Args:
        xp: `numpy` or `torch`.
        ratio: r = π_θ(a|s) / π_old(a|s), `[B]`.
        advantages: `[B]`.
        lowest: below it a ratio has no gradient where the advantage is negative.
        highest: above it a ratio has no gradient where the advantage is positive.

    Returns:
        The objective to maximise, and ∂L/∂log π_θ, `[B]`: r · A / B where the unclipped product is
        the smaller one, else 0.
    """
    product = ratio * advantages
    clipped = ratio.clip(lowest, highest) * advantages
    derivative = product * (product <= clipped) / len(advantages)  # NaN stays NaN
    return xp.minimum(product, clipped).mean(), derivative


def value_loss(
    xp: Any, values: Array, old_values: Array, returns: Array, value_clip: float | None = None
) -> tuple[Any, Array]:
    """Return the critic's loss, L = ½ E[(V - R)²], or PPO's clipped variant.

    With a clip c, L = ½ E[max((V - R)², (V_old + clip(V - V_old, -c, c) - R)²)], as in OpenAI's
    baselines (Engstrom 2020, "Implementation Matters", section 3).

    Args:
        xp: `numpy` or `torch`.
        values: V, `[B]`.
        old_values: V_old, `[B]`.
        returns: R, `[B]`.
        value_clip: c, in the units of the (scaled) return; None clips nothing.

    Returns:
        The loss to minimise, and ∂L/∂V, `[B]`: (V - R) / B, but 0 where the clipped error is the
        larger one.
    """
    error = values - returns
    squared = error * error
    derivative = error / len(error)
    if value_clip is not None:
        change = values - old_values
        # Within the clip V itself: V_old + (V - V_old) rounds to another number.
        near = xp.where(
            abs(change) <= value_clip, values, old_values + change.clip(-value_clip, value_clip)
        )
        clipped = xp.square(near - returns)
        derivative = xp.where(clipped > squared, 0, derivative)
        squared = xp.maximum(squared, clipped)
    return 0.5 * squared.mean(), derivative

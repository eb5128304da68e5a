"""Surrogates and losses of one batch, each with its derivative, for NumPy arrays and torch tensors.

r = π_θ(a|s) / π_old(a|s) is the ratio and A the advantage, `[B]` each; `xp` is `numpy` or `torch`.
"""

from typing import Any

Array = Any
"""A NumPy array or a torch tensor."""


def policy_gradient(log_prob: Array, advantages: Array) -> tuple[Any, Array]:
    """Return L = E[log π_θ(a|s) · A], to maximise, and ∂L/∂log π_θ = A / B, `[B]`.

    Its gradient at π_old is the policy gradient (Williams 1992; Sutton 2000, theorem 1).
    """
    derivative = advantages / len(advantages)
    return log_prob @ derivative, derivative


def surrogate(ratio: Array, advantages: Array) -> tuple[Any, Array]:
    """Return L = E[r · A], to maximise, and ∂L/∂log π_θ = r · A / B, `[B]`.

    The objective of conservative policy iteration (TRPO, eq. 14).
    """
    derivative = ratio * advantages / len(advantages)
    return derivative.sum(), derivative


def clipped_surrogate(
    xp: Any,
    ratio: Array,
    advantages: Array,
    lowest: float,
    highest: float,
    dual_clip: float | None = None,
) -> tuple[Any, Array]:
    """Return L = E[min(r · A, clip(r, lowest, highest) · A)], to maximise, and ∂L/∂log π_θ, `[B]`.

    (Schulman 2017, eq. 7, with bounds 1 - ε and 1 + ε.) The derivative is r · A / B where the
    unclipped product is the smaller one, else 0: a ratio below `lowest` has no gradient where A is
    negative, and one above `highest` none where A is positive. The clip does not keep r inside.

    With a dual clip c > 1, the minimum is at least c · A where A is negative, and a ratio above c
    has no gradient there (Ye 2020, arXiv:1912.09729).
    """
    product = ratio * advantages
    clipped = ratio.clip(lowest, highest) * advantages
    derivative = product * (product <= clipped) / len(advantages)  # NaN stays NaN
    lower = xp.minimum(product, clipped)
    if dual_clip is not None:
        floor = dual_clip * advantages
        is_floor = (advantages < 0) & (lower < floor)
        lower = xp.where(is_floor, floor, lower)
        derivative = xp.where(is_floor, 0, derivative)
    return lower.mean(), derivative


def value_loss(
    xp: Any,
    values: Array,
    old_values: Array,
    returns: Array,
    value_clip: float | None = None,
    huber_delta: float | None = None,
) -> tuple[Any, Array]:
    """Return L = ½ E[(V - R)²], to minimise, and ∂L/∂V = (V - R) / B, for values and returns `[B]`.

    With δ = `huber_delta`, an error |e| > δ costs δ · (|e| - ½ δ) instead of ½ e², and its
    derivative is ±δ / B (Huber 1964).

    With a clip c, in the units of the (scaled) return, it is PPO's clipped variant
    L = ½ E[max((V - R)², (V_old + clip(V - V_old, -c, c) - R)²)], as in OpenAI's baselines
    (Engstrom 2020, "Implementation Matters", section 3). The derivative is 0 where the clipped
    error is the larger one.
    """
    error = values - returns
    squared = _squared(error, huber_delta)
    if huber_delta is not None:
        error = error.clip(-huber_delta, huber_delta)
    derivative = error / len(error)
    if value_clip is not None:
        change = values - old_values
        # Within the clip V itself: V_old + (V - V_old) rounds to another number.
        near = xp.where(
            abs(change) <= value_clip, values, old_values + change.clip(-value_clip, value_clip)
        )
        clipped = _squared(near - returns, huber_delta)
        derivative = xp.where(clipped > squared, 0, derivative)
        squared = xp.maximum(squared, clipped)
    return 0.5 * squared.mean(), derivative


def _squared(error: Array, huber_delta: float | None) -> Array:
    """Return e², or twice Huber's loss."""
    if huber_delta is None:
        return error * error
    size = abs(error)
    quadratic = size.clip(0, huber_delta)
    return quadratic * (2 * size - quadratic)

"""Second-order methods: Fisher-vector products, conjugate gradient, backtracking line search."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = TypeVar("Vector", Tensor, NDArray[np.floating[Any]])


def flat_gradient(
    scalar: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False, keep: bool = False
) -> Tensor:
    """Return ∂scalar/∂parameters as one vector `[n]`.

    With `create_graph` the gradient can itself be differentiated; `keep` the graph to use it again.
    """
    gradients = torch.autograd.grad(
        scalar, parameters, create_graph=create_graph, retain_graph=create_graph or keep
    )
    return torch.cat([g.reshape(-1) for g in gradients])


def fisher_vector_product(
    mean_kl: Tensor, parameters: Sequence[Tensor], damping: float
) -> Callable[[Tensor], Tensor]:
    """Return the function v ↦ (F + damping · I) v with the Fisher matrix F (TRPO, appendix C).

    F v = ∇_θ (∇_θ KL · v) at θ = θ_old, where the gradient of the KL is 0 and its Hessian is F. The
    matrix is never stored.

    Args:
        mean_kl: KL(π_old ‖ π_θ) averaged over states, computed at θ = θ_old with a graph.
        parameters: θ, with n numbers in total.
        damping: added to the diagonal of F.
    """
    gradient = flat_gradient(mean_kl, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        return flat_gradient(gradient @ vector, parameters, keep=True).add_(vector, alpha=damping)

    return product


def conjugate_gradient(
    product: Callable[[Vector], Vector], b: Vector, iterations: int, residual_tolerance: float
) -> tuple[Vector, Vector]:
    """Solve F x = b for a symmetric positive definite F, from x = 0 (Hestenes & Stiefel 1952).

    Args:
        product: v ↦ F v, of tensors or of arrays, which are faster for small n.
        b: right-hand side, `[n]`.
        iterations: maximum number of products.
        residual_tolerance: stop when ‖b - F x‖² is at most this fraction of ‖b‖².

    Returns:
        x `[n]` and the residual b - F x `[n]`.
    """
    x, residual, direction = 0 * b, 1 * b, b
    squared = float(residual @ residual)
    tolerance = residual_tolerance * squared
    for _ in range(iterations):
        if squared <= tolerance:
            break
        f_direction = product(direction)
        curvature = float(direction @ f_direction)
        if curvature == 0:  # F is singular: a step in this direction has no bound
            break
        step = squared / curvature
        x += step * direction
        residual -= step * f_direction
        previous, squared = squared, float(residual @ residual)
        direction = residual + (squared / previous) * direction
    return x, residual


def backtracking_line_search(
    evaluate: Callable[[float], tuple[float, float]],
    max_kl: float,
    line_search_decay: float,
    max_backtracks: int,
) -> tuple[float, int]:
    """Find the first acceptable step fraction among 1, decay, decay², ... (TRPO, appendix C).

    A fraction is acceptable if its KL is at most `max_kl`, the surrogate improves, and both are
    finite. The policy stays where it was evaluated last; after a failed search the caller restores
    θ.

    Args:
        evaluate: moves the policy to a fraction of the full step, and returns the improvement of
            the surrogate and KL(π_old ‖ π_θ) there.
        max_kl: in nats.
        line_search_decay: factor between candidates, between 0 and 1.
        max_backtracks: number of candidates after the full step.

    Returns:
        The accepted fraction, 0 if there is none, and the number of rejected candidates.
    """
    for backtracks in range(max_backtracks + 1):
        fraction = line_search_decay**backtracks
        improvement, kl = evaluate(fraction)
        if kl <= max_kl and 0 < improvement < float("inf"):
            return fraction, backtracks
    return 0.0, max_backtracks + 1

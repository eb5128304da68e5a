"""Second-order machinery: Fisher-vector products, conjugate gradient, backtracking line search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

    Args:
        scalar: what to differentiate.
        parameters: with respect to what, `n` numbers in all.
        create_graph: whether the gradient will itself be differentiated.
        keep: whether the graph will be used again.
    """
    gradients = torch.autograd.grad(
        scalar, parameters, create_graph=create_graph, retain_graph=create_graph or keep
    )
    return torch.cat([g.reshape(-1) for g in gradients])


def fisher_vector_product(
    mean_kl: Tensor, parameters: Sequence[Tensor], damping: float
) -> Callable[[Tensor], Tensor]:
    """Products with the Fisher matrix, which is never formed (TRPO, appendix C).

    F v = ∇_θ (∇_θ KL · v) at θ = θ_old, plus damping · v. At θ_old the gradient of the KL is 0 and
    its Hessian is the Fisher matrix.

    Args:
        mean_kl: KL(π_old ‖ π_θ) averaged over states, computed at θ = θ_old with a graph.
        parameters: θ, `n` numbers in all.
        damping: what is added to the diagonal of F.

    Returns:
        The function v `[n]` to (F + damping · I) v `[n]`.
    """
    gradient = flat_gradient(mean_kl, parameters, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        return flat_gradient(gradient @ vector, parameters, keep=True).add_(vector, alpha=damping)

    return product


def conjugate_gradient(
    product: Callable[[Vector], Vector], b: Vector, iterations: int, residual_tolerance: float
) -> tuple[Vector, Vector]:
    """Solve F x = b for a symmetric positive definite F given by its products.

    Hestenes & Stiefel 1952; starts from x = 0.

    Args:
        product: v to F v, of tensors or, which takes less time where n is small, of arrays.
        b: right-hand side, `[n]`.
        iterations: at most this many products.
        residual_tolerance: stop once ‖b - F x‖² is no larger than this share of ‖b‖², so that the
            size of b does not matter.

    Returns:
        x `[n]`, and the residual b - F x `[n]`, so that F x need not be computed once more.
    """
    x, residual, direction = 0 * b, 1 * b, b
    squared = float(residual @ residual)
    enough = residual_tolerance * squared
    for _ in range(iterations):
        if squared <= enough:
            break
        image = product(direction)
        curvature = float(direction @ image)
        if curvature == 0:  # F is singular, and nothing bounds a step this way
            break
        step = squared / curvature
        x += step * direction
        residual -= step * image
        previous, squared = squared, float(residual @ residual)
        direction = residual + (squared / previous) * direction
    return x, residual


@dataclass(frozen=True)
class LineSearch:
    """What a line search found.

    Attributes:
        accepted: whether some step was.
        step_fraction: of the full step; 0 if none was accepted.
        backtracks: how many candidates were refused.
        improvement: of the surrogate at the accepted step; 0 if none was accepted.
    """

    accepted: bool
    step_fraction: float
    backtracks: int
    improvement: float


def backtracking_line_search(
    evaluate: Callable[[float], tuple[float, float]],
    max_kl: float,
    line_search_decay: float,
    max_backtracks: int,
) -> LineSearch:
    """Find the first of the fractions 1, decay, decay², ... that may be taken (TRPO, appendix C).

    A candidate is accepted if its KL is at most `max_kl`, the surrogate improves, and both are
    finite (a comparison with NaN is false, so NaN is refused).

    Args:
        evaluate: moves the policy to a fraction of the full step and returns the improvement of the
            surrogate and KL(π_old ‖ π_θ) there. After a failed search the caller restores θ.
        max_kl: in nats.
        line_search_decay: factor between candidates, between 0 and 1.
        max_backtracks: how many candidates follow the full step.

    Returns:
        What was found; the policy is left where it was evaluated last.
    """
    for backtracks in range(max_backtracks + 1):
        fraction = line_search_decay**backtracks
        improvement, kl = evaluate(fraction)
        if kl <= max_kl and 0 < improvement < float("inf"):
            return LineSearch(True, fraction, backtracks, improvement)
    return LineSearch(False, 0.0, max_backtracks + 1, 0.0)

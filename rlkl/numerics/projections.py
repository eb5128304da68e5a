"""Projections of action distributions into a trust region around old ones (Otto 2021).

Distributions are rows of flat parameters, `[B, P]`, as in `numerics.distributions`. A row beyond a
bound moves on a path to its old row until its distance from it is the bound; the others stay as
they are. Gradients pass through.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkl.numerics.distributions import Distribution
from rlkl.numerics.divergence_formulas import sum_last

POWERS = {"kl": -2, "wasserstein": 1, "frobenius": 2}
"""The power of σ in which the path of standard deviations is straight, by metric."""

MAX_ITERATIONS = 100
TOLERANCE = 1e-10
"""Of the distance, relative to the bound."""


class Part(NamedTuple):
    """A trust region of some of the parameters.

    Attributes:
        distance: maps new and old rows to their distance, `[B]`.
        blend: maps new and old rows and t, `[B, 1]`, to rows with these parameters on the path
            from the old ones at t = 0 to the new ones at t = 1, and the others new.
        bound: of the distance.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    blend: Callable[[Tensor, Tensor, Tensor], Tensor]
    bound: float


class Projection:
    """Projects rows into all parts of a trust region, one after another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def __call__(self, new: Tensor, old: Tensor, scale: float = 1.0) -> Tensor:
        """Return the projected rows, `[B, P]`; each bound is multiplied by `scale`."""
        for part in self.parts:
            new = _project(part, new, old, scale * part.bound)
        return new

    def distance(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the sum of the parts' distances, `[B]`."""
        return torch.stack([part.distance(new, old) for part in self.parts]).sum(0)

    def excess(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the largest distance of a part as a multiple of its bound, `[B]`."""
        return torch.stack([part.distance(new, old) / part.bound for part in self.parts]).amax(0)


def discrete_projection(family: Callable[[Tensor], Distribution], bound: float) -> Projection:
    """Return the projection to KL(new ‖ old) ≤ bound for distributions that logits define.

    The closest distribution, by KL(projected ‖ new), has the logits t · new + (1 - t) · old: the
    normalized product of powers of both. Infinite logits are those of a mask and stay. The bound,
    in nats, is for the joint distribution of all action dimensions.
    """

    def distance(new: Tensor, old: Tensor) -> Tensor:
        return family(new).kl(family(old))

    def blend(new: Tensor, old: Tensor, t: Tensor) -> Tensor:
        masked = old.isinf()
        difference = new.masked_fill(masked, 0) - old.masked_fill(masked, 0)
        return old + t * difference

    return Projection([Part(distance, blend, bound)])


def gaussian_projection(metric: str, mean_bound: float, covariance_bound: float) -> Projection:
    """Return the projection of diagonal Gaussians, with a bound each for means and covariances.

    With r = σ / σ_old, and sums over the action dimensions, the distances are

    - `kl`: ½ Σ ((μ - μ_old) / σ_old)² and ½ Σ (r² - 1 - log r²), whose sum is KL(new ‖ old);
    - `wasserstein`: Σ ((μ - μ_old) / σ_old)² and Σ (r - 1)², whose sum is the squared
      Wasserstein-2 distance in units of σ_old;
    - `frobenius`: Σ ((μ - μ_old) / σ_old)² and Σ (σ² - σ_old²)².

    The projected means and covariances are the closest ones within the bounds by the same
    distances, also in units of σ_old; with `kl` the covariance is that closest by KL(projected ‖
    new). The paths are straight in μ, and in σ⁻² for `kl`, σ for
    `wasserstein`, σ² for `frobenius`.
    """
    power, weight = POWERS[metric], 0.5 if metric == "kl" else 1.0

    def of_means(new: Tensor, old: Tensor) -> Tensor:
        (mean, _), (old_mean, old_log_std) = new.chunk(2, -1), old.chunk(2, -1)
        return weight * sum_last(((mean - old_mean) * (-old_log_std).exp()).square())

    def blend_means(new: Tensor, old: Tensor, t: Tensor) -> Tensor:
        (mean, log_std), (old_mean, _) = new.chunk(2, -1), old.chunk(2, -1)
        return torch.cat((old_mean + t * (mean - old_mean), log_std), -1)

    def of_covariances(new: Tensor, old: Tensor) -> Tensor:
        (_, log_std), (_, old_log_std) = new.chunk(2, -1), old.chunk(2, -1)
        delta = log_std - old_log_std
        if metric == "kl":
            return 0.5 * sum_last((2 * delta).expm1() - 2 * delta)
        change = (power * delta).expm1()
        return sum_last((change if power == 1 else change * (2 * old_log_std).exp()).square())

    def blend_covariances(new: Tensor, old: Tensor, t: Tensor) -> Tensor:
        (mean, log_std), (_, old_log_std) = new.chunk(2, -1), old.chunk(2, -1)
        change = (t * (power * (log_std - old_log_std)).expm1()).log1p() / power
        return torch.cat((mean, old_log_std + change), -1)

    return Projection(
        [
            Part(of_means, blend_means, mean_bound),
            Part(of_covariances, blend_covariances, covariance_bound),
        ]
    )


def _project(part: Part, new: Tensor, old: Tensor, bound: float) -> Tensor:
    """Return the rows projected into one part.

    t solves distance(new, t) = bound, so its derivatives are those of an implicit function:
    dt/dnew = -(∂distance/∂new) / (∂distance/∂t).
    """
    distances = part.distance(new.detach(), old)
    rows = (distances > bound).nonzero().squeeze(-1)
    if not len(rows):
        return new
    beyond, old = new[rows], old[rows]

    def distance(new: Tensor, t: Tensor) -> Tensor:
        return part.distance(part.blend(new, old, t.unsqueeze(-1)), old)

    start, fixed = (bound / distances[rows]).sqrt(), beyond.detach()
    t, slope = _solve(lambda t: distance(fixed, t), bound, start)
    implicit = distance(beyond, t) / slope
    t = t - (implicit - implicit.detach())
    return new.index_put((rows,), part.blend(beyond, old, t.unsqueeze(-1)))


def _solve(
    distance: Callable[[Tensor], Tensor], bound: float, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Return t of (0, 1) with distance(t) = bound, and the distance's derivative, `[B]` each.

    The distance grows from 0 at t = 0 to above the bound at t = 1, at first as t². So these are
    Newton's steps on its square root, and bisection where a step leaves the bracket.
    """
    t, lower, upper = start, torch.zeros_like(start), torch.ones_like(start)
    slope = torch.ones_like(start)
    for _ in range(MAX_ITERATIONS):
        with torch.enable_grad():
            at = t.detach().requires_grad_()
            distances = distance(at)
            (slope,) = torch.autograd.grad(distances.sum(), at)
        value = distances.detach()
        is_done = (value - bound).abs() <= TOLERANCE * bound
        if is_done.all():
            break
        is_within = value <= bound
        lower, upper = torch.where(is_within, t, lower), torch.where(is_within, upper, t)
        step = t - 2 * (value - (bound * value).sqrt()) / slope
        step = torch.where((step > lower) & (step < upper), step, (lower + upper) / 2)
        t = torch.where(is_done, t, step)
    return t, slope

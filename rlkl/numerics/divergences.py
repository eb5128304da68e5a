"""Exact divergences between two action distributions, one value for each state, `[B]`.

p and q are `[B]` distributions of one family and shape; anything else is a ValueError.
docs/divergences.md has the conventions and the closed forms of each family.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlkl.numerics import divergence_formulas as formulas
from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
)

__all__ = [
    "JOINT_LIMIT", "NoClosedFormError", "alpha", "cross_entropy", "entropy",
    "from_probabilities", "jeffreys", "jensen_shannon", "jensen_shannon_distance", "kl",
    "renyi", "total_variation",
]  # fmt: skip

JOINT_LIMIT = 4096
"""Most joint actions over which Jensen-Shannon and total variation of independent choices are
summed (12 bits, or six choices among four)."""

ORDERED = ("renyi", "alpha")
"""Divergences that have an order."""

DISCRETE = (Categorical, MultiCategorical, Bernoulli)


class NoClosedFormError(ValueError):
    """There is no closed form for these distributions; the message names the estimator."""


def from_probabilities(
    probabilities: Tensor | Sequence[float] | Sequence[Sequence[float]],
) -> Categorical:
    """Return the categorical distributions with these probabilities, which may be 0.

    Args:
        probabilities: `[B, A]`, or `[A]` for one state. Lists become float64. Rows are normalized.

    Raises:
        ValueError: if an entry is negative or NaN, or a row does not sum to 1 within 1e-5.
    """
    if not isinstance(probabilities, Tensor):
        probabilities = torch.tensor(probabilities, dtype=torch.float64)
    if not probabilities.is_floating_point() or probabilities.ndim not in (1, 2):
        raise ValueError(
            f"probabilities are {probabilities.dtype} of shape {list(probabilities.shape)}: "
            "expected floating-point numbers [B, A], or [A] for one state"
        )
    rows = probabilities if probabilities.ndim == 2 else probabilities.unsqueeze(0)
    wrong = ~(rows >= 0).all(-1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} of the probabilities has the entry {float(rows[row].min()):g}: "
            "expected at least 0"
        )
    sums = rows.sum(-1)
    wrong = ~((sums - 1).abs() <= 1e-5)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} of the probabilities sums to {float(sums[row]):g}: expected 1 "
            "(divide each row by its sum)"
        )
    # The logarithm has no gradient at 0, so 1 replaces 0 before it.
    possible = rows > 0
    return Categorical(torch.where(possible, torch.where(possible, rows, 1.0).log(), -math.inf))


def kl(p: Distribution, q: Distribution) -> Tensor:
    """Kullback-Leibler divergence KL(p ‖ q) = E_p[log p - log q] in nats.

    It is +inf where q gives probability 0 to an action that p can take. For squashed Gaussians it
    is computed before tanh, which does not change it.
    """
    check_pair(p, q)
    return p.kl(q)


def jeffreys(p: Distribution, q: Distribution) -> Tensor:
    """Symmetric divergence KL(p ‖ q) + KL(q ‖ p) in nats, not halved (Jeffreys 1946)."""
    return kl(p, q) + kl(q, p)


def jensen_shannon(p: Distribution, q: Distribution) -> Tensor:
    """Jensen-Shannon divergence ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q) (Lin 1991, eq. 3.4).

    From 0 to ln 2 nats.

    Raises:
        NoClosedFormError: for Gaussians, and for more than `JOINT_LIMIT` joint actions.
    """
    check_pair(p, q)
    log_p, log_q = (_joint_log_probabilities(d, "jensen_shannon") for d in (p, q))
    return formulas.categorical_jensen_shannon(log_p, log_q)


def jensen_shannon_distance(p: Distribution, q: Distribution) -> Tensor:
    """Square root of the Jensen-Shannon divergence, a metric (Endres & Schindelin 2003).

    From 0 to √ln 2. It has no gradient where p = q, as |x| has none at 0.

    Raises:
        NoClosedFormError: where `jensen_shannon` has none.
    """
    return jensen_shannon(p, q).sqrt()


def renyi(p: Distribution, q: Distribution, order: float) -> Tensor:
    """Rényi divergence D_α(p ‖ q) = 1/(α-1) · log E_q[(p/q)^α] (Rényi 1961; van Erven 2014, eq. 1).

    In nats, +inf where the expectation does not exist. It grows with α. α = ½ is twice the
    Bhattacharyya distance -log ∫√(pq), and α = 1 is KL(p ‖ q).

    Raises:
        NoClosedFormError: for a family that rlkl does not define.
        ValueError: if the order is not above 0 and finite.
    """
    check_order(order, above=0)
    return _renyi(p, q, order, 1 - order)


def _renyi(p: Distribution, q: Distribution, order: float, rest: float) -> Tensor:
    """Return D_α given α and 1 - α, which near 0 or 1 cannot be computed from each other."""
    if rest == 0:
        return kl(p, q)
    check_pair(p, q)
    if isinstance(p, DiagonalGaussian) and isinstance(q, DiagonalGaussian):
        if order == 1:
            return kl(p, q)
        return formulas.diagonal_gaussian_renyi(p.mean, p.log_std, q.mean, q.log_std, order)
    if isinstance(p, DISCRETE) and isinstance(q, DISCRETE):
        found = formulas.categorical_renyi(p.log_probabilities, q.log_probabilities, order, rest)
        return found if isinstance(p, Categorical) else found.sum(-1)
    raise _no_closed_form("renyi", p)


def alpha(p: Distribution, q: Distribution, order: float) -> Tensor:
    """Alpha divergence (1 - ∫ p^α q^(1-α)) / (α (1-α)), as in Minka 2005, "Divergence measures".

    Amari's family in the parametrisation of Zhu & Rohwer 1995; Cressie & Read's power divergence
    with λ = α - 1. α = 1 is KL(p ‖ q) and α = 0 KL(q ‖ p), as limits; ½ is 2 ∫(√p - √q)²; 2 is
    ½ χ² = ½ ∫(p - q)²/q. D_α(p ‖ q) = D_(1-α)(q ‖ p). It is +inf where the integral does not exist.

    Raises:
        NoClosedFormError: for a family that rlkl does not define.
        ValueError: if the order is not finite.
    """
    check_order(order, above=-math.inf)
    rest = 1 - order
    if order < 0.5:
        p, q, order, rest = q, p, rest, order
    if rest == 0:
        return kl(p, q)
    # From Rényi's, which is accurate near p = q and additive over independent dimensions.
    return torch.expm1(-rest * _renyi(p, q, order, rest)) / (-order * rest)


def total_variation(p: Distribution, q: Distribution) -> Tensor:
    """Total variation distance ½ ∫|p - q|, from 0 to 1.

    Raises:
        NoClosedFormError: for Gaussians of more than one dimension whose standard deviations
            differ, and for more than `JOINT_LIMIT` joint actions.
    """
    check_pair(p, q)
    if isinstance(p, DiagonalGaussian) and isinstance(q, DiagonalGaussian):
        if p.mean.shape[-1] > 1 and not torch.equal(p.log_std, q.log_std):
            raise _no_closed_form("total_variation", p, " of different standard deviations")
        return formulas.diagonal_gaussian_total_variation(p.mean, p.log_std, q.mean, q.log_std)
    log_p, log_q = (_joint_log_probabilities(d, "total_variation") for d in (p, q))
    return formulas.categorical_total_variation(log_p, log_q)


def entropy(p: Distribution) -> Tensor:
    """Entropy H(p) = -E_p[log p] in nats; for Gaussians the differential entropy.

    Raises:
        NoClosedFormError: for squashed Gaussians.
    """
    if not p.entropy_is_exact:
        raise NoClosedFormError(
            f"the entropy of {type(p).__name__} has no closed form: use its method entropy(), a "
            "quadrature, or divergences.estimate_entropy(p, samples, generator)"
        )
    return p.entropy()


def cross_entropy(p: Distribution, q: Distribution) -> Tensor:
    """Cross-entropy H(p, q) = -E_p[log q] = H(p) + KL(p ‖ q) in nats; +inf where the KL is.

    Raises:
        NoClosedFormError: for squashed Gaussians.
    """
    check_pair(p, q)
    if not p.entropy_is_exact:
        raise _no_closed_form("cross_entropy", p)
    return p.entropy() + p.kl(q)


def check_pair(p: Distribution, q: Distribution) -> None:
    """Raise ValueError unless p and q are of one family and shape."""
    if type(p) is not type(q):
        raise ValueError(
            f"p is a {type(p).__name__} and q a {type(q).__name__}: expected one family"
        )
    if p.parameters.shape != q.parameters.shape:
        raise ValueError(
            f"the parameters of p are {list(p.parameters.shape)} and of q "
            f"{list(q.parameters.shape)}: expected one shape (expand the smaller)"
        )
    if _sizes(p) != _sizes(q):
        raise ValueError(f"p has choices among {_sizes(p)} and q {_sizes(q)}: expected the same")


def check_order(order: float, above: float) -> None:
    """Raise ValueError unless an order is finite and above a bound."""
    if not above < order < math.inf:
        raise ValueError(f"order={order}: expected a finite number above {above:g}")


def _sizes(p: Distribution) -> tuple[int, ...]:
    """Return the number of possible actions of each independent choice; () if there are none."""
    if isinstance(p, MultiCategorical):
        return p.sizes
    return (2,) * p.parameters.shape[-1] if isinstance(p, Bernoulli) else ()


def _joint_log_probabilities(p: Distribution, name: str) -> Tensor:
    """Return log p of every joint action, `[B, Π A_d]`."""
    if not isinstance(p, DISCRETE):
        raise _no_closed_form(name, p)
    if isinstance(p, Categorical):
        return p.log_probabilities
    sizes = _sizes(p)
    if math.prod(sizes) > JOINT_LIMIT:
        raise _no_closed_form(name, p, f" over {math.prod(sizes)} joint actions")
    joint = p.log_probabilities.new_zeros(len(p.parameters), 1)
    for choice, size in enumerate(sizes):
        of_choice = p.log_probabilities[:, choice, :size]
        joint = (joint.unsqueeze(-1) + of_choice.unsqueeze(1)).flatten(1)
    return joint


def _no_closed_form(name: str, p: Distribution, which: str = "") -> NoClosedFormError:
    order = ", order" if name in ORDERED else ""
    return NoClosedFormError(
        f"{name} of a {type(p).__name__}{which} has no cheap closed form: "
        f'use divergences.estimate("{name}", p, q, samples, generator{order})'
    )

"""Divergences between two action distributions: exact where a closed form exists, else estimated.

Every function returns one value for each state, `[B]`. docs/divergences.md has the table of what is
exact for which family, and the conventions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    log_slope_of_tanh,
)
from rlkl.numerics.divergence_formulas import (
    categorical_entropy,
    categorical_jensen_shannon,
    categorical_kl,
    categorical_renyi,
    categorical_total_variation,
    diagonal_gaussian_kl,
    diagonal_gaussian_kl_to_standard_normal,
    diagonal_gaussian_renyi,
    diagonal_gaussian_total_variation,
    jensen_shannon_share,
    kl_estimates,
)
from rlkl.utils.validation import nearest

__all__ = [
    "JOINT_LIMIT",
    "NAMES",
    "Divergence",
    "NoClosedFormError",
    "alpha",
    "categorical_entropy",
    "categorical_jensen_shannon",
    "categorical_kl",
    "categorical_renyi",
    "categorical_total_variation",
    "compare",
    "cross_entropy",
    "diagonal_gaussian_kl",
    "diagonal_gaussian_kl_to_standard_normal",
    "diagonal_gaussian_renyi",
    "diagonal_gaussian_total_variation",
    "entropy",
    "estimate",
    "estimate_entropy",
    "from_probabilities",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_distance",
    "jensen_shannon_share",
    "kl",
    "kl_estimates",
    "renyi",
    "total_variation",
]

JOINT_LIMIT = 4096
"""Jensen-Shannon and total variation of independent choices are summed over all joint actions, if
these are no more than this (12 bits, or six choices among four)."""

NAMES: tuple[str, ...] = (
    "kl",
    "reverse_kl",
    "jeffreys",
    "jensen_shannon",
    "jensen_shannon_distance",
    "renyi",
    "alpha",
    "total_variation",
    "cross_entropy",
)
"""What `estimate` and `compare` know."""


class NoClosedFormError(ValueError):
    """The quantity has no closed form for these distributions; the message names the estimator."""


@dataclass(frozen=True)
class Divergence:
    """One quantity of two distributions.

    Attributes:
        value: `[B]`, in nats but for total variation, alpha and the Jensen-Shannon distance.
        standard_error: of the value, `[B]`; 0 where it is exact.
        exact: whether it is a closed form, and not an estimate.
    """

    value: Tensor
    standard_error: Tensor
    exact: bool


def from_probabilities(
    probabilities: Tensor | Sequence[float] | Sequence[Sequence[float]],
) -> Categorical:
    """Return the categorical distributions with these probabilities, which may be 0.

    Args:
        probabilities: `[B, A]`, or `[A]` for one state. Lists become float64. What rounding has
            left of their sum is divided out.

    Raises:
        ValueError: if one is negative or NaN, or a row does not sum to 1 within 1e-5.
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
        place = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {place} of the probabilities has the entry {float(rows[place].min()):g}: "
            "expected none that is negative or NaN"
        )
    sums = rows.sum(-1)
    wrong = ~((sums - 1).abs() <= 1e-5)
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {place} of the probabilities sums to {float(sums[place]):g}: expected 1 "
            "(divide each row by its sum)"
        )
    # The logarithm has no slope at 0, and what stands there instead is not asked for one.
    possible = rows > 0
    return Categorical(torch.where(possible, torch.where(possible, rows, 1.0).log(), -math.inf))


def kl(p: Distribution, q: Distribution) -> Tensor:
    """Kullback-Leibler divergence KL(p ‖ q) = E_p[log p - log q]; the reverse is `kl(q, p)`.

    Exact for every family. That of squashed Gaussians is taken before tanh, a bijection.

    Returns:
        KL in nats, `[B]`; +inf where q gives probability 0 to an action that p can take.

    Raises:
        ValueError: if p and q are not of one family and shape.
    """
    _check_pair(p, q)
    return p.kl(q)


def jeffreys(p: Distribution, q: Distribution) -> Tensor:
    """Symmetric divergence J(p, q) = KL(p ‖ q) + KL(q ‖ p) (Jeffreys 1946): the sum, not its half.

    Returns:
        J in nats, `[B]`.

    Raises:
        ValueError: if p and q are not of one family and shape.
    """
    return kl(p, q) + kl(q, p)


def jensen_shannon(p: Distribution, q: Distribution) -> Tensor:
    """Jensen-Shannon divergence ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q) (Lin 1991, eq. 3.4).

    Returns:
        JS in nats, `[B]`, from 0 to ln 2.

    Raises:
        NoClosedFormError: for Gaussians, and for more than `JOINT_LIMIT` joint actions.
        ValueError: if p and q are not of one family and shape.
    """
    _check_pair(p, q)
    return categorical_jensen_shannon(
        _joint_log_probabilities(p, "jensen_shannon"), _joint_log_probabilities(q, "jensen_shannon")
    )


def jensen_shannon_distance(p: Distribution, q: Distribution) -> Tensor:
    """Square root of the Jensen-Shannon divergence, a metric (Endres & Schindelin 2003).

    It has no gradient where p = q, as |x| has none at 0.

    Returns:
        √JS in √nats, `[B]`, from 0 to √ln 2.

    Raises:
        NoClosedFormError: where `jensen_shannon` has none.
        ValueError: if p and q are not of one family and shape.
    """
    return jensen_shannon(p, q).sqrt()


def renyi(p: Distribution, q: Distribution, order: float) -> Tensor:
    """Rényi divergence D_α(p ‖ q) = 1/(α-1) · log E_q[(p/q)^α] (Rényi 1961; van Erven 2014, eq. 1).

    It grows with α. α = ½ is -2 log ∫√(pq), twice Bhattacharyya's distance; α = 1 is KL(p ‖ q).

    Args:
        p: `[B]` distributions.
        q: as many of the same family.
        order: α, above 0 and finite.

    Returns:
        D_α in nats, `[B]`; +inf where the expectation does not exist.

    Raises:
        NoClosedFormError: for a family that is not one of the library's.
        ValueError: if the order is not above 0, or p and q are not of one family and shape.
    """
    _check_order(order, above=0)
    return _renyi(p, q, order, 1 - order)


def _renyi(p: Distribution, q: Distribution, order: float, rest: float) -> Tensor:
    """Return D_α for α and 1 - α: near an end one of the two does not follow from the other."""
    if rest == 0:
        return kl(p, q)
    _check_pair(p, q)
    if isinstance(p, DiagonalGaussian) and isinstance(q, DiagonalGaussian):
        if order == 1:
            return kl(p, q)
        return diagonal_gaussian_renyi(p.mean, p.log_std, q.mean, q.log_std, order)
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        return categorical_renyi(p.log_probabilities, q.log_probabilities, order, rest)
    if isinstance(p, MultiCategorical | Bernoulli) and isinstance(q, MultiCategorical | Bernoulli):
        return categorical_renyi(p.log_probabilities, q.log_probabilities, order, rest).sum(-1)
    raise _no_closed_form("renyi", p)


def alpha(p: Distribution, q: Distribution, order: float) -> Tensor:
    """Alpha divergence (1 - ∫ p^α q^(1-α)) / (α (1-α)), as in Minka 2005, "Divergence measures".

    Amari's family in the parametrisation of Zhu & Rohwer 1995; Cressie & Read's power divergence
    with λ = α - 1. α → 1 is KL(p ‖ q) and α → 0 KL(q ‖ p), which 1 and 0 stand for; ½ is
    2 ∫(√p - √q)²; 2 is ½ χ² = ½ ∫(p - q)²/q. D_α(p ‖ q) = D_(1-α)(q ‖ p).

    Args:
        p: `[B]` distributions.
        q: as many of the same family.
        order: α, any finite number.

    Returns:
        D_α, `[B]`, in nats at its ends 0 and 1 alone; +inf where the integral does not exist.

    Raises:
        NoClosedFormError: for a family that is not one of the library's.
        ValueError: if the order is not finite, or p and q are not of one family and shape.
    """
    _check_order(order, above=-math.inf)
    rest = 1 - order
    if order < 0.5:
        p, q, order, rest = q, p, rest, order
    if rest == 0:
        return kl(p, q)
    # From Rényi's, which loses no digits near p = q and adds up over independent dimensions.
    return torch.expm1(-rest * _renyi(p, q, order, rest)) / (-order * rest)


def total_variation(p: Distribution, q: Distribution) -> Tensor:
    """Total variation distance ½ ∫|p - q|: how far the probabilities of any event can differ.

    Returns:
        TV, from 0 to 1, `[B]`.

    Raises:
        NoClosedFormError: for Gaussians of more than one dimension whose standard deviations
            differ, and for more than `JOINT_LIMIT` joint actions.
        ValueError: if p and q are not of one family and shape.
    """
    _check_pair(p, q)
    if isinstance(p, DiagonalGaussian) and isinstance(q, DiagonalGaussian):
        if p.mean.shape[-1] > 1 and not torch.equal(p.log_std, q.log_std):
            raise _no_closed_form("total_variation", p, " of different standard deviations")
        return diagonal_gaussian_total_variation(p.mean, p.log_std, q.mean, q.log_std)
    return categorical_total_variation(
        _joint_log_probabilities(p, "total_variation"),
        _joint_log_probabilities(q, "total_variation"),
    )


def entropy(p: Distribution) -> Tensor:
    """Entropy H(p) = -E_p[log p]; of a squashed Gaussian that of tanh(u).

    Returns:
        H in nats, `[B]`; differential for Gaussians, so it may be negative.

    Raises:
        NoClosedFormError: for squashed Gaussians.
    """
    if not p.entropy_is_exact:
        raise NoClosedFormError(
            f"the entropy of {type(p).__name__} has no closed form: its method entropy() is a "
            "quadrature, divergences.estimate_entropy(p, samples, generator) the mean of samples"
        )
    return p.entropy()


def cross_entropy(p: Distribution, q: Distribution) -> Tensor:
    """Cross-entropy H(p, q) = -E_p[log q] = H(p) + KL(p ‖ q).

    Returns:
        H in nats, `[B]`; +inf where q gives probability 0 to an action that p can take.

    Raises:
        NoClosedFormError: for squashed Gaussians.
        ValueError: if p and q are not of one family and shape.
    """
    _check_pair(p, q)
    if not p.entropy_is_exact:
        raise _no_closed_form("cross_entropy", p)
    return p.entropy() + p.kl(q)


@torch.no_grad()
def estimate(
    name: str,
    p: Distribution,
    q: Distribution,
    samples: int,
    generator: Generator,
    order: float | None = None,
) -> Divergence:
    """Estimate a divergence from samples, with its standard error; without gradients.

    A divergence ∫ f(p, q) is E_m[f/m] under the mixture m = ½ (p + q), here the mean over as many
    actions of p as of q: support that either of them lost is seen, and what is averaged is never
    negative but for `cross_entropy`, the mean of -log q under p. Unbiased but for `renyi` and
    `jensen_shannon_distance`, functions of a mean, whose bias is of the order of 1/samples. Orders
    below 0 or above 1 average powers of a ratio, which a few samples may dominate; the standard
    error is then too small. Memory grows as B · samples.

    Args:
        name: one of `NAMES`.
        p: `[B]` distributions.
        q: as many of the same family.
        samples: how many actions are drawn from each of p and q for each state, at least 2.
        generator: source of the chance.
        order: α, for `renyi` (above 0) and `alpha` alone.

    Returns:
        Value and standard error, `[B]` each; an infinite value has an infinite one.

    Raises:
        ValueError: for an unknown name, an order that is missing, out of range or not asked for,
            fewer than 2 samples, or p and q that are not of one family and shape.
    """
    if name not in NAMES:
        raise ValueError(f"{name}: expected one of {', '.join(NAMES)}{nearest(name, NAMES)}")
    if (order is not None) != (name in _ORDERED):
        raise ValueError(
            f"{name} with order={order}: expected {'none' if order is not None else 'a number'}"
        )
    _check_pair(p, q)
    if order is not None:
        _check_order(order, above=0 if name == "renyi" else -math.inf)
    of_p = _draw(p, samples, generator)
    if name == "cross_entropy":
        return _mean(_surprise(q, *of_p))
    of_q = _draw(q, samples, generator)
    share = _share(name, order)
    result = _mean(*(share(_rows(p, *drawn) - _rows(q, *drawn)) for drawn in (of_p, of_q)))
    value, error = result.value, result.standard_error
    if name == "renyi" and order is not None and order != 1:
        error = error / (abs(order - 1) * value)
        value = value.log() / (order - 1)
    if name == "jensen_shannon_distance":
        value = value.sqrt()
        error = torch.where(value > 0, error / (2 * value), 0.0)
    return _estimated(value, error)


@torch.no_grad()
def estimate_entropy(p: Distribution, samples: int, generator: Generator) -> Divergence:
    """Estimate the entropy -E_p[log p] by the mean of samples.

    Args:
        p: `[B]` distributions; of a squashed Gaussian it is that of tanh(u).
        samples: how many actions are drawn for each state, at least 2.
        generator: source of the chance.

    Returns:
        Value in nats and standard error, `[B]` each.

    Raises:
        ValueError: for fewer than 2 samples.
    """
    return _mean(_surprise(p, *_draw(p, samples, generator)))


def compare(
    p: Distribution, q: Distribution, samples: int, generator: Generator, order: float = 0.5
) -> dict[str, Divergence]:
    """Return all that is known of two distributions, exact where a closed form exists.

    Args:
        p: `[B]` distributions.
        q: as many of the same family.
        samples: how many actions an estimate draws from each of p and q for each state.
        generator: source of their chance.
        order: α of `renyi` and `alpha`, above 0.

    Returns:
        Values by name: `NAMES`, and `entropy`, that of p.

    Raises:
        ValueError: if p and q are not of one family and shape, or the order is out of range.
    """
    found = {}
    for name in NAMES:
        own_order = order if name in _ORDERED else None
        try:
            found[name] = _exact(_FORMULAS[name](p, q, order))
        except NoClosedFormError:
            found[name] = estimate(name, p, q, samples, generator, own_order)
    try:
        found["entropy"] = _exact(entropy(p))
    except NoClosedFormError:
        found["entropy"] = estimate_entropy(p, samples, generator)
    return found


_ORDERED = ("renyi", "alpha")
_FORMULAS: dict[str, Callable[[Distribution, Distribution, float], Tensor]] = {
    "kl": lambda p, q, _: kl(p, q),
    "reverse_kl": lambda p, q, _: kl(q, p),
    "jeffreys": lambda p, q, _: jeffreys(p, q),
    "jensen_shannon": lambda p, q, _: jensen_shannon(p, q),
    "jensen_shannon_distance": lambda p, q, _: jensen_shannon_distance(p, q),
    "renyi": renyi,
    "alpha": alpha,
    "total_variation": lambda p, q, _: total_variation(p, q),
    "cross_entropy": lambda p, q, _: cross_entropy(p, q),
}


def _exact(value: Tensor) -> Divergence:
    return Divergence(value, torch.zeros_like(value), exact=True)


def _check_pair(p: Distribution, q: Distribution) -> None:
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


def _check_order(order: float, above: float) -> None:
    if not above < order < math.inf:
        raise ValueError(f"order={order}: expected a finite number above {above:g}")


def _sizes(p: Distribution) -> tuple[int, ...]:
    """Return among how many possibilities each independent choice is, or () without choices."""
    if isinstance(p, MultiCategorical):
        return p.sizes
    return (2,) * p.parameters.shape[-1] if isinstance(p, Bernoulli) else ()


def _joint_log_probabilities(p: Distribution, name: str) -> Tensor:
    """Return log p of every joint action, `[B, Π A_d]`."""
    if isinstance(p, Categorical):
        return p.log_probabilities
    if not isinstance(p, MultiCategorical | Bernoulli):
        raise _no_closed_form(name, p)
    sizes = _sizes(p)
    if math.prod(sizes) > JOINT_LIMIT:
        raise _no_closed_form(name, p, f" over {math.prod(sizes)} joint actions")
    joint = p.log_probabilities.new_zeros(len(p.parameters), 1)
    for choice, size in enumerate(sizes):
        of_choice = p.log_probabilities[:, choice, :size]
        joint = (joint.unsqueeze(-1) + of_choice.unsqueeze(1)).flatten(1)
    return joint


def _no_closed_form(name: str, p: Distribution, which: str = "") -> NoClosedFormError:
    order = ", order" if name in _ORDERED else ""
    return NoClosedFormError(
        f"{name} of a {type(p).__name__}{which} has no closed form that is cheap: "
        f'use divergences.estimate("{name}", p, q, samples, generator{order})'
    )


def _draw(p: Distribution, samples: int, generator: Generator) -> tuple[Tensor, int]:
    """Return as many actions of each state, those of a state in a row, `[B · samples, ...]`."""
    if samples < 2:
        raise ValueError(f"samples={samples}: expected at least 2 (one has no standard error)")
    return p.at(p.parameters.repeat_interleave(samples, 0)).sample(generator), samples


def _rows(p: Distribution, actions: Tensor, samples: int) -> Tensor:
    """Return the log-probabilities of actions that `_draw` gave, `[B, samples]`."""
    repeated = p.at(p.parameters.repeat_interleave(samples, 0))
    return repeated.log_prob(actions).view(-1, samples)


def _surprise(p: Distribution, actions: Tensor, samples: int) -> Tensor:
    """Return -log p, `[B, samples]`; of a squashed Gaussian that of tanh(u)."""
    surprise = -_rows(p, actions, samples)
    if isinstance(p, TanhGaussian):
        surprise = surprise + log_slope_of_tanh(actions).sum(-1).view(-1, samples)
    return surprise


def _mean(*samples: Tensor) -> Divergence:
    """Return the mean of the means of independent samples, each `[B, n]`, and its error."""
    value = torch.stack([s.mean(-1) for s in samples]).mean(0)
    variance = torch.stack([s.var(-1) / s.shape[-1] for s in samples]).sum(0)
    return _estimated(value, variance.sqrt() / len(samples))


def _estimated(value: Tensor, error: Tensor) -> Divergence:
    """Return an estimate, whose error is infinite where the value is: the arithmetic gives NaN."""
    return Divergence(value, torch.where(value.isfinite(), error, math.inf), exact=False)


def _share(name: str, order: float | None) -> Callable[[Tensor], Tensor]:
    """Return f/m as a function of ℓ = log p - log q, under m = ½ (p + q)."""
    if order is not None:
        return partial(_renyi_share if name == "renyi" else _alpha_share, order=order)
    return _SHARES[name]


def _kl_share(log_ratio: Tensor) -> Tensor:
    """Return [p (log p - log q) + q - p] / m, never negative."""
    # Where p is 0 there is 0 · log 0.
    finite = torch.where(log_ratio > -math.inf, log_ratio, 0.0)
    return 2 * (torch.sigmoid(log_ratio) * finite - torch.tanh(0.5 * log_ratio))


def _renyi_share(log_ratio: Tensor, order: float) -> Tensor:
    """Return p^α q^(1-α) / m, whose mean is what Rényi's divergence is the logarithm of."""
    if order == 1:
        return _kl_share(log_ratio)
    log_p_share, log_q_share = F.logsigmoid(log_ratio), F.logsigmoid(-log_ratio)
    return 2 * (order * log_p_share + (1 - order) * log_q_share).exp()


def _alpha_share(log_ratio: Tensor, order: float) -> Tensor:
    """Return [α p + (1-α) q - p^α q^(1-α)] / (α (1-α) m), never negative."""
    if order < 0.5:
        return _alpha_share(-log_ratio, 1 - order)
    if order == 1:
        return _kl_share(log_ratio)
    linear = order * torch.sigmoid(log_ratio) + (1 - order) * torch.sigmoid(-log_ratio)
    return (2 * linear - _renyi_share(log_ratio, order)) / (order * (1 - order))


_SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": _kl_share,
    "reverse_kl": lambda log_ratio: _kl_share(-log_ratio),
    "jeffreys": lambda log_ratio: 2 * torch.tanh(0.5 * log_ratio) * log_ratio,
    "jensen_shannon": jensen_shannon_share,
    "jensen_shannon_distance": jensen_shannon_share,
    "total_variation": lambda log_ratio: torch.tanh(0.5 * log_ratio.abs()),
}

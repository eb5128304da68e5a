"""Estimates of divergences from samples, with standard errors, and a comparison that uses both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rlkl.numerics import divergences as exact
from rlkl.numerics.distributions import Distribution, TanhGaussian, log_tanh_derivative
from rlkl.numerics.divergence_formulas import jensen_shannon_share
from rlkl.numerics.divergences import ORDERED, NoClosedFormError
from rlkl.utils.validation import nearest

__all__ = ["NAMES", "Divergence", "compare", "estimate", "estimate_entropy"]

_FORMULAS: dict[str, Callable[[Distribution, Distribution, float], Tensor]] = {
    "kl": lambda p, q, _: exact.kl(p, q),
    "reverse_kl": lambda p, q, _: exact.kl(q, p),
    "jeffreys": lambda p, q, _: exact.jeffreys(p, q),
    "jensen_shannon": lambda p, q, _: exact.jensen_shannon(p, q),
    "jensen_shannon_distance": lambda p, q, _: exact.jensen_shannon_distance(p, q),
    "renyi": exact.renyi,
    "alpha": exact.alpha,
    "total_variation": lambda p, q, _: exact.total_variation(p, q),
    "cross_entropy": lambda p, q, _: exact.cross_entropy(p, q),
}

NAMES = tuple(_FORMULAS)
"""Divergences that `estimate` and `compare` support."""


@dataclass(frozen=True)
class Divergence:
    """A divergence, exact or estimated.

    Attributes:
        value: `[B]`, in nats except for total variation, alpha and the Jensen-Shannon distance.
        standard_error: of the value, `[B]`; 0 if it is exact, infinite if the value is.
        exact: whether it is a closed form, not an estimate.
    """

    value: Tensor
    standard_error: Tensor
    exact: bool


@torch.no_grad()
def estimate(
    name: str,
    p: Distribution,
    q: Distribution,
    samples: int,
    generator: Generator,
    order: float | None = None,
) -> Divergence:
    """Estimate a divergence from samples, with its standard error and without gradients.

    A divergence ∫ f(p, q) is E_m[f/m] under the mixture m = ½ (p + q), estimated by a mean over
    equally many actions of p and q. The terms are never negative, except for `cross_entropy`, the
    mean of -log q under p. Estimates are unbiased, except for `renyi` and
    `jensen_shannon_distance`, functions of a mean, whose bias is of order 1/samples. For orders
    below 0 or above 1 a few samples may dominate, and the standard error is too small. Memory
    grows as B · samples.

    Args:
        name: one of `NAMES`.
        p: `[B]` distributions.
        q: `[B]` distributions of the same family.
        samples: actions sampled from each of p and q for each state, at least 2.
        generator: for the samples.
        order: α, only for `renyi` (above 0) and `alpha`.

    Raises:
        ValueError: for an unknown name, an order that is missing, superfluous or out of range,
            fewer than 2 samples, or p and q that are not of one family and shape.
    """
    if name not in NAMES:
        raise ValueError(f"{name}: expected one of {', '.join(NAMES)}{nearest(name, NAMES)}")
    if (order is not None) != (name in ORDERED):
        raise ValueError(
            f"{name} with order={order}: expected {'none' if order is not None else 'a number'}"
        )
    exact.check_pair(p, q)
    if order is not None:
        exact.check_order(order, above=0 if name == "renyi" else -math.inf)
    from_p = _sample(p, samples, generator)
    if name == "cross_entropy":
        return _mean(_surprisal(q, *from_p))
    from_q = _sample(q, samples, generator)
    ratios = [_log_probs(p, *s) - _log_probs(q, *s) for s in (from_p, from_q)]
    result = _mean(*(_SHARES[name](log_ratio, order) for log_ratio in ratios))
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
    """Estimate the entropy -E_p[log p] in nats by a mean of samples for each state.

    For a squashed Gaussian it is the entropy of tanh(u).

    Raises:
        ValueError: for fewer than 2 samples.
    """
    return _mean(_surprisal(p, *_sample(p, samples, generator)))


def compare(
    p: Distribution, q: Distribution, samples: int, generator: Generator, order: float = 0.5
) -> dict[str, Divergence]:
    """Return all divergences of two distributions, exact where there is a closed form.

    They are the divergences by their `NAMES`, and the `entropy` of p. The arguments are those of
    `estimate`.

    Raises:
        ValueError: if p and q are not of one family and shape, or the order is out of range.
    """
    results = {}
    for name in NAMES:
        try:
            results[name] = _exact(_FORMULAS[name](p, q, order))
        except NoClosedFormError:
            own = order if name in ORDERED else None
            results[name] = estimate(name, p, q, samples, generator, own)
    try:
        results["entropy"] = _exact(exact.entropy(p))
    except NoClosedFormError:
        results["entropy"] = estimate_entropy(p, samples, generator)
    return results


def _exact(value: Tensor) -> Divergence:
    return Divergence(value, torch.zeros_like(value), exact=True)


def _sample(p: Distribution, samples: int, generator: Generator) -> tuple[Tensor, int]:
    """Sample actions for each state, state by state, `[B · samples, ...]`."""
    if samples < 2:
        raise ValueError(f"samples={samples}: expected at least 2 (one has no standard error)")
    return p.at(p.parameters.repeat_interleave(samples, 0)).sample(generator), samples


def _log_probs(p: Distribution, actions: Tensor, samples: int) -> Tensor:
    """Return the log-probabilities of actions from `_sample`, `[B, samples]`."""
    repeated = p.at(p.parameters.repeat_interleave(samples, 0))
    return repeated.log_prob(actions).view(-1, samples)


def _surprisal(p: Distribution, actions: Tensor, samples: int) -> Tensor:
    """Return -log p, `[B, samples]`; for a squashed Gaussian, of tanh(u)."""
    surprisal = -_log_probs(p, actions, samples)
    if isinstance(p, TanhGaussian):
        surprisal = surprisal + log_tanh_derivative(actions).sum(-1).view(-1, samples)
    return surprisal


def _mean(*samples: Tensor) -> Divergence:
    """Return the mean of the means of independent samples, `[B, n]` each, and its error."""
    value = torch.stack([s.mean(-1) for s in samples]).mean(0)
    variance = torch.stack([s.var(-1) / s.shape[-1] for s in samples]).sum(0)
    return _estimated(value, variance.sqrt() / len(samples))


def _estimated(value: Tensor, error: Tensor) -> Divergence:
    """Return an estimate with an infinite error, not NaN, where the value is infinite."""
    return Divergence(value, torch.where(value.isfinite(), error, math.inf), exact=False)


def _kl_share(log_ratio: Tensor) -> Tensor:
    """Return [p (log p - log q) + q - p] / m, never negative."""
    finite = torch.where(log_ratio > -math.inf, log_ratio, 0.0)  # 0 · log 0 = 0 where p is 0
    return 2 * (torch.sigmoid(log_ratio) * finite - torch.tanh(0.5 * log_ratio))


def _renyi_share(log_ratio: Tensor, order: float) -> Tensor:
    """Return p^α q^(1-α) / m; Rényi's divergence is a function of its mean."""
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


# f/m as a function of log p - log q and the order, with m = ½ (p + q).
_SHARES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "kl": lambda log_ratio, _: _kl_share(log_ratio),
    "reverse_kl": lambda log_ratio, _: _kl_share(-log_ratio),
    "jeffreys": lambda log_ratio, _: 2 * torch.tanh(0.5 * log_ratio) * log_ratio,
    "jensen_shannon": lambda log_ratio, _: jensen_shannon_share(log_ratio),
    "jensen_shannon_distance": lambda log_ratio, _: jensen_shannon_share(log_ratio),
    "renyi": _renyi_share,
    "alpha": _alpha_share,
    "total_variation": lambda log_ratio, _: torch.tanh(0.5 * log_ratio.abs()),
}

"""Formulas of the divergences, in nats, from log-probabilities, means and log standard deviations.

Arguments are log-probabilities of A categories, `[..., A]`, -inf for probability 0, or means and
log standard deviations of D dimensions, `[..., D]`. Results are `[...]`: sums over the last
dimension, one value for each state. `divergences` has the same functions for two distributions.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "categorical_entropy", "categorical_jensen_shannon", "categorical_kl", "categorical_renyi",
    "categorical_total_variation", "diagonal_gaussian_kl",
    "diagonal_gaussian_kl_to_standard_normal", "diagonal_gaussian_renyi",
    "diagonal_gaussian_total_variation", "jensen_shannon_estimate", "jensen_shannon_share",
    "kl_estimates",
]  # fmt: skip


def sum_last(terms: Tensor) -> Tensor:
    """Return the sum over the last dimension, `[..., A]` to `[...]`; fast if it is short."""
    return terms @ terms.new_ones(terms.shape[-1])


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two categorical distributions, in nats.

    KL(p ‖ q) = Σ_a p(a) · (log p(a) - log q(a)), with 0 · log(0 / q) = 0 and +inf where q
    gives probability 0 to an action that p can take.
    """
    # Both logarithms are replaced outside p's support, which avoids inf - inf, also in gradients. A
    # probability that underflows counts as 0, which avoids 0 · inf where q is 0 too.
    p = log_p.exp()
    support = p > 0
    if support.all():  # the usual case, which is faster
        return sum_last(p * (log_p - log_q))
    log_ratio = torch.where(support, log_p, 0.0) - torch.where(support, log_q, 0.0)
    return sum_last(p * log_ratio)


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy H(p) = -Σ_a p(a) · log p(a) in nats, with 0 · log 0 = 0."""
    support = log_p > -math.inf
    return -sum_last(log_p.exp() * (log_p if support.all() else torch.where(support, log_p, 0.0)))


def categorical_jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two categorical distributions, in nats.

    JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q) (Lin 1991, eq. 3.4), at most ln 2.
    Computed as Σ_a m(a) · j(log p(a) - log q(a)) with j from `jensen_shannon_share`. The terms are
    never negative, exactly 0 for equal arguments, and accurate for nearly equal ones.
    """
    m = 0.5 * (log_p.exp() + log_q.exp())
    support = m > 0
    if not support.all():
        # If both are -inf, their difference would be NaN. The weight is 0, so any value will do.
        log_p, log_q = torch.where(support, log_p, 0.0), torch.where(support, log_q, 0.0)
    return sum_last(m * jensen_shannon_share(log_p - log_q))


def jensen_shannon_share(log_ratio: Tensor) -> Tensor:
    """Contribution j of outcomes to JS(p, q) = E_m[j(log p - log q)] in nats, with m = ½ (p + q).

    j(ℓ) = ln 2 - h(1 / (1 + e^-ℓ)), where h is the entropy of one bit: from 0 (ℓ = 0) to ln 2
    (ℓ = ±inf).
    """
    # From 80 on, j rounds to ln 2, and inf would give NaN.
    size = log_ratio.abs().clamp(max=80.0)
    is_near = size < 1
    near = torch.where(is_near, size, 0.0)
    d = torch.tanh(0.5 * near)
    share = 0.5 * (d * near + torch.log1p(-d.square()))
    if is_near.all():  # the usual case, which is faster
        return share
    # These terms would cancel near 0, where the formula with d = tanh(ℓ/2) does not.
    far = math.log(2.0) - torch.log1p((-size).exp()) - size / (size.exp() + 1)
    return torch.where(is_near, share, far)


def categorical_renyi(
    log_p: Tensor, log_q: Tensor, order: float, rest: float | None = None
) -> Tensor:
    """Rényi divergence of two categorical distributions in nats (van Erven 2014, eq. 1).

    D_α(p ‖ q) = 1/(α-1) · log Σ_a p(a)^α · q(a)^(1-α), which tends to KL(p ‖ q) as α → 1.

    Args:
        log_p: of p.
        log_q: of q.
        order: α, above 0 and not 1.
        rest: 1 - α, if it is known more precisely than by subtraction; α may then round to 1.

    Raises:
        ValueError: if the order is not above 0, or is 1 (use `categorical_kl`).
    """
    if rest is None:
        _check_order(order)
        rest = 1 - order
    p, q = log_p.exp(), log_q.exp()
    both = (log_p > -math.inf) & (log_q > -math.inf)
    log_p, log_q = torch.where(both, log_p, 0.0), torch.where(both, log_q, 0.0)
    # Outside the common support a term is 0, except p(a)^α / 0 with α > 1.
    outside = torch.where((p > 0) & (order > 1), math.inf, -math.inf)
    exponent = torch.where(both, order * log_p + rest * log_q, outside)
    log_sum = exponent.logsumexp(-1)
    # log of a sum near 1 loses digits. The sum - 1 is Σ_a [p^α q^(1-α) - α p - (1-α) q] if p and q
    # sum to 1, and these terms all have one sign.
    near_1 = log_sum.abs() < 0.5
    log_ratio = log_p - log_q
    excess = _difference(p, -rest * log_ratio, exponent.clamp(max=1.0).exp(), both)
    excess = excess - rest * _difference(p, -log_ratio, q, both)
    excess = torch.where(near_1, excess.sum(-1), 0.0)
    return (torch.where(near_1, torch.log1p(excess), log_sum) / -rest).clamp(min=0.0)


def _difference(p: Tensor, log_factor: Tensor, product: Tensor, both: Tensor) -> Tensor:
    """Return product - p where product = p · e^log_factor, without cancellation near 1."""
    near = both & (log_factor.abs() < 1)
    difference = p * torch.expm1(torch.where(near, log_factor, 0.0))
    return torch.where(near, difference, torch.where(near, 0.0, product) - p)


def _check_order(order: float) -> None:
    if not 0 < order < math.inf or order == 1:
        raise ValueError(f"order={order}: expected above 0 and other than 1 (1 is KL itself)")


def categorical_total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Total variation distance ½ Σ_a |p(a) - q(a)| of two categoricals, from 0 to 1."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def diagonal_gaussian_kl(
    mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor
) -> Tensor:
    """Kullback-Leibler divergence of two Gaussians with diagonal covariance, in nats.

    KL(p ‖ q) = Σ_d [log(σ_q/σ_p) + (σ_p² + (μ_p - μ_q)²) / (2σ_q²) - ½], written with
    δ = log(σ_p/σ_q) as ½ Σ_d [expm1(2δ) - 2δ + ((μ_p - μ_q)/σ_q)²]: exactly 0 for equal arguments,
    and accurate for nearly equal ones.
    """
    delta = log_std_p - log_std_q
    distance = (mean_p - mean_q) * (-log_std_q).exp()
    return 0.5 * sum_last(torch.expm1(2 * delta) - 2 * delta + distance.square())


def diagonal_gaussian_kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from N(0, 1), in nats.

    KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ_d [μ² + σ² - log σ² - 1], given log σ², not log σ. It is the
    regularizer of a variational autoencoder (Kingma & Welling 2014, appendix B).
    """
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(-1)


def diagonal_gaussian_renyi(
    mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor, order: float
) -> Tensor:
    """Rényi divergence of two diagonal Gaussians in nats (van Erven 2014, eq. 10).

    D_α(p ‖ q) = Σ_d [α (μ_p - μ_q)² / (2 σ_α²) + 1/(1-α) · log(σ_α / (σ_p^(1-α) σ_q^α))] with
    σ_α² = (1-α) σ_p² + α σ_q², and +inf if a σ_α² is not above 0.

    Raises:
        ValueError: if the order is not above 0, or is 1 (use `diagonal_gaussian_kl`).
    """
    _check_order(order)
    delta = log_std_p - log_std_q
    excess = (1 - order) * torch.expm1(2 * delta)  # σ_α² / σ_q² - 1
    finite = excess > -1
    excess = torch.where(finite, excess, 0.0)
    spread = (torch.log1p(excess) - 2 * (1 - order) * delta) / (1 - order)
    distance = (mean_p - mean_q) * (-log_std_q).exp()
    shares = 0.5 * (spread + order * distance.square() / (1 + excess))
    return torch.where(finite, shares, math.inf).sum(-1).clamp(min=0.0)


def diagonal_gaussian_total_variation(
    mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor
) -> Tensor:
    """Total variation distance of two Gaussians, for D = 1 or equal deviations, from 0 to 1.

    Equal deviations: TV = erf(‖(μ_p - μ_q)/σ‖ / (2√2)). D = 1: the densities cross at the roots of
    a quadratic, and TV is the difference of p's and q's probabilities between them.
    """
    squares = ((mean_p - mean_q) * (-log_std_q).exp()).square().sum(-1)
    # A square root has no gradient at 0. TV has none there either, and gets the gradient 0.
    apart = squares > 0
    distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    parallel = torch.erf(distance / math.sqrt(8.0))
    if mean_p.shape[-1] > 1:
        return parallel
    log_scale = (log_std_q - log_std_p).squeeze(-1)
    equal = log_scale == 0
    # In units of p, p is N(0, 1) and q is N(m, r²). The densities cross where a z² + 2 b z + c = 0.
    # For equal deviations the result is unused, and log r = 1 keeps it finite.
    log_scale = torch.where(equal, 1.0, log_scale)
    m = ((mean_q - mean_p) * (-log_std_p).exp()).squeeze(-1)
    r = log_scale.exp()
    a = torch.expm1(-2 * log_scale)
    b = -m / r.square()
    c = (m / r).square() + 2 * log_scale
    root = ((m / r).square() - 2 * a * log_scale).sqrt()
    # Of the two formulas for each root, take the one without cancellation.
    t = -(b + torch.where(b < 0, -root, root))
    first, second = t / a, c / t
    of_p = torch.special.ndtr(first) - torch.special.ndtr(second)
    of_q = torch.special.ndtr((first - m) / r) - torch.special.ndtr((second - m) / r)
    return torch.where(equal, parallel, (of_p - of_q).abs())


def kl_estimates(log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-sample estimates k1, k2, k3 of KL(π_old ‖ π_new) in nats (Schulman 2020).

    With r = π_new(a|s) / π_old(a|s) and a ~ π_old: k1 = -log r, k2 = ½ (log r)²,
    k3 = r - 1 - log r. k1 and k3 are unbiased, k2 is not; k2 and k3 are never negative.
    """
    return -log_ratio, 0.5 * log_ratio.square(), torch.expm1(log_ratio) - log_ratio


def jensen_shannon_estimate(log_ratio: Tensor) -> Tensor:
    """Per-sample estimate of JS(π_old, π_new) in nats, unbiased and never negative.

    With r = π_new(a|s) / π_old(a|s) and a ~ π_old it is ½ (1 + r) · j(log r): the contribution j
    under the mixture (see `jensen_shannon_share`), importance-weighted from π_old to the mixture.
    """
    return 0.5 * (1 + log_ratio.exp()) * jensen_shannon_share(log_ratio)

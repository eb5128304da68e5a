"""Formulas of the divergences, in nats, from log-probabilities, means and log standard deviations.

All functions work along the last dimension (categories, or action dimensions, over which a
divergence of independent parts is a sum) and return one value for each state. A mean over states
is left to the caller, and a mean over action dimensions is never taken. `divergences` asks the same
of two distributions.
"""

import math

import torch
from torch import Tensor


def total(terms: Tensor) -> Tensor:
    """Return the sum over the last dimension, `[..., A]` to `[...]`.

    As a product with ones: torch sums a short last dimension row by row, which takes 32 µs for
    1024 rows of two in float64, where this takes 5.
    """
    return terms @ terms.new_ones(terms.shape[-1])


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two categorical distributions.

    KL(p ‖ q) = Σ_a p(a) · (log p(a) - log q(a)), with 0 · log(0 / q) = 0 and +inf where q
    gives probability 0 to an action that p can take.

    Args:
        log_p: log-probabilities of p, `[..., A]`; -inf stands for probability 0.
        log_q: log-probabilities of q, `[..., A]`.

    Returns:
        KL in nats, `[...]`.
    """
    # Both logarithms are replaced off p's support, so that inf - inf arises nowhere, gradients
    # included. A probability that underflows is 0, or 0 · inf would arise where q's is 0 too.
    p = log_p.exp()
    support = p > 0
    if support.all():  # the usual case, in two thirds of the time
        return total(p * (log_p - log_q))
    log_ratio = torch.where(support, log_p, 0.0) - torch.where(support, log_q, 0.0)
    return total(p * log_ratio)


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy H(p) = -Σ_a p(a) · log p(a) in nats, `[..., A]` to `[...]`, with 0 · log 0 = 0."""
    support = log_p > -math.inf
    return -total(log_p.exp() * (log_p if support.all() else torch.where(support, log_p, 0.0)))


def categorical_jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two categorical distributions.

    JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q) (Lin 1991, eq. 3.4). Symmetric, at
    most ln 2, and its square root is a metric.

    It is computed as Σ_a m(a) · j(log p(a) - log q(a)) by `jensen_shannon_share`, whose terms are
    never negative: exactly 0 for equal arguments, and to rounding for nearly equal ones.

    Args:
        log_p: log-probabilities of p, `[..., A]`.
        log_q: log-probabilities of q, `[..., A]`.

    Returns:
        JS in nats, `[...]`.
    """
    m = 0.5 * (log_p.exp() + log_q.exp())
    support = m > 0
    if not support.all():
        # Where both are -inf their difference is NaN; what stands there meets a weight of 0.
        log_p, log_q = torch.where(support, log_p, 0.0), torch.where(support, log_q, 0.0)
    return total(m * jensen_shannon_share(log_p - log_q))


def jensen_shannon_share(log_ratio: Tensor) -> Tensor:
    """What one outcome adds to JS(p, q) for each unit of probability under m = ½ (p + q).

    j(ℓ) = ln 2 - h(1 / (1 + e^-ℓ)) with ℓ = log p - log q and h the entropy of one bit, so
    JS = E_m[j(ℓ)]. Between 0 (ℓ = 0) and ln 2 (ℓ = ±inf).

    Args:
        log_ratio: log p - log q, any shape.

    Returns:
        j in nats, of the same shape.
    """
    # From 80 on j is ln 2 to rounding, and inf would make a NaN.
    size = log_ratio.abs().clamp(max=80.0)
    is_near = size < 1
    near = torch.where(is_near, size, 0.0)
    d = torch.tanh(0.5 * near)
    share = 0.5 * (d * near + torch.log1p(-d.square()))
    if is_near.all():  # as after nearly every update; it saves a third of the time
        return share
    # Near 0 these three terms cancel; the same with d = tanh(ℓ/2) does not.
    far = math.log(2.0) - torch.log1p((-size).exp()) - size / (size.exp() + 1)
    return torch.where(is_near, share, far)


def categorical_renyi(
    log_p: Tensor, log_q: Tensor, order: float, rest: float | None = None
) -> Tensor:
    """Rényi divergence of two categorical distributions (Rényi 1961; van Erven 2014, eq. 1).

    D_α(p ‖ q) = 1/(α-1) · log Σ_a p(a)^α · q(a)^(1-α), which tends to KL(p ‖ q) as α → 1.

    Args:
        log_p: log-probabilities of p, `[..., A]`.
        log_q: log-probabilities of q, `[..., A]`.
        order: α, above 0 and other than 1.
        rest: 1 - α, where that is known better than the difference tells; α may then round to 1.

    Returns:
        Rényi divergence in nats, `[...]`.

    Raises:
        ValueError: if the order is not above 0, or is 1 (use `categorical_kl`).
    """
    if rest is None:
        _check_order(order)
        rest = 1 - order
    p, q = log_p.exp(), log_q.exp()
    both = (log_p > -math.inf) & (log_q > -math.inf)
    log_p, log_q = torch.where(both, log_p, 0.0), torch.where(both, log_q, 0.0)
    # Off the support of both: 0, but for p(a)^α / 0 with α > 1. A p(a) that underflows is 0 there.
    alone = torch.where((p > 0) & (order > 1), math.inf, -math.inf)
    exponent = torch.where(both, order * log_p + rest * log_q, alone)
    log_sum = exponent.logsumexp(-1)
    # A sum near 1 has lost the digits that count. Σ_a [p^α q^(1-α) - α p - (1-α) q] is the sum
    # less 1 for probabilities that sum to 1, and each of its terms is of one sign.
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
    """Total variation distance of two categorical distributions, `[..., A]` to `[...]`.

    TV(p, q) = ½ Σ_a |p(a) - q(a)|: the largest difference in the probability of any event, from 0
    to 1. It is no number of nats.
    """
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def diagonal_gaussian_kl(
    mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor
) -> Tensor:
    """Kullback-Leibler divergence of two Gaussians with diagonal covariance.

    KL(p ‖ q) = Σ_d [log(σ_q/σ_p) + (σ_p² + (μ_p - μ_q)²) / (2σ_q²) - ½], written with
    δ = log(σ_p/σ_q) as ½ Σ_d [expm1(2δ) - 2δ + ((μ_p - μ_q)/σ_q)²]: exactly 0 for equal arguments,
    and without cancellation for nearly equal ones.

    Args:
        mean_p: means of p, `[..., D]`.
        log_std_p: logarithms of the standard deviations of p, `[..., D]`.
        mean_q: means of q, `[..., D]`.
        log_std_q: logarithms of the standard deviations of q, `[..., D]`.

    Returns:
        KL in nats, summed over the dimensions, `[...]`.
    """
    delta = log_std_p - log_std_q
    distance = (mean_p - mean_q) * (-log_std_q).exp()
    return 0.5 * total(torch.expm1(2 * delta) - 2 * delta + distance.square())


def diagonal_gaussian_kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a diagonal Gaussian from N(0, 1), by its log-variance.

    KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ_d [μ² + σ² - log σ² - 1], the regulariser of a variational
    autoencoder (Kingma & Welling 2014, appendix B).

    Args:
        mean: means, `[..., D]`.
        log_variance: logarithms of the variances, log σ² and not log σ, `[..., D]`.

    Returns:
        KL in nats, summed over the dimensions, `[...]`.
    """
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(-1)


def diagonal_gaussian_renyi(
    mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor, order: float
) -> Tensor:
    """Rényi divergence of two Gaussians with diagonal covariance (van Erven 2014, eq. 10).

    D_α(p ‖ q) = Σ_d [α (μ_p - μ_q)² / (2 σ_α²) + 1/(1-α) · log(σ_α / (σ_p^(1-α) σ_q^α))] with
    σ_α² = (1-α) σ_p² + α σ_q², and +inf where some σ_α² is not above 0.

    Args:
        mean_p: means of p, `[..., D]`.
        log_std_p: logarithms of the standard deviations of p, `[..., D]`.
        mean_q: means of q, `[..., D]`.
        log_std_q: logarithms of the standard deviations of q, `[..., D]`.
        order: α, above 0 and other than 1.

    Returns:
        Rényi divergence in nats, summed over the dimensions, `[...]`.

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
    """Total variation distance of two Gaussians, in one dimension or of equal deviations.

    Equal deviations: TV = erf(‖(μ_p - μ_q)/σ‖ / (2√2)), in any number of dimensions. One dimension:
    the densities cross at the roots of a quadratic, and TV is the difference between the
    probabilities that p and q give to the interval between them.

    Args:
        mean_p: means of p, `[..., D]`.
        log_std_p: logarithms of the standard deviations of p, `[..., D]`.
        mean_q: means of q, `[..., D]`.
        log_std_q: logarithms of the standard deviations of q, `[..., D]`; those of p where D > 1.

    Returns:
        TV, from 0 to 1, `[...]`.
    """
    squares = ((mean_p - mean_q) * (-log_std_q).exp()).square().sum(-1)
    # A root has no slope at 0; there TV has none either, and 0 stands for it.
    apart = squares > 0
    distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    parallel = torch.erf(distance / math.sqrt(8.0))
    if mean_p.shape[-1] > 1:
        return parallel
    log_scale = (log_std_q - log_std_p).squeeze(-1)
    equal = log_scale == 0
    # In units of p: p is N(0, 1) and q is N(m, r²). The densities cross where a z² + 2 b z + c = 0.
    # What stands for log r where the deviations are equal only keeps the unused branch finite.
    log_scale = torch.where(equal, 1.0, log_scale)
    m = ((mean_q - mean_p) * (-log_std_p).exp()).squeeze(-1)
    r = log_scale.exp()
    a = torch.expm1(-2 * log_scale)
    b = -m / r.square()
    c = (m / r).square() + 2 * log_scale
    root = ((m / r).square() - 2 * a * log_scale).sqrt()
    # Of the two forms of a root each is taken where it does not cancel.
    t = -(b + torch.where(b < 0, -root, root))
    first, second = t / a, c / t
    of_p = torch.special.ndtr(first) - torch.special.ndtr(second)
    of_q = torch.special.ndtr((first - m) / r) - torch.special.ndtr((second - m) / r)
    return torch.where(equal, parallel, (of_p - of_q).abs())


def kl_estimates(log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sample-wise estimates k1, k2, k3 of KL(π_old ‖ π_new) (Schulman 2020, "Approximating KL").

    With r = π_new(a|s) / π_old(a|s) and a ~ π_old: k1 = -log r, k2 = ½ (log r)²,
    k3 = r - 1 - log r. k1 and k3 are unbiased, k2 is not; k2 and k3 are never negative.

    Args:
        log_ratio: log π_new(a|s) - log π_old(a|s), `[B]`.

    Returns:
        k1, k2 and k3 in nats, each `[B]`.
    """
    return -log_ratio, 0.5 * log_ratio.square(), torch.expm1(log_ratio) - log_ratio


def jensen_shannon_estimate(log_ratio: Tensor) -> Tensor:
    """Sample-wise estimate of JS(π_old, π_new), unbiased and never negative.

    With r = π_new(a|s) / π_old(a|s) and a ~ π_old it is ½ (1 + r) · j(log r): what the sample adds
    under the mixture (see `jensen_shannon_share`), weighted by the mixture's density over π_old's.

    Args:
        log_ratio: log π_new(a|s) - log π_old(a|s), `[B]`.

    Returns:
        Estimates in nats, `[B]`.
    """
    return 0.5 * (1 + log_ratio.exp()) * jensen_shannon_share(log_ratio)

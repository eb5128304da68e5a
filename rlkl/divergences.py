"""Divergences between distributions, in nats: Kullback-Leibler and relatives, exact and sampled.

All functions work along the last dimension (categories, or action dimensions, over which a
divergence of independent parts is a sum) and return one value for each state. A mean over states
is left to the caller, and a mean over action dimensions is never taken.
"""

import math

import torch
from torch import Tensor


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
    log_ratio = torch.where(support, log_p, 0.0) - torch.where(support, log_q, 0.0)
    return (p * log_ratio).sum(-1)


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy H(p) = -Σ_a p(a) · log p(a) in nats, `[..., A]` to `[...]`, with 0 · log 0 = 0."""
    return -(log_p.exp() * torch.where(log_p > -math.inf, log_p, 0.0)).sum(-1)


def categorical_jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two categorical distributions.

    JS(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q) (Lin 1991, eq. 3.4). Symmetric, at
    most ln 2, and its square root is a metric.

    Args:
        log_p: log-probabilities of p, `[..., A]`.
        log_q: log-probabilities of q, `[..., A]`.

    Returns:
        JS in nats, `[...]`.
    """
    # Where both are -inf logaddexp has no gradient; what stands there instead meets a weight of 0.
    support = (log_p > -math.inf) | (log_q > -math.inf)
    either = torch.logaddexp(torch.where(support, log_p, 0.0), torch.where(support, log_q, 0.0))
    log_m = either - math.log(2.0)
    return 0.5 * (categorical_kl(log_p, log_m) + categorical_kl(log_q, log_m))


def categorical_renyi(log_p: Tensor, log_q: Tensor, order: float) -> Tensor:
    """Rényi divergence of two categorical distributions (Rényi 1961; van Erven 2014, eq. 1).

    D_α(p ‖ q) = 1/(α-1) · log Σ_a p(a)^α · q(a)^(1-α), which tends to KL(p ‖ q) as α → 1.

    Args:
        log_p: log-probabilities of p, `[..., A]`.
        log_q: log-probabilities of q, `[..., A]`.
        order: α, above 0 and other than 1.

    Returns:
        Rényi divergence in nats, `[...]`.

    Raises:
        ValueError: if the order is not above 0, or is 1 (use `categorical_kl`).
    """
    if not order > 0 or order == 1:
        raise ValueError(f"order={order}: expected above 0 and other than 1 (1 is KL itself)")
    support = log_p > -math.inf
    exponent = order * torch.where(support, log_p, 0.0)
    exponent = exponent + (1 - order) * torch.where(support, log_q, 0.0)
    return torch.where(support, exponent, -math.inf).logsumexp(-1) / (order - 1)


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
    return 0.5 * (torch.expm1(2 * delta) - 2 * delta + distance.square()).sum(-1)


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

    JS is the f-divergence E_old[f(r)] with f(r) = ½ [r · log r - (1 + r) · log(½ (1 + r))] and
    r = π_new(a|s) / π_old(a|s), a ~ π_old (Nowozin 2016, table 6, halved).

    Args:
        log_ratio: log π_new(a|s) - log π_old(a|s), `[B]`.

    Returns:
        Estimates in nats, `[B]`.
    """
    # f(r) = r · f(1/r), so that only t = min(r, 1/r) is exponentiated and nothing overflows; the
    # clamp spares 0 · inf where an action was lost.
    distance = log_ratio.abs().clamp(max=1e3)
    t = (-distance).exp()
    f = -0.5 * (t * distance + (1 + t) * torch.log1p(0.5 * torch.expm1(-distance)))
    return log_ratio.relu().exp() * f.clamp(min=0)

"""Measure how far an update moved the policy, in the same way for every algorithm."""

import math

import torch
from torch import Tensor

from rlkl.algos.base import Metrics
from rlkl.engines.base import Engine
from rlkl.numerics.advantages import standardize
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.divergence_formulas import jensen_shannon_estimate, kl_estimates
from rlkl.rollouts.batch import Batch


@torch.inference_mode()
def compare_with_old(
    engine: Engine, batch: Batch, ratio_bounds: tuple[float, float]
) -> tuple[Metrics, dict[str, Tensor]]:
    """Compare the policy after an update with π_old, over the full batch, in float64.

    Args:
        engine: of π_θ after the update.
        batch: of the update; its advantages are not standardized.
        ratio_bounds: outside them a ratio counts as clipped.

    Returns:
        Scalars by tag, as described in `rlkl.training.report.TAGS`, and histograms by tag: tensors
        `[B]`. `kl/js_estimate` replaces `kl/js`, and `policy/entropy_estimate` replaces
        `policy/entropy`, where there is no closed form.
    """
    policy = engine.policy
    old = policy.family(batch.old_parameters.double())
    new = engine.distribution(batch.inputs, torch.float64)
    actions = batch.actions.double() if batch.actions.is_floating_point() else batch.actions
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    ratio, advantages = log_ratio.exp(), standardize(batch.advantages).double()
    lowest, highest = ratio_bounds
    averaged = _divergences(old, new, log_ratio) | {
        "ratio/mean": ratio,
        "ratio/clip_fraction": ((ratio < lowest) | (ratio > highest)).double(),
        "ratio/square": ratio.square(),
        "trust_region/actual_improvement": (ratio - 1) * advantages,
    }
    entropy = "policy/entropy" if new.entropy_is_exact else "policy/entropy_estimate"
    averaged[entropy] = new.entropy() + policy.decoder.log_half_range
    kl, reverse_kl = averaged["kl/old_new"], averaged["kl/new_old"]
    # One mean of a stacked tensor is much faster than a mean of each row.
    means = torch.stack(list(averaged.values())).mean(-1).tolist()
    metrics = dict(zip(averaged, means, strict=True))
    least, greatest = ratio.aminmax()
    extremes = {
        "kl/max": kl.max(),
        "kl/new_old_max": reverse_kl.max(),
        "ratio/min": least,
        "ratio/max": greatest,
        "ratio/std": ratio.std(correction=0),
    }
    metrics |= zip(extremes, torch.stack(list(extremes.values())).tolist(), strict=True)
    squares = metrics.pop("ratio/square")
    share = metrics["ratio/mean"] ** 2 / squares if squares else math.nan
    metrics["ratio/effective_sample_size"] = share
    metrics["policy/std"] = policy.mean_std(new)
    histograms = {"ratio/histogram": ratio, "kl/histogram": kl, "advantage/histogram": advantages}
    return metrics, histograms


def _divergences(old: Distribution, new: Distribution, log_ratio: Tensor) -> dict[str, Tensor]:
    """Return the divergences between π_old and π_θ in each state by tag, in nats, `[B]`."""
    divergences = {"kl/old_new": old.kl(new), "kl/new_old": new.kl(old)}
    divergences |= zip(("kl/k1", "kl/k2", "kl/k3"), kl_estimates(log_ratio), strict=True)
    jensen_shannon = old.jensen_shannon(new)
    if jensen_shannon is None:
        return divergences | {"kl/js_estimate": jensen_shannon_estimate(log_ratio)}
    return divergences | {"kl/js": jensen_shannon}

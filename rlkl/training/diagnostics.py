"""The one report that every algorithm gets: how far the policy moved, in every measure of it."""

import math

import torch
from torch import Tensor

from rlkl.algos.base import Metrics
from rlkl.models.policy import Policy
from rlkl.numerics.advantages import standardize
from rlkl.numerics.divergence_formulas import jensen_shannon_estimate, kl_estimates
from rlkl.rollouts.rollout import Batch

TAGS: tuple[str, ...] = (
    "return/train",
    "return/eval",
    "episode/length",
    "episode/count",
    "kl/old_new",
    "kl/new_old",
    "kl/max",
    "kl/new_old_max",
    "kl/k1",
    "kl/k2",
    "kl/k3",
    "kl/js",
    "kl/js_estimate",
    "kl/target",
    "kl/coefficient",
    "ratio/mean",
    "ratio/std",
    "ratio/min",
    "ratio/max",
    "ratio/clip_fraction",
    "ratio/effective_sample_size",
    "policy/entropy",
    "policy/entropy_estimate",
    "policy/std",
    "policy/loss",
    "value/loss",
    "value/grad_norm",
    "value/explained_variance",
    "value/explained_variance_after",
    "trust_region/step_fraction",
    "trust_region/accepted",
    "trust_region/expected_improvement",
    "trust_region/actual_improvement",
    "trust_region/cg_residual",
    "trust_region/backtracks",
    "optim/lr",
    "optim/grad_norm",
    "optim/epochs",
    "optim/stopped_early",
    "time/env_steps_per_second",
    "time/collect",
    "time/prepare",
    "time/update",
    "time/report",
)
"""Every scalar tag, the same for all algorithms. One that does not apply to an algorithm is NaN."""


@torch.inference_mode()
def report(
    policy: Policy, batch: Batch, ratio_bounds: tuple[float, float]
) -> tuple[Metrics, dict[str, Tensor]]:
    """Compare the policy after an update with π_old, over the full batch, in float64.

    Args:
        policy: π_θ after the update.
        batch: what the update was made from; its advantages not standardised.
        ratio_bounds: outside them a ratio counts as clipped.

    Returns:
        Scalars by tag: `kl/old_new` is KL(π_old ‖ π_θ) and `kl/new_old` the reverse, averaged over
        states, in nats; `kl/max` and `kl/new_old_max` are the largest of a state; `kl/k1`, `k2`,
        `k3` are estimates of `kl/old_new` from the sampled actions, and `kl/js_estimate` stands for
        `kl/js` where that has no closed form; `ratio/effective_sample_size` is
        (Σ r)² / Σ r² as a share of the batch; `trust_region/actual_improvement` is that of the
        surrogate E[r · A] with standardised advantages; `policy/entropy_estimate` stands for
        `policy/entropy` where the policy is squashed, whose entropy has no closed form.
        Histograms by tag: tensors `[B]`.
    """
    old = policy.family(batch.old_parameters.double())
    new = policy.distribution(batch.inputs, torch.float64)
    actions = batch.actions.double() if batch.actions.is_floating_point() else batch.actions
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    ratio = log_ratio.exp()
    kl, reverse_kl = old.kl(new), new.kl(old)
    k1, k2, k3 = kl_estimates(log_ratio)
    jensen_shannon = old.jensen_shannon(new)
    advantages = standardize(batch.advantages).double()
    lowest, highest = ratio_bounds
    entropy = "policy/entropy" if new.entropy_is_exact else "policy/entropy_estimate"
    averaged = {
        "kl/old_new": kl,
        "kl/new_old": reverse_kl,
        "kl/k1": k1,
        "kl/k2": k2,
        "kl/k3": k3,
        "ratio/mean": ratio,
        "ratio/clip_fraction": ((ratio < lowest) | (ratio > highest)).double(),
        entropy: new.entropy() + policy.decoder.log_half_range,
        "ratio/square": ratio.square(),
        "trust_region/actual_improvement": (ratio - 1) * advantages,
    }
    if jensen_shannon is None:
        averaged["kl/js_estimate"] = jensen_shannon_estimate(log_ratio)
    else:
        averaged["kl/js"] = jensen_shannon
    # One mean over a table: one for each would take as long as all the rest of the report.
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


def complete(metrics: Metrics) -> Metrics:
    """Return the metrics in the order of `TAGS`, with NaN for those that do not apply.

    Raises:
        KeyError: a tag that is not among `TAGS`, so that no metric is dropped in silence.
    """
    unknown = set(metrics) - set(TAGS)
    if unknown:
        raise KeyError(f"unknown tags {sorted(unknown)}: add them to diagnostics.TAGS")
    return {tag: metrics.get(tag, math.nan) for tag in TAGS}

"""The report of an iteration, and the table of all its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from rlkl.rollouts.rollout import Episode
from rlkl.training.nonfinite_guard import BadUpdate

CATEGORIES = ("Return", "KL", "Ratio", "Trust region", "Policy", "Value", "Speed")
"""Of charts, in TensorBoard's order."""

UP, DOWN, NEITHER = "higher", "lower", ""


class Tag(NamedTuple):
    """The meaning of a number in the report.

    Attributes:
        help: its description.
        unit: empty for a plain number.
        better: `higher`, `lower`, or empty if neither is better.
        charts: `category: title` of the charts in TensorBoard that show it.
    """

    help: str
    unit: str = ""
    better: str = NEITHER
    charts: tuple[str, ...] = ()


_TRAINING_RETURN = "Return: return while training, mean of the last 100 episodes"
_BOTH = "KL: both directions, mean over states"
_LARGEST = "KL: largest of a state, both directions"
_ESTIMATES = "KL: estimates of KL(π_old ‖ π_θ) from the sampled actions"
_JS = "KL: Jensen-Shannon divergence, exact or estimated"
_EXTREMES = "Ratio: smallest and largest ratio"
_IMPROVEMENT = "Trust region: improvement of the surrogate, expected and actual"
_ENTROPY = "Policy: entropy"
_VARIANCE = "Value: explained variance, before and after the fit"
_PHASES = "Speed: seconds of an iteration, by phase"

TAGS: dict[str, Tag] = {
    "return/train": Tag(
        "mean return of the last 100 training episodes", "reward", UP, (_TRAINING_RETURN,)
    ),
    "return/eval": Tag(
        "mean return of an evaluation with deterministic actions",
        "reward",
        UP,
        ("Return: return of deterministic actions",),
    ),
    "episode/length": Tag(
        "mean length of the last 100 training episodes",
        "steps",
        charts=("Return: steps of an episode",),
    ),
    "episode/count": Tag("training episodes finished so far"),
    "kl/old_new": Tag(
        "KL(π_old ‖ π_θ) after the update, mean over states",
        "nats",
        charts=("KL: KL(π_old ‖ π_θ), mean over states", _BOTH),
    ),
    "kl/new_old": Tag("KL(π_θ ‖ π_old), mean over states", "nats", charts=(_BOTH,)),
    "kl/max": Tag("largest KL(π_old ‖ π_θ) of a state in the batch", "nats", charts=(_LARGEST,)),
    "kl/new_old_max": Tag(
        "largest KL(π_θ ‖ π_old) of a state in the batch", "nats", charts=(_LARGEST,)
    ),
    "kl/k1": Tag("estimate of kl/old_new: mean of −log r", "nats", charts=(_ESTIMATES,)),
    "kl/k2": Tag("estimate of kl/old_new: mean of ½ (log r)²", "nats", charts=(_ESTIMATES,)),
    "kl/k3": Tag("estimate of kl/old_new: mean of r − 1 − log r", "nats", charts=(_ESTIMATES,)),
    "kl/js": Tag("Jensen-Shannon divergence, where it has a closed form", "nats", charts=(_JS,)),
    "kl/js_estimate": Tag(
        "estimate of it from the sampled actions, elsewhere", "nats", charts=(_JS,)
    ),
    "kl/target": Tag(
        "target or bound of kl/old_new, where the algorithm has one",
        "nats",
        charts=("KL: target of KL(π_old ‖ π_θ)",),
    ),
    "kl/coefficient": Tag("β that the update used", "", charts=("KL: coefficient of the penalty",)),
    "ratio/mean": Tag("mean of r = π_θ(a|s) / π_old(a|s)"),
    "ratio/std": Tag(
        "standard deviation of r", "", charts=("Ratio: standard deviation of the ratio",)
    ),
    "ratio/min": Tag("smallest r", "", charts=(_EXTREMES,)),
    "ratio/max": Tag("largest r", "", charts=(_EXTREMES,)),
    "ratio/clip_fraction": Tag(
        "share of r outside the clip", "share", charts=("Ratio: share of ratios outside the clip",)
    ),
    "ratio/effective_sample_size": Tag(
        "(Σ r)² / (B Σ r²)", "share", UP, ("Ratio: effective sample size, share of the batch",)
    ),
    "policy/entropy": Tag("entropy of π_θ, mean over states", "nats", charts=(_ENTROPY,)),
    "policy/entropy_estimate": Tag(
        "estimate of it, for squashed actions", "nats", charts=(_ENTROPY,)
    ),
    "policy/std": Tag(
        "mean standard deviation of Gaussian actions",
        "half-ranges",
        charts=("Policy: standard deviation of Gaussian actions",),
    ),
    "policy/loss": Tag("loss of the policy, mean over the update's steps"),
    "value/loss": Tag("loss of the critic, mean over the fit's steps", "", DOWN, ("Value: loss",)),
    "value/grad_norm": Tag(
        "norm of the critic's gradient before clipping, mean over steps",
        "",
        charts=("Value: norm of the gradient",),
    ),
    "value/explained_variance": Tag(
        "explained variance of the values that the advantages use", "share", UP, (_VARIANCE,)
    ),
    "value/explained_variance_after": Tag(
        "the same after the critic's fit", "share", UP, (_VARIANCE,)
    ),
    "trust_region/step_fraction": Tag(
        "share of the full step that was taken",
        "share",
        charts=("Trust region: share of the full step that was taken",),
    ),
    "trust_region/accepted": Tag("1 if a step was taken, else 0"),
    "trust_region/expected_improvement": Tag(
        "improvement of the surrogate by the linear model", "", UP, (_IMPROVEMENT,)
    ),
    "trust_region/actual_improvement": Tag(
        "improvement of the surrogate, with standardized advantages", "", UP, (_IMPROVEMENT,)
    ),
    "trust_region/cg_residual": Tag(
        "norm of conjugate gradient's residual",
        "",
        DOWN,
        ("Trust region: residual of conjugate gradients",),
    ),
    "trust_region/backtracks": Tag(
        "backtracks of the line search", "", charts=("Trust region: backtracks of the line search",)
    ),
    "optim/lr": Tag("learning rate of the policy"),
    "optim/grad_norm": Tag("norm of the policy's gradient before clipping, mean over steps"),
    "optim/epochs": Tag("epochs of the update"),
    "optim/stopped_early": Tag("1 if the update stopped early, else 0"),
    "time/env_steps_per_second": Tag(
        "environment steps per second of the iteration",
        "steps/s",
        UP,
        ("Speed: environment steps per second",),
    ),
    "time/collect": Tag("collecting the rollout", "seconds", DOWN, (_PHASES,)),
    "time/prepare": Tag("making the batch", "seconds", DOWN, (_PHASES,)),
    "time/update": Tag("updating policy and critic", "seconds", DOWN, (_PHASES,)),
    "time/report": Tag("computing this report", "seconds", DOWN, (_PHASES,)),
}
"""All numbers of the report, the same for every algorithm; NaN where one does not apply."""


@dataclass(frozen=True)
class Report:
    """The data that is logged for an iteration.

    Attributes:
        env_steps: environment steps at its end.
        scalars: a value for each of `TAGS`, in their order; NaN where one does not apply.
        histograms: tensors `[B]` by tag.
        episodes: episodes that ended in it.
        bad_update: the update, if it was reverted because it was not finite.
    """

    env_steps: int
    scalars: dict[str, float]
    histograms: Mapping[str, Tensor]
    episodes: Sequence[Episode] = ()
    bad_update: BadUpdate | None = None


def scalars_of(*parts: Mapping[str, float]) -> dict[str, float]:
    """Merge the scalars of a report, with NaN for tags that do not apply.

    Raises:
        KeyError: a tag is not in `TAGS`.
    """
    found = {tag: value for part in parts for tag, value in part.items()}
    unknown = set(found) - set(TAGS)
    if unknown:
        raise KeyError(f"unknown tags {sorted(unknown)}: add them to rlkl.training.report.TAGS")
    return {tag: found.get(tag, math.nan) for tag in TAGS}


def charts() -> dict[str, dict[str, list[str]]]:
    """Return the tags of each chart, by category and title."""
    found: dict[str, dict[str, list[str]]] = {category: {} for category in CATEGORIES}
    for name, tag in TAGS.items():
        for chart in tag.charts:
            category, _, title = chart.partition(": ")
            found[category].setdefault(title, []).append(name)
    return found


def markdown_table() -> str:
    """Return `TAGS` as the table of docs/dashboard.md."""
    lines = ["| tag | what it is | unit | better |", "|---|---|---|---|"]
    for name, tag in TAGS.items():
        text = tag.help.replace("|", r"\|")
        lines.append(f"| `{name}` | {text} | {tag.unit} | {tag.better} |")
    return "\n".join(lines)

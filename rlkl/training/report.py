"""The report of an iteration, and the table of all its numbers."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlkl.rollouts.rollout import Episode
from rlkl.training.diagnostics import HIDDEN_LAYERS
from rlkl.training.nonfinite_guard import BadUpdate

UP, DOWN, NEITHER = "higher", "lower", ""


class Tag(NamedTuple):
    """The meaning of a number in the report; a plain number has no unit."""

    help: str
    unit: str = ""
    better: str = NEITHER


TAGS: dict[str, Tag] = {
    "return/train": Tag("mean return of the last 100 training episodes", "reward", UP),
    "return/eval": Tag("mean return of an evaluation with deterministic actions", "reward", UP),
    "episode/length": Tag("mean length of the last 100 training episodes", "steps"),
    "episode/count": Tag("training episodes finished so far"),
    "kl/old_new": Tag("KL(π_old ‖ π_θ) after the update, mean over states", "nats"),
    "kl/new_old": Tag("KL(π_θ ‖ π_old), mean over states", "nats"),
    "kl/max": Tag("largest KL(π_old ‖ π_θ) of a state in the batch", "nats"),
    "kl/new_old_max": Tag("largest KL(π_θ ‖ π_old) of a state in the batch", "nats"),
    "kl/k1": Tag("estimate of kl/old_new: mean of −log r", "nats"),
    "kl/k2": Tag("estimate of kl/old_new: mean of ½ (log r)²", "nats"),
    "kl/k3": Tag("estimate of kl/old_new: mean of r − 1 − log r", "nats"),
    "kl/js": Tag("Jensen-Shannon divergence, where it has a closed form", "nats"),
    "kl/js_estimate": Tag("estimate of kl/js from the sampled actions, elsewhere", "nats"),
    "kl/target": Tag("target or bound of kl/old_new, where the algorithm has one", "nats"),
    "kl/reference": Tag("KL to the reference policy in the direction of the penalty", "nats"),
    "kl/reference_coefficient": Tag("weight of kl/reference that the update used"),
    "kl/coefficient": Tag("weight of the KL that the update used: β, or 1/t of mdpo"),
    "ratio/mean": Tag("mean of r = π_θ(a|s) / π_old(a|s)"),
    "ratio/std": Tag("standard deviation of r"),
    "ratio/min": Tag("smallest r"),
    "ratio/max": Tag("largest r"),
    "ratio/clip_fraction": Tag("share of r outside the clip", "share"),
    "ratio/effective_sample_size": Tag("(Σ r)² / (B Σ r²)", "share", UP),
    "policy/entropy": Tag("entropy of π_θ, mean over states", "nats"),
    "policy/entropy_estimate": Tag("estimate of policy/entropy, for squashed actions", "nats"),
    "policy/std": Tag("mean standard deviation of Gaussian actions", "half-ranges"),
    "policy/loss": Tag("loss of the policy, mean over the update's steps"),
    "value/loss": Tag("loss of the critic, mean over the fit's steps", "", DOWN),
    "value/grad_norm": Tag("norm of the critic's gradient before clipping, mean over steps"),
    "value/explained_variance": Tag(
        "explained variance of the values that the advantages use", "share", UP
    ),
    "value/explained_variance_after": Tag("explained variance after the critic's fit", "share", UP),
    "trust_region/step_fraction": Tag("share of the full step that was taken", "share"),
    "trust_region/accepted": Tag("1 if a step was taken, else 0"),
    "trust_region/expected_improvement": Tag(
        "improvement of the surrogate by the linear model", "", UP
    ),
    "trust_region/actual_improvement": Tag(
        "improvement of the surrogate, with standardized advantages", "", UP
    ),
    "trust_region/cg_residual": Tag("norm of conjugate gradient's residual", "", DOWN),
    "trust_region/backtracks": Tag("backtracks of the line search"),
    "trust_region/fixup_steps": Tag("gradient steps of the fixup phase (FixPO, TRPL)", "", DOWN),
    "trust_region/temperature": Tag("η of V-MPO's weights"),
    "optim/lr": Tag("learning rate of the policy"),
    "optim/grad_norm": Tag("norm of the policy's gradient before clipping, mean over steps"),
    "optim/epochs": Tag("epochs of the update"),
    "optim/stopped_early": Tag("1 if the update stopped early, else 0"),
    "time/env_steps_per_second": Tag(
        "environment steps per second of the iteration", "steps/s", UP
    ),
    "time/collect": Tag("collecting the rollout", "seconds", DOWN),
    "time/prepare": Tag("making the batch", "seconds", DOWN),
    "time/update": Tag("updating policy and critic", "seconds", DOWN),
    "time/report": Tag("computing this report", "seconds", DOWN),
}
"""All numbers of the report, the same for every algorithm; NaN where one does not apply."""

_OF = {"policy": "policy", "value": "critic"}
_LAYERS = {str(n): f"layer {n}" for n in range(1, HIDDEN_LAYERS + 1)} | {"output": "output layer"}

DIAGNOSIS_TAGS: dict[str, Tag] = {
    "plasticity/entropy_min": Tag("smallest entropy of a state in the batch", "nats"),
    "plasticity/policy_rank": Tag("effective rank of the policy's features", "", UP),
    "plasticity/value_rank": Tag("effective rank of the critic's features", "", UP),
    "plasticity/policy_dormant": Tag("dormant units of the policy", "share", DOWN),
    "plasticity/value_dormant": Tag("dormant units of the critic", "share", DOWN),
    **{
        f"plasticity/{key}_grad_norm_{layer}": Tag(f"norm of the gradient in the {name}'s {place}")
        for key, name in _OF.items()
        for layer, place in _LAYERS.items()
    },
}
"""Numbers that are reported every `logger.diagnosis_interval` iterations."""

CHARTS: dict[str, dict[str, list[str]]] = {
    "Return and KL": {
        "return, mean of the last 100 training episodes": ["return/train"],
        "KL(π_old ‖ π_θ) beside its target": ["kl/old_new", "kl/target"],
    },
    "Return": {
        "return while training, mean of the last 100 episodes": ["return/train"],
        "return of deterministic actions": ["return/eval"],
        "steps of an episode": ["episode/length"],
    },
    "KL": {
        "KL(π_old ‖ π_θ), mean over states": ["kl/old_new"],
        "both directions, mean over states": ["kl/old_new", "kl/new_old"],
        "largest of a state, both directions": ["kl/max", "kl/new_old_max"],
        "estimates of KL(π_old ‖ π_θ) from the sampled actions": ["kl/k1", "kl/k2", "kl/k3"],
        "Jensen-Shannon divergence, exact or estimated": ["kl/js", "kl/js_estimate"],
        "target of KL(π_old ‖ π_θ)": ["kl/target"],
        "coefficient of the penalty": ["kl/coefficient"],
        "KL to the reference policy": ["kl/reference"],
        "coefficient of the KL to the reference policy": ["kl/reference_coefficient"],
    },
    "Ratio": {
        "standard deviation of the ratio": ["ratio/std"],
        "smallest and largest ratio": ["ratio/min", "ratio/max"],
        "share of ratios outside the clip": ["ratio/clip_fraction"],
        "effective sample size, share of the batch": ["ratio/effective_sample_size"],
    },
    "Trust region": {
        "share of the full step that was taken": ["trust_region/step_fraction"],
        "improvement of the surrogate, expected and actual": [
            "trust_region/expected_improvement", "trust_region/actual_improvement"
        ],
        "residual of conjugate gradients": ["trust_region/cg_residual"],
        "backtracks of the line search": ["trust_region/backtracks"],
        "steps of the fixup phase": ["trust_region/fixup_steps"],
        "temperature": ["trust_region/temperature"],
    },
    "Policy": {
        "entropy": ["policy/entropy", "policy/entropy_estimate"],
        "standard deviation of Gaussian actions": ["policy/std"],
    },
    "Value": {
        "loss": ["value/loss"],
        "norm of the gradient": ["value/grad_norm"],
        "explained variance, before and after the fit": [
            "value/explained_variance", "value/explained_variance_after"
        ],
    },
    "Plasticity": {
        "effective rank of the features": ["plasticity/policy_rank", "plasticity/value_rank"],
        "share of dormant units": ["plasticity/policy_dormant", "plasticity/value_dormant"],
        "smallest entropy of a state": ["plasticity/entropy_min"],
        **{
            f"norm of the {name}'s gradient, by layer": [
                f"plasticity/{key}_grad_norm_{layer}" for layer in _LAYERS
            ]
            for key, name in _OF.items()
        },
    },
    "Speed": {
        "environment steps per second": ["time/env_steps_per_second"],
        "seconds of an iteration, by phase": [
            "time/collect", "time/prepare", "time/update", "time/report"
        ],
    },
}  # fmt: skip
"""TensorBoard's charts: the tags of each, by category and title."""


RESERVED = {tag.partition("/")[0] for tag in (*TAGS, *DIAGNOSIS_TAGS)} | {
    "advantage", "evaluation", "info", "kl_bounds", "run",
}  # fmt: skip
"""First parts of tags that callbacks cannot use."""

_OWN_TAG = re.compile(r"[A-Za-z]\w*(/[\w.-]+)+", re.ASCII)


def check_own_tag(tag: Any) -> None:
    """Check the tag of something that is logged besides `TAGS`.

    Raises:
        ValueError: it is no name such as `custom/distance`, or its first part is reserved.
    """
    if not isinstance(tag, str) or not _OWN_TAG.fullmatch(tag):
        raise ValueError(f"tag {tag!r}: expected a prefix and a name, such as custom/distance")
    prefix = tag.partition("/")[0]
    if prefix in RESERVED:
        raise ValueError(f"tag {tag}: the prefix {prefix}/ is rlkl's own; use custom/ or another")


def is_own_column(column: str) -> bool:
    """Return whether a column of `metrics.csv` is of a callback or of `logger.info_keys`."""
    prefix = column.partition("/")[0]
    return bool(_OWN_TAG.fullmatch(column)) and (prefix == "info" or prefix not in RESERVED)


class Video(NamedTuple):
    """Pictures in RGB, uint8 `[T, H, W, 3]`, and how many are shown in a second."""

    frames: NDArray[np.uint8]
    fps: float


@dataclass(frozen=True)
class Report:
    """The data that is logged for an iteration.

    Attributes:
        env_steps: environment steps at its end.
        scalars: a value for each of `TAGS`, in their order, NaN where one does not apply; then
            those of `DIAGNOSIS_TAGS`, if they are due, of `logger.info_keys` and of callbacks.
        histograms: tensors `[B]` by tag.
        episodes: episodes that ended in it.
        bad_update: the update, if it was reverted because it was not finite.
        images: pictures in RGB, uint8 `[H, W, 3]`, by tag.
        videos: by tag.
    """

    env_steps: int
    scalars: dict[str, float]
    histograms: Mapping[str, Tensor]
    episodes: Sequence[Episode] = ()
    bad_update: BadUpdate | None = None
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    videos: dict[str, Video] = field(default_factory=dict)

    def log(self, tag: str, value: float) -> None:
        """Add a number of a callback.

        Args:
            tag: in the `tags` of the callback.
            value: a number; NaN for an empty field.

        Raises:
            ValueError: the tag or the value cannot be used.
        """
        check_own_tag(tag)
        self.scalars[tag] = float(value)

    def log_image(self, tag: str, image: Any) -> None:
        """Add a picture.

        Args:
            tag: such as `custom/map`.
            image: RGB, uint8 `[H, W, 3]`.

        Raises:
            ValueError: the tag or the picture cannot be used.
        """
        check_own_tag(tag)
        self.images[tag] = _pixels(tag, image, 3)

    def log_video(self, tag: str, frames: Any, fps: float = 30.0) -> None:
        """Add a video.

        Args:
            tag: such as `custom/trajectory`.
            frames: RGB, uint8 `[T, H, W, 3]`.
            fps: frames in a second.

        Raises:
            ValueError: the tag or the frames cannot be used.
        """
        check_own_tag(tag)
        self.videos[tag] = Video(_pixels(tag, frames, 4), float(fps))


def _pixels(tag: str, pixels: Any, ndim: int) -> NDArray[np.uint8]:
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3 or not array.size:
        expected = "(H, W, 3)" if ndim == 3 else "(T, H, W, 3)"
        raise ValueError(
            f"{tag} has shape {array.shape} and type {array.dtype}; expected {expected} and uint8"
        )
    return array.copy()


def scalars_of(*parts: Mapping[str, float]) -> dict[str, float]:
    """Merge the scalars of a report, with NaN for those of `TAGS` that do not apply.

    Raises:
        KeyError: a tag is not in `TAGS` or `DIAGNOSIS_TAGS`.
    """
    found = {tag: value for part in parts for tag, value in part.items()}
    infos = {tag: value for tag, value in found.items() if tag.startswith("info/")}
    unknown = found.keys() - TAGS.keys() - DIAGNOSIS_TAGS.keys() - infos.keys()
    if unknown:
        raise KeyError(f"unknown tags {sorted(unknown)}: add them to rlkl.training.report.TAGS")
    diagnosis = {tag: found[tag] for tag in DIAGNOSIS_TAGS if tag in found}
    return {tag: found.get(tag, math.nan) for tag in TAGS} | diagnosis | infos

"""Proximal policy optimization with a clipped ratio."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlkl.algos.base import FixedObjective, MinibatchConfig
from rlkl.algos.first_order import FirstOrder, maker
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.numerics.losses import clipped_surrogate
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class ClipConfig(MinibatchConfig):
    """Hyperparameters of every policy-optimizer with PPO's clipped surrogate and a target KL.

    Attributes:
        clip_ratio: ε, the distance from 1 at which a ratio is clipped.
        clip_ratio_high: ε above 1, if different; null for `clip_ratio`.
        dual_clip: c, the ratio above which an action with a negative advantage has no gradient;
            null for no such bound.
        target_kl: of KL(π_old ‖ π_θ), in nats.
        target_kl_scope: `minibatch` measures the KL on each minibatch before its step, `epoch` on
            the full batch after each epoch.
    """

    knob: ClassVar[tuple[str, ...]] = ("clip_ratio",)

    clip_ratio: float = limited(0.2, above=0, below=1)
    clip_ratio_high: float | None = limited(None, above=0)
    dual_clip: float | None = limited(None, above=1)
    target_kl: float | None = limited(None, above=0)
    target_kl_scope: str = limited("epoch", choices=("minibatch", "epoch"))

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The interval of unclipped ratios, 1 - ε to 1 + ε."""
        high = self.clip_ratio if self.clip_ratio_high is None else self.clip_ratio_high
        return 1 - self.clip_ratio, 1 + high


@dataclass(frozen=True)
class PPOClipConfig(ClipConfig):
    """Hyperparameters of PPO-clip.

    Attributes:
        target_kl: an update stops early if KL(π_old ‖ π_θ) exceeds `target_kl_multiplier` times
            this, in nats; null never stops.
        target_kl_multiplier: see `target_kl`.
        target_ratio_deviation: an update stops early if E[|r - 1|], measured where
            `target_kl_scope` says, exceeds this; null never stops.
    """

    name: str = "ppo_clip"
    target_kl_multiplier: float = limited(1.5, above=0)
    target_ratio_deviation: float | None = limited(None, above=0)

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """The range without an early stop, in multiples of `target_kl`."""
        return 0.0, self.target_kl_multiplier


class ClippedSurrogate(FixedObjective):
    """-E[min(r · A, clip(r, 1 - ε, 1 + ε) · A)] (Schulman 2017, eq. 7).

    With a dual clip c it is -E[max(min(...), c · A)] where A < 0 (Ye 2020).
    """

    def __init__(self, config: ClipConfig) -> None:
        self.bounds = config.ratio_bounds
        self.dual_clip = config.dual_clip
        self.target_kl = config.target_kl

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the clipped surrogate."""
        value, derivative = clipped_surrogate(
            new.xp, new.ratio, batch.advantages, *self.bounds, self.dual_clip
        )
        return Loss(-value, -derivative)


class EarlyStopping(FirstOrder):
    """Ends an update where the KL or the ratio is beyond its limit, measured at the scope."""

    config: PPOClipConfig

    def _ends(self, scope: str, rows: Any, steps: int) -> bool:
        config, engine = self.config, self.engine
        if scope != config.target_kl_scope:
            return False
        kl, deviation = config.target_kl, config.target_ratio_deviation
        if kl is not None and engine.mean_kl(rows) > kl * config.target_kl_multiplier:
            return True
        return deviation is not None and engine.mean_ratio_deviation(rows) > deviation


make = maker(ClippedSurrogate, EarlyStopping)

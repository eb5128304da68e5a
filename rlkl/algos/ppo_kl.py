"""Proximal policy optimization with a KL penalty whose coefficient is adaptive or fixed."""

import math
from dataclasses import dataclass
from typing import ClassVar

from rlkl.algos.base import LearningObjective, Metrics, MinibatchConfig
from rlkl.algos.first_order import maker
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.numerics.losses import surrogate
from rlkl.numerics.schedules import scheduled_field
from rlkl.utils.field_types import limited
from rlkl.utils.validation import check_between

TOLERANCE = 1.5
"""β changes if the KL differs from its target by more than this factor."""


@dataclass(frozen=True)
class KLPenaltyConfig(MinibatchConfig):
    """Hyperparameters of every algorithm with a KL penalty.

    Attributes:
        kl_coefficient: β, the weight of KL(π_old ‖ π_θ); 0 for no penalty.
    """

    kl_coefficient: float = limited(1.0, at_least=0)


@dataclass(frozen=True)
class PPOKLFixedConfig(KLPenaltyConfig):
    """Hyperparameters of PPO with a fixed KL penalty.

    Attributes:
        kl_coefficient_schedule: `constant`, or `linear` to 0 over the training budget.
    """

    knob: ClassVar[tuple[str, ...]] = ("kl_coefficient",)

    name: str = "ppo_kl_fixed"
    kl_coefficient_schedule: str = "constant"


@dataclass(frozen=True)
class PPOKLConfig(KLPenaltyConfig):
    """Hyperparameters of PPO with an adaptive KL penalty.

    Attributes:
        kl_coefficient: β of the first update.
        target_kl: target for the KL(π_old ‖ π_θ) of an update, in nats.
        kl_coefficient_min: lower bound of β.
        kl_coefficient_max: upper bound of β.
    """

    knob: ClassVar[tuple[str, ...]] = ("target_kl",)

    name: str = "ppo_kl"
    target_kl: float = limited(0.01, above=0)
    kl_coefficient_min: float = 1e-4
    kl_coefficient_max: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = self.kl_coefficient_min, self.kl_coefficient_max
        check_between("algo.kl_coefficient", self.kl_coefficient, *bounds)

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """The range in which β does not change, in multiples of `target_kl`."""
        return 1 / TOLERANCE, TOLERANCE


def adapted_kl_coefficient(
    kl_coefficient: float, kl: float, target_kl: float, lowest: float, highest: float
) -> float:
    """Return β for the next update, between bounds (Schulman 2017, section 4).

    β doubles if KL(π_old ‖ π_θ) over the full batch is above 1.5 · target and halves if it is below
    target / 1.5. It does not change otherwise, or if the KL is not finite.
    """
    if not math.isfinite(kl):
        return kl_coefficient
    if kl > TOLERANCE * target_kl:
        kl_coefficient *= 2
    elif kl < target_kl / TOLERANCE:
        kl_coefficient /= 2
    return min(max(kl_coefficient, lowest), highest)


class KLPenalizedSurrogate(LearningObjective):
    """-E[r · A - β · KL(π_old ‖ π_θ)] (Schulman 2017, eq. 8); β adapts if there is a target."""

    saved: ClassVar[tuple[str, ...]] = ("kl_coefficient",)
    uses_kl, uses_entropy, uses_distribution = True, False, False

    def __init__(self, config: KLPenaltyConfig) -> None:
        self.config = config
        self.kl_coefficient = config.kl_coefficient
        self.target_kl = config.target_kl if isinstance(config, PPOKLConfig) else None

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the penalised surrogate."""
        value, derivative = surrogate(new.ratio, batch.advantages)
        if not self.kl_coefficient:  # 0 times an infinite KL would be NaN
            return Loss(-value, -derivative)
        penalty = self.kl_coefficient * new.mean_kl()
        return Loss(penalty - value, -derivative, kl=self.kl_coefficient / len(batch))

    @property
    def metrics(self) -> Metrics:
        """β, and the target KL if there is one."""
        return super().metrics | {"kl/coefficient": self.kl_coefficient}

    def follow(self, progress: float) -> None:
        """Set β if it has a schedule."""
        config = self.config
        if isinstance(config, PPOKLFixedConfig) and config.kl_coefficient_schedule != "constant":
            self.kl_coefficient = scheduled_field(config, "kl_coefficient", progress)

    def adapt(self, kl: float) -> None:
        """Adapt β for the next update."""
        config = self.config
        if isinstance(config, PPOKLConfig):
            bounds = config.kl_coefficient_min, config.kl_coefficient_max
            self.kl_coefficient = adapted_kl_coefficient(
                self.kl_coefficient, kl, config.target_kl, *bounds
            )


make = maker(KLPenalizedSurrogate)

"""Proximal policy optimization with a clipped ratio, whose learning rate follows the KL."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlkl.algos.first_order import FirstOrder, maker
from rlkl.algos.ppo_clip import ClipConfig, ClippedSurrogate
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_between

TOLERANCE = 2.0
"""The learning rate changes if the KL differs from its target by more than this factor."""

CHANGE = 1.5
"""The factor of a change."""


@dataclass(frozen=True)
class PPOKLLRConfig(ClipConfig):
    """Hyperparameters of PPO-clip with a learning rate that follows the KL.

    Attributes:
        target_kl: target for the KL(π_old ‖ π_θ) within an update, in nats.
        learning_rate: of the first step.
        learning_rate_schedule: only `constant`, since the KL sets the learning rate.
        learning_rate_warmup: only 0, for the same reason.
        learning_rate_min: lower bound of the learning rate.
        learning_rate_max: upper bound of the learning rate.
    """

    knob: ClassVar[tuple[str, ...]] = ("target_kl",)

    name: str = "ppo_kl_lr"
    learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    num_epochs: int = 5
    target_kl: float = 0.01
    target_kl_scope: str = "minibatch"
    learning_rate_min: float = 1e-5
    learning_rate_max: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate_schedule != "constant":
            raise ConfigError(
                f"algo.learning_rate_schedule={self.learning_rate_schedule}: with algo=ppo_kl_lr "
                "the KL sets the learning rate; expected constant, the default"
            )
        if self.learning_rate_warmup:
            raise ConfigError(
                f"algo.learning_rate_warmup={self.learning_rate_warmup:g}: with algo=ppo_kl_lr the "
                "KL sets the learning rate; leave it out, or start with a smaller learning_rate"
            )
        bounds = self.learning_rate_min, self.learning_rate_max
        check_between("algo.learning_rate", self.learning_rate, *bounds)

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """The range in which the learning rate does not change, in multiples of `target_kl`."""
        return 1 / TOLERANCE, TOLERANCE


def adapted_learning_rate(
    learning_rate: float, kl: float, target_kl: float, lowest: float, highest: float
) -> float:
    """Return the learning rate after a measurement of KL(π_old ‖ π_θ), between bounds.

    It is divided by 1.5 if the KL is above 2 · target, and multiplied by 1.5 if the KL is below
    target / 2 and not 0. It does not change otherwise, or if the KL is NaN. This is the rule of
    rsl_rl (Rudin 2021, arXiv:2109.11978).
    """
    if kl > TOLERANCE * target_kl:
        return max(lowest, learning_rate / CHANGE)
    if 0 < kl < target_kl / TOLERANCE:
        return min(highest, learning_rate * CHANGE)
    return learning_rate


class KLAdaptiveRate(FirstOrder):
    """A policy-optimizer whose learning rate follows the KL, and is kept from update to update."""

    config: PPOKLLRConfig

    def _set_learning_rate(self, progress: float) -> None:
        pass

    def _ends(self, scope: str, rows: Any, steps: int) -> bool:
        # Before the first step the KL is 0, but rounding can make it positive.
        if scope == self.config.target_kl_scope and steps > 0:
            self._follow(self.engine.mean_kl(rows))
        return False

    def _follow(self, kl: float) -> None:
        config = self.config
        bounds = config.learning_rate_min, config.learning_rate_max
        self.adam.learning_rate = adapted_learning_rate(
            self.adam.learning_rate, kl, config.target_kl, *bounds
        )

    def adapt(self, kl: float) -> None:
        """Adapt the learning rate to the KL after the last epoch, if it is measured per epoch."""
        if self.config.target_kl_scope == "epoch":
            self._follow(kl)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `FirstOrder`, and the learning rate."""
        return super().state_dict() | {"learning_rate": self.adam.learning_rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict(state)
        self.adam.learning_rate = float(state["learning_rate"])


make = maker(ClippedSurrogate, KLAdaptiveRate)

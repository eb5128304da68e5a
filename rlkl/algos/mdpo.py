"""Mirror descent policy optimization: a penalty on the reverse KL, with a step size that falls."""

from dataclasses import dataclass
from typing import ClassVar

from rlkl.algos.base import FixedObjective, Metrics, MinibatchConfig
from rlkl.algos.first_order import maker
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.numerics.losses import surrogate
from rlkl.numerics.schedules import scheduled_field
from rlkl.utils.field_types import limited

SMALLEST_STEP_SIZE = 1e-6
"""A step size of 0, at the end of a linear schedule, would be an infinite penalty."""


@dataclass(frozen=True)
class MDPOConfig(MinibatchConfig):
    """Hyperparameters of on-policy MDPO.

    Attributes:
        step_size: t of the first update; 1 / t is the weight of KL(π_θ ‖ π_old).
        step_size_schedule: `constant`, or `linear` to 0 over the training budget.
    """

    knob: ClassVar[tuple[str, ...]] = ("step_size",)

    name: str = "mdpo"
    step_size: float = limited(1.0, at_least=SMALLEST_STEP_SIZE)
    step_size_schedule: str = "linear"


class MirrorDescentObjective(FixedObjective):
    """-E[r · A - (1/t) · KL(π_θ ‖ π_old)] (Tomar et al. 2022, arXiv:2005.09814).

    Where π can be any distribution, its maximum is π ∝ π_old · exp(t · A).
    """

    uses_kl = True

    def __init__(self, config: MDPOConfig) -> None:
        self.config, self.step_size = config, config.step_size

    def follow(self, progress: float) -> None:
        """Set t."""
        step_size = scheduled_field(self.config, "step_size", progress)
        self.step_size = max(step_size, SMALLEST_STEP_SIZE)

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the penalised surrogate."""
        value, derivative = surrogate(new.ratio, batch.advantages)
        penalty = new.reverse_kl.mean() / self.step_size
        return Loss(penalty - value, -derivative, reverse_kl=1 / self.step_size / len(batch))

    @property
    def metrics(self) -> Metrics:
        """The weight of the reverse KL."""
        return {"kl/coefficient": 1 / self.step_size}


make = maker(MirrorDescentObjective)

"""Simple policy optimization: a quadratic penalty on the ratio instead of a clip."""

from dataclasses import dataclass
from typing import ClassVar

from rlkl.algos.base import FixedObjective, MinibatchConfig
from rlkl.algos.first_order import maker
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class SPOConfig(MinibatchConfig):
    """Hyperparameters of SPO.

    Attributes:
        ratio_bound: ε, the distance of a ratio from 1 at the optimum of its sample.
    """

    knob: ClassVar[tuple[str, ...]] = ("ratio_bound",)

    name: str = "spo"
    ratio_bound: float = limited(0.2, above=0, below=1)

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The interval of ratios up to their optima, 1 - ε to 1 + ε."""
        return 1 - self.ratio_bound, 1 + self.ratio_bound


class BoundedSurrogate(FixedObjective):
    """-E[r · A - |A| / (2ε) · (r - 1)²] (Xie et al. 2025, arXiv:2401.16025).

    The maximum of each sample is at r = 1 + sign(A) · ε; beyond it the gradient pulls r back.
    """

    def __init__(self, config: SPOConfig) -> None:
        self.ratio_bound = config.ratio_bound

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the penalised surrogate, and its derivative -r · (A - |A| (r - 1) / ε)."""
        advantages, change = batch.advantages, new.ratio - 1
        slope = abs(advantages) * change / self.ratio_bound
        value = (new.ratio * advantages - 0.5 * slope * change).mean()
        return Loss(-value, -new.ratio * (advantages - slope) / len(batch))


make = maker(BoundedSurrogate)

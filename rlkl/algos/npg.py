"""Natural policy gradient: TRPO's step without a line search."""

from dataclasses import dataclass

from rlkl.algos.base import Outcome
from rlkl.algos.natural_gradient import NaturalGradient, NaturalGradientConfig
from rlkl.rollouts.batch import Batch


@dataclass(frozen=True)
class NPGConfig(NaturalGradientConfig):
    """Hyperparameters of the natural policy gradient."""

    name: str = "npg"


class NPG(NaturalGradient):
    """θ ← θ + √(2δ / xᵀFx) · x with F x = g (Kakade 2001).

    The length is that of TRPO (appendix C). The KL after the step is not checked: the quadratic
    model is trusted.
    """

    def update(self, batch: Batch, progress: float) -> Outcome:
        """Take one natural-gradient step."""
        step, metrics = self.step(*self.prepared(batch, progress))
        self.engine.policy.actor_parameters.vector.data.add_(step)
        return self.outcome(metrics, fraction=float(step.any()), backtracks=0)


make = NPG

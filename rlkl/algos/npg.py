"""Natural policy gradient: TRPO's step, taken whole and unseen."""

from dataclasses import dataclass
from typing import Any

from torch import Generator

from rlkl.algos.base import Metrics
from rlkl.algos.natural_gradient import NaturalGradient, NaturalGradientConfig
from rlkl.models.policy import Policy
from rlkl.rollouts.rollout import Batch


@dataclass(frozen=True)
class NPGConfig(NaturalGradientConfig):
    """Hyperparameters of the natural policy gradient."""

    name: str = "npg"


class NPG:
    """θ ← θ + √(2δ / xᵀFx) · x with F x = g (Kakade 2001).

    The length is TRPO's (appendix C). Nothing checks the KL that the step really made: the
    quadratic model is trusted.

    Args:
        config: hyperparameters.
        policy: whose actor is moved.
        generator: source of the states that Fisher-vector products use.
    """

    def __init__(self, config: NPGConfig, policy: Policy, generator: Generator) -> None:
        self.natural_gradient = NaturalGradient(config, policy, generator)
        self.policy = policy

    def update(self, batch: Batch, progress: float) -> Metrics:
        """Take one natural-gradient step."""
        natural = self.natural_gradient
        step = natural.step(natural.prepared(batch), natural.max_kl(progress))
        self.policy.actor_parameters.vector.data.add_(step.step)
        return natural.metrics(step, fraction=float(step.step.any()), backtracks=0)

    def adapt(self, kl: float) -> None:
        """Adapt nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stream of states."""
        return self.natural_gradient.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.natural_gradient.load_state_dict(state)


make = NPG

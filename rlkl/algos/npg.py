"""Natural policy gradient: TRPO's step without a line search."""

from dataclasses import dataclass
from typing import Any

from torch import Generator

from rlkl.algos.base import Outcome
from rlkl.algos.natural_gradient import NaturalGradient, NaturalGradientConfig
from rlkl.engines.base import Engine
from rlkl.rollouts.batch import Batch


@dataclass(frozen=True)
class NPGConfig(NaturalGradientConfig):
    """Hyperparameters of the natural policy gradient."""

    name: str = "npg"


class NPG:
    """θ ← θ + √(2δ / xᵀFx) · x with F x = g (Kakade 2001).

    The length is that of TRPO (appendix C). The KL after the step is not checked: the quadratic
    model is trusted.

    Args:
        config: hyperparameters.
        engine: of the policy whose actor is updated.
        generator: source of the states that Fisher-vector products use.
    """

    def __init__(self, config: NPGConfig, engine: Engine, generator: Generator) -> None:
        self.natural_gradient = NaturalGradient(config, engine, generator)
        self.engine = engine

    def update(self, batch: Batch, progress: float) -> Outcome:
        """Take one natural-gradient step."""
        natural = self.natural_gradient
        step = natural.step(natural.prepared(batch), natural.max_kl(progress))
        self.engine.policy.actor_parameters.vector.data.add_(step.step)
        return natural.outcome(step, fraction=float(step.step.any()), backtracks=0)

    def adapt(self, kl: float) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return self.natural_gradient.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.natural_gradient.load_state_dict(state)


make = NPG

"""Trust region policy optimization: a natural-gradient step, shortened until the KL bound holds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from rlkl.algos.base import Outcome
from rlkl.algos.natural_gradient import NaturalGradient, NaturalGradientConfig
from rlkl.engines.base import Engine
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.trust_region import backtracking_line_search
from rlkl.rollouts.batch import Batch
from rlkl.utils.validation import check_range


@dataclass(frozen=True)
class TRPOConfig(NaturalGradientConfig):
    """Hyperparameters of TRPO.

    Attributes:
        line_search_decay: factor between successive candidates of the line search.
        max_backtracks: number of shorter candidates; if none is accepted, there is no step.
    """

    name: str = "trpo"
    line_search_decay: float = 0.8
    max_backtracks: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.line_search_decay", self.line_search_decay, above=0, below=1)
        check_range("algo.max_backtracks", self.max_backtracks, at_least=0, at_most=10_000)


class TRPO:
    """max_θ E[r · A] subject to E[KL(π_old ‖ π_θ)] ≤ δ (Schulman 2015, eq. 14 and appendix C).

    Args:
        config: hyperparameters.
        engine: of the policy whose actor is updated.
        generator: source of the states that Fisher-vector products use.
    """

    def __init__(self, config: TRPOConfig, engine: Engine, generator: Generator) -> None:
        self.natural_gradient = NaturalGradient(config, engine, generator)
        self.config = config
        self.engine = engine

    def update(self, batch: Batch, progress: float) -> Outcome:
        """Take the longest step of the line search that improves the surrogate within the bound."""
        natural, engine, policy = self.natural_gradient, self.engine, self.engine.policy
        batch = natural.prepared(batch)
        max_kl = natural.max_kl(progress)
        step = natural.step(batch, max_kl)
        if not step.step.any():
            return natural.outcome(step, fraction=0.0, backtracks=0)
        vector = policy.actor_parameters.vector.data
        start = vector.clone()
        old = policy.family(batch.old_parameters.double())

        @torch.no_grad()
        def evaluate(fraction: float) -> tuple[float, float]:
            torch.add(start, step.step, alpha=fraction, out=vector)
            # In float64 after the network: improvement and KL are small differences.
            new = old.at(engine.distribution(batch.inputs).parameters.double())
            return float(before - loss(new)), float(old.kl(new).mean())

        def loss(new: Distribution) -> Tensor:
            value: Tensor = natural.objective.loss(TorchPolicy(new, batch), batch).value
            return value

        before = loss(old)
        search = backtracking_line_search(
            evaluate, max_kl, self.config.line_search_decay, self.config.max_backtracks
        )
        if not search.accepted:
            vector.copy_(start)
        return natural.outcome(step, search.step_fraction, search.backtracks)

    def adapt(self, kl: float) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return self.natural_gradient.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.natural_gradient.load_state_dict(state)


make = TRPO

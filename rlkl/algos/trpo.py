"""Trust region policy optimization: a natural-gradient step, shortened until the KL bound holds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkl.algos.base import Outcome
from rlkl.algos.natural_gradient import NaturalGradient, NaturalGradientConfig
from rlkl.engines.torch import TorchPolicy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.trust_region import backtracking_line_search
from rlkl.rollouts.batch import Batch
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class TRPOConfig(NaturalGradientConfig):
    """Hyperparameters of TRPO.

    Attributes:
        line_search_decay: factor between successive candidates of the line search.
        max_backtracks: number of shorter candidates; if none is accepted, there is no step.
    """

    name: str = "trpo"
    line_search_decay: float = limited(0.8, above=0, below=1)
    max_backtracks: int = limited(10, at_least=0, at_most=10_000)


class TRPO(NaturalGradient):
    """max_θ E[r · A] subject to E[KL(π_old ‖ π_θ)] ≤ δ (Schulman 2015, eq. 14 and appendix C)."""

    config: TRPOConfig

    def update(self, batch: Batch, progress: float) -> Outcome:
        """Take the longest step of the line search that improves the surrogate within the bound."""
        config, policy = self.config, self.engine.policy
        batch, max_kl = self.prepared(batch, progress)
        step, metrics = self.step(batch, max_kl)
        if not step.any():
            return self.outcome(metrics, fraction=0.0, backtracks=0)
        vector = policy.actor_parameters.vector.data
        start = vector.clone()
        old = policy.family(batch.old_parameters.double())

        @torch.no_grad()
        def evaluate(fraction: float) -> tuple[float, float]:
            torch.add(start, step, alpha=fraction, out=vector)
            # In float64 after the network: improvement and KL are small differences.
            new = old.at(self.engine.distribution(batch.inputs).parameters.double())
            return float(before - loss(new)), float(old.kl(new).mean())

        def loss(new: Distribution) -> Tensor:
            value: Tensor = self.objective.loss(TorchPolicy(new, batch), batch).value
            return value

        before = loss(old)
        fraction, backtracks = backtracking_line_search(
            evaluate, max_kl, config.line_search_decay, config.max_backtracks
        )
        if not fraction:
            vector.copy_(start)
        return self.outcome(metrics, fraction, backtracks)


make = TRPO

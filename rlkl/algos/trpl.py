"""TRPL: each state's distribution is projected into a trust region before the ratio is taken."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from rlkl.algos.base import FixedObjective, MinibatchConfig
from rlkl.algos.two_phase import TwoPhase
from rlkl.engines.base import Engine, Loss, NewPolicy
from rlkl.numerics.projections import POWERS, Projection, discrete_projection, gaussian_projection
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited

FIXUP_SCALE = 0.5
"""The fixup phase pulls towards this share of the bounds, so that states get within them."""


@dataclass(frozen=True)
class TRPLConfig(MinibatchConfig):
    """Hyperparameters of TRPL.

    Attributes:
        projection: the distance between distributions: `kl`, `wasserstein` or `frobenius`; the
            latter two for continuous actions only.
        max_state_kl: ε for discrete actions, the largest KL(π_θ ‖ π_old) of any state of the batch,
            in nats.
        mean_bound: ε_μ for continuous actions, of the distance between the means of any state.
        covariance_bound: ε_Σ, likewise between the covariances.
        regression_coefficient: α, the weight of the distance between the network's output and its
            projection.
        max_fixup_steps: gradient steps of the fixup phase; if they do not suffice, the update is
            shortened.
    """

    knob: ClassVar[tuple[str, ...]] = ("max_state_kl", "mean_bound", "covariance_bound")

    name: str = "trpl"
    projection: str = limited("kl", choices=POWERS)
    max_state_kl: float = limited(0.03, above=0)
    mean_bound: float = limited(0.1, above=0)
    covariance_bound: float = limited(0.001, above=0)
    regression_coefficient: float = limited(100.0, at_least=0)
    max_fixup_steps: int = limited(100, at_least=0, at_most=10_000)


class ProjectedSurrogate(FixedObjective):
    """-E[π̃(a|s) / π_old(a|s) · A] + α · E[d(π_θ, π̃)], where π̃ is the projection of π_θ.

    The gradient passes through the projection, and in d through π_θ only.
    """

    uses_distribution = True

    def __init__(self, config: TRPLConfig, projection: Projection, target: float | None) -> None:
        self.coefficient = config.regression_coefficient
        self.projection, self.target_kl = projection, target

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        """Return the loss, computed in float64."""
        parameters, old = new.distribution.parameters.double(), batch.old_parameters.double()
        projected = self.projection(parameters, old)
        log_prob = new.distribution.at(projected).log_prob(batch.actions)
        surrogate = ((log_prob - batch.old_log_prob).exp() * batch.advantages).mean()
        regression = _regression(self.projection, parameters, projected.detach())
        term = self.coefficient * regression - surrogate
        return Loss(term.detach(), torch.zeros_like(new.log_prob), torch_term=term)


class Regression(FixedObjective):
    """E[d(π_θ, π̃)], the loss of the fixup phase; π̃ is well within the bounds."""

    uses_distribution = True

    def __init__(self, projection: Projection) -> None:
        self.projection = projection

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        """Return the loss, computed in float64."""
        parameters, old = new.distribution.parameters.double(), batch.old_parameters.double()
        projected = self.projection(parameters.detach(), old, FIXUP_SCALE)
        term = _regression(self.projection, parameters, projected)
        return Loss(term.detach(), torch.zeros_like(new.log_prob), torch_term=term)


def _regression(projection: Projection, new: Tensor, projected: Tensor) -> Tensor:
    """Return the mean distance from the projected rows; exactly 0 at those that did not move."""
    has_moved = (new != projected).any(-1)
    return (projection.distance(new, projected) * has_moved).mean()


class TRPL(TwoPhase):
    """Trust-region projection layers (Otto et al. 2021, arXiv:2101.09207).

    In the next rollout the network's own output acts, so the fixup phase brings it within the
    bounds in every state of the batch.
    """

    config: TRPLConfig

    def __init__(self, config: TRPLConfig, engine: Engine, generator: Generator) -> None:
        projection, target = _projection(config, engine)
        objective = ProjectedSurrogate(config, projection, target)
        super().__init__(config, objective, engine, generator)
        self.projection = projection
        self.penalty = Regression(projection)
        self.bound = 1.0

    def largest(self, rows: Any) -> float:
        """Return the largest distance of a state from π_old, as a multiple of its bound."""
        new = self.engine.distribution(rows.inputs).parameters.double()
        old: Tensor = torch.as_tensor(rows.old_parameters).double()
        return float(self.projection.excess(new, old).max())


def _projection(config: TRPLConfig, engine: Engine) -> tuple[Projection, float | None]:
    """Return the projection for a policy's distributions, and the bound of the KL if it has one.

    Raises:
        ConfigError: a projection of Gaussians for discrete actions.
    """
    policy, is_kl = engine.policy, config.projection == "kl"
    if policy.decoder.is_continuous:
        bounds = config.mean_bound, config.covariance_bound
        return gaussian_projection(config.projection, *bounds), sum(bounds) if is_kl else None
    if not is_kl:
        raise ConfigError(
            f"algo.projection={config.projection}: needs continuous actions, and these are "
            "discrete; use algo.projection=kl"
        )
    return discrete_projection(policy.family, config.max_state_kl), config.max_state_kl


make = TRPL

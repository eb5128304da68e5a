"""The natural-gradient step of NPG and TRPO."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.algos.base import AlgoConfig, FixedObjective, Metrics, Outcome
from rlkl.engines.base import (
    Engine,
    EntropyBonus,
    Loss,
    Minibatch,
    NewPolicy,
    Objective,
    ReferencePenalty,
)
from rlkl.models.policy import PolicyConfig
from rlkl.numerics.losses import surrogate
from rlkl.numerics.schedules import scheduled_field
from rlkl.numerics.trust_region import conjugate_gradient
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited
from rlkl.utils.state import Stateful


@dataclass(frozen=True)
class NaturalGradientConfig(AlgoConfig):
    """Hyperparameters of every policy-optimizer that takes natural-gradient steps.

    There is no learning rate, since `max_kl` sets the length of the step, and no gradient clip,
    since only the direction of the gradient matters.

    Attributes:
        max_kl: δ, the KL(π_old ‖ π_θ) of the step in the quadratic model, in nats. The model's
            curvature includes the damping, so its KL without damping is somewhat smaller.
        max_kl_schedule: `constant`, or `linear` to 0 over the training budget.
        cg_iterations: of conjugate gradient, with one Fisher-vector product each.
        cg_damping: λ, added to the diagonal of the Fisher matrix.
        cg_residual_tolerance: conjugate gradient stops if its squared residual is at most this
            multiple of the gradient's squared norm.
        fisher_fraction: fraction of the batch's states that Fisher-vector products use, sampled
            again in each update.
    """

    knob: ClassVar[tuple[str, ...]] = ("max_kl",)

    max_kl: float = limited(0.01, above=0)
    max_kl_schedule: str = "linear"
    cg_iterations: int = limited(10, at_least=1, at_most=10_000)
    cg_damping: float = limited(0.1, at_least=0)
    cg_residual_tolerance: float = limited(1e-10, at_least=0)
    fisher_fraction: float = limited(1.0, above=0, at_most=1)


def check_separate_encoder(config: AlgoConfig, policy: PolicyConfig) -> None:
    """Check that a natural-gradient algorithm does not share its encoder.

    Raises:
        ConfigError: the encoder is shared with the critic.
    """
    if isinstance(config, NaturalGradientConfig) and policy.share_encoder:
        raise ConfigError(
            f"policy.share_encoder=true is not possible with algo={config.name}: its step does not "
            "include the value loss, so a shared encoder would not learn for values; use "
            "policy.share_encoder=false, or a first-order algorithm such as ppo_clip"
        )


class Surrogate(FixedObjective):
    """-E[r · A] (TRPO, eq. 14)."""

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the surrogate."""
        value, derivative = surrogate(new.ratio, batch.advantages)
        return Loss(-value, -derivative)


def _power_of_two(number: float) -> float:
    """Return a power of two near a number, or 1; dividing by it is exact."""
    if not 0 < number < math.inf:
        return 1.0
    return 2.0 ** max(-126, min(126, math.frexp(number)[1]))


class NaturalGradient(Stateful):
    """Computes the steps of NPG and TRPO.

    The generator is the source of the states that Fisher-vector products use.

    Attributes:
        objective: its loss is -E[r · A] - c · E[H].

    Raises:
        ConfigError: the encoder is shared with the critic.
    """

    saved = ("generator",)

    def __init__(self, config: NaturalGradientConfig, engine: Engine, generator: Generator) -> None:
        check_separate_encoder(config, engine.policy.config)
        self.config = config
        self.engine = engine
        self.generator = generator
        self.bonus = EntropyBonus(Surrogate(), config.entropy_coefficient)
        self.objective: Objective = self.bonus

    def penalize(self, coefficient: float, direction: str) -> ReferencePenalty:
        """Add a KL to a reference policy to the loss; see `PolicyOptimizer.penalize`."""
        self.objective = penalty = ReferencePenalty(self.objective, coefficient, direction)
        return penalty

    def prepared(self, batch: Batch, progress: float) -> tuple[Batch, float]:
        """Set the entropy coefficient for a fraction of the training budget.

        Returns:
            The batch with its advantages as configured, and δ in nats.
        """
        config = self.config
        self.bonus.coefficient = scheduled_field(config, "entropy_coefficient", progress)
        whole = config.advantage_standardization == "batch"
        max_kl = scheduled_field(config, "max_kl", progress)
        return batch.standardized() if whole else batch, max_kl

    def step(self, batch: Batch, max_kl: float) -> tuple[Tensor, Metrics]:
        """Compute Δθ = √(2δ / xᵀFx) · x with F x = g (Kakade 2001; TRPO, appendix C).

        g is the gradient of the objective and F the damped Fisher matrix, both at θ_old. The batch
        is prepared; δ is `max_kl`, in nats.

        Returns:
            Δθ, `[n]`, which is 0 if g is 0 or Δθ is not finite; and ‖g‖, δ, the improvement
            g · Δθ of the surrogate to first order, and ‖g - F x‖ after conjugate gradient.
        """
        config, engine, policy = self.config, self.engine, self.engine.policy
        policy.settle()
        rows = engine.rows(batch, self.objective)
        rows = next(rows.minibatches(1, self.generator))
        engine.policy_gradient(self.objective, rows)
        gradient = -policy.actor_parameters.gradient
        size = _power_of_two(float(gradient.abs().max()))
        # Avoids underflow of squares; the step depends only on the gradient's direction.
        scaled = gradient / size
        if config.fisher_fraction < 1:
            rows = engine.rows(batch.sample(config.fisher_fraction, self.generator), self.objective)
        with np.errstate(all="ignore"):  # as in torch; a step that is not finite becomes 0
            solution = conjugate_gradient(
                engine.fisher_product(rows, config.cg_damping),
                engine.vector(scaled),
                config.cg_iterations,
                config.cg_residual_tolerance,
            )
        direction, residual = map(torch.as_tensor, solution)
        curvature = float(direction @ (scaled - residual))
        # No step for a zero gradient or an overflow.
        scale = (2 * max_kl / curvature) ** 0.5 if curvature > 0 else 0.0
        step = scale * direction
        if not bool(step.isfinite().all()):
            step = torch.zeros_like(direction)
        return step, {
            "optim/grad_norm": size * float(torch.linalg.vector_norm(scaled)),
            "kl/target": max_kl,
            "trust_region/expected_improvement": size * float(scaled @ step),
            "trust_region/cg_residual": size * float(torch.linalg.vector_norm(residual)),
        }

    def outcome(self, metrics: Metrics, fraction: float, backtracks: int) -> Outcome:
        """Return the outcome of an update, from the metrics of its step."""
        search = {
            "trust_region/step_fraction": fraction,
            "trust_region/accepted": float(fraction > 0),
            "trust_region/backtracks": float(backtracks),
        }
        return Outcome(metrics | search)

    def adapt(self, kl: float) -> None:
        """Do nothing."""

"""The natural-gradient step within a trust region: what NPG takes whole and TRPO searches along."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.algos.base import AlgoConfig, FixedObjective, Metrics, Slopes, standardized
from rlkl.algos.gradients import fisher_root, minibatch_gradient, output_fisher, penalized
from rlkl.engines.numpy.distributions import Array, ClosedForm
from rlkl.engines.numpy.network import HandNetwork
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.losses import surrogate
from rlkl.numerics.schedules import SCHEDULES, scheduled
from rlkl.numerics.trust_region import conjugate_gradient, fisher_vector_product
from rlkl.rollouts.rollout import Batch, Rows
from rlkl.utils.validation import ConfigError, check_choice, check_range


@dataclass(frozen=True)
class NaturalGradientConfig(AlgoConfig):
    """Hyperparameters of every policy-optimizer that takes natural-gradient steps.

    The step's length is set by `max_kl`, so there is no learning rate, and clipping the gradient
    would change nothing: the direction alone counts. Both are options of the critic.

    Attributes:
        max_kl: δ, the step is scaled to this KL(π_old ‖ π_θ) by the quadratic model, in nats; the
            damping counts as curvature, so the model's KL is somewhat below it.
        max_kl_schedule: `constant`, or `linear` to 0 over the training budget.
        cg_iterations: of conjugate gradient, each one Fisher-vector product.
        cg_damping: λ, added to the diagonal of the Fisher matrix.
        cg_residual_tolerance: conjugate gradient ends once its squared residual is no larger than
            this share of the gradient's squared norm.
        fisher_fraction: share of the batch's states that Fisher-vector products use, drawn anew for
            each update.
    """

    max_kl: float = 0.01
    max_kl_schedule: str = "linear"
    cg_iterations: int = 10
    cg_damping: float = 0.1
    cg_residual_tolerance: float = 1e-10
    fisher_fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.max_kl", self.max_kl, above=0)
        check_choice("algo.max_kl_schedule", self.max_kl_schedule, SCHEDULES)
        check_range("algo.cg_iterations", self.cg_iterations, at_least=1, at_most=10_000)
        check_range("algo.cg_damping", self.cg_damping, at_least=0)
        check_range("algo.cg_residual_tolerance", self.cg_residual_tolerance, at_least=0)
        check_range("algo.fisher_fraction", self.fisher_fraction, above=0, at_most=1)


def check_separate_encoder(config: AlgoConfig, policy: PolicyConfig) -> None:
    """Raise if a natural-gradient step would have to move an encoder that values use as well.

    Raises:
        ConfigError: saying why, and what to set.
    """
    if isinstance(config, NaturalGradientConfig) and policy.share_encoder:
        raise ConfigError(
            f"policy.share_encoder=true is not possible with algo={config.name}: its step is the "
            "policy's natural gradient alone, and a shared encoder would never learn for values; "
            "use policy.share_encoder=false, or a first-order algorithm such as ppo_clip"
        )


class Surrogate(FixedObjective):
    """-E[r · A] (TRPO, eq. 14)."""

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        """Return minus the surrogate."""
        ratio = (new.log_prob(batch.actions) - batch.old_log_prob).exp()
        return -surrogate(ratio, batch.advantages)

    def slopes(self, new: ClosedForm, rows: Rows) -> Slopes:
        """Return the loss and its slopes, -r · A / B."""
        slopes = np.exp(new.log_prob - rows.old_log_prob) * rows.advantages
        slopes /= -len(slopes)
        return Slopes(float(np.add.reduce(slopes)), slopes)


@dataclass(frozen=True)
class NaturalStep:
    """A step of the actor's parameters.

    Attributes:
        step: Δθ, `[n]`; 0 where there is no direction to go.
        max_kl: δ it was scaled to, in nats.
        expected_improvement: g · Δθ, of the surrogate to first order.
        gradient_norm: ‖g‖.
        cg_residual: ‖g - F x‖ that conjugate gradient left.
    """

    step: Tensor
    max_kl: float
    expected_improvement: float
    gradient_norm: float
    cg_residual: float


def hand_fisher_vector_product(
    actor: HandNetwork, fisher: Callable[[Array, Array], Array], rows: Rows, damping: float
) -> Callable[[Array], Array]:
    """Products with the Fisher matrix by hand: F v = E[Jᵀ M J v] plus damping · v.

    J is the Jacobian of the distribution's parameters with respect to θ, forward and back through
    the network, and M the Fisher matrix of those parameters. At θ_old this is the Hessian of the KL
    that `fisher_vector_product` differentiates twice, in about half the time.

    Args:
        actor: at θ_old, its last `forward` that of the states, until the last product.
        fisher: distributions' parameters and u to M u, `[B, P]` each.
        rows: the states.
        damping: what is added to the diagonal of F.

    Returns:
        The function v `[n]` to (F + damping · I) v `[n]`.
    """

    def product(vector: Array) -> Array:
        change = actor.tangent(actor.parameters.arrays(vector))
        slopes = fisher(rows.old_parameters, change) / len(change)
        image = np.empty_like(vector)
        actor.backward(slopes, actor.parameters.arrays(image), stops_outward=False)
        image += damping * vector
        return image

    return product


def rooted_fisher_vector_product(
    actor: HandNetwork, root: Array, damping: float
) -> Callable[[Array], Array]:
    """Products with the Fisher matrix by hand where M = e eᵀ: F v = E[g (g · v)] + damping · v.

    g is the gradient of e · (the distribution's parameters), so that one product of matrices for
    each layer does what takes two in `hand_fisher_vector_product`: for two actions and 1024 states
    0.5 ms and not 0.9.

    Args:
        actor: at θ_old, its last `forward` that of the states, until the last product.
        root: e of each state, `[B, P]`.
        damping: what is added to the diagonal of F.

    Returns:
        The function v `[n]` to (F + damping · I) v `[n]`.
    """
    second_moment = actor.second_moment(root / math.sqrt(len(root)))

    def product(vector: Array) -> Array:
        image = np.empty_like(vector)
        second_moment(actor.parameters.arrays(vector), actor.parameters.arrays(image))
        image += damping * vector
        return image

    return product


def _power_of_two(number: float) -> float:
    """Return the power of two next to a number, 1 if there is none: dividing by it is exact."""
    if not 0 < number < math.inf:
        return 1.0
    return 2.0 ** max(-126, min(126, math.frexp(number)[1]))


class NaturalGradient:
    """Everything about an update of NPG and TRPO but how far to go along the step.

    Args:
        config: hyperparameters.
        policy: whose actor is moved.
        generator: source of the states that Fisher-vector products use.

    Raises:
        ConfigError: the actor shares its encoder with the critic.
    """

    def __init__(self, config: NaturalGradientConfig, policy: Policy, generator: Generator) -> None:
        check_separate_encoder(config, policy.config)
        self.config = config
        self.policy = policy
        self.generator = generator
        self.surrogate = Surrogate()
        self.gradient = minibatch_gradient(config, self.surrogate, policy)

    def prepared(self, batch: Batch) -> Batch:
        """Return the batch with its advantages as configured."""
        whole = self.config.advantage_standardization == "batch"
        return standardized(batch) if whole else batch

    def max_kl(self, progress: float) -> float:
        """Return δ at a moment of training, in nats."""
        return scheduled(self.config.max_kl, self.config.max_kl_schedule, progress)

    def objective(self, new: Distribution, batch: Batch) -> Tensor:
        """Return what the step climbs, E[r · A] + c · E[H]."""
        return -penalized(self.surrogate, self.config, new, batch)

    def step(self, batch: Batch, max_kl: float) -> NaturalStep:
        """Compute Δθ = √(2δ / xᵀFx) · x with F x = g (Kakade 2001; TRPO, appendix C).

        g is the gradient of the objective and F the damped Fisher matrix, both at θ_old.

        Args:
            batch: prepared.
            max_kl: δ in nats.
        """
        config = self.config
        self.policy.settle()
        source = self.gradient.source(batch)
        whole = next(self.gradient.minibatches(source, 1, self.generator))
        self.gradient.write(whole)
        gradient = -self.policy.actor_parameters.gradient
        size = _power_of_two(float(gradient.abs().max()))
        # The step depends on the gradient's direction alone, so squares need not underflow.
        scaled = gradient / size
        limits = config.cg_iterations, config.cg_residual_tolerance
        product = self._product_by_hand(batch, whole)
        if product is None:
            by_autograd = self._product_by_autograd(batch)
            direction, residual = conjugate_gradient(by_autograd, scaled, *limits)
        else:
            with np.errstate(all="ignore"):  # as torch does: a step that is not finite is not taken
                solved = conjugate_gradient(product, scaled.numpy(), *limits)
            direction, residual = map(torch.from_numpy, solved)
        curvature = float(direction @ (scaled - residual))
        # A zero gradient has no direction, and an overflow no length: then the policy stays.
        scale = (2 * max_kl / curvature) ** 0.5 if curvature > 0 else 0.0
        step = scale * direction
        if not bool(step.isfinite().all()):
            step = torch.zeros_like(direction)
        return NaturalStep(
            step,
            max_kl,
            size * float(scaled @ step),
            size * float(torch.linalg.vector_norm(scaled)),
            size * float(torch.linalg.vector_norm(residual)),
        )

    def _product_by_autograd(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return products with the damped Fisher matrix, over the share of states configured."""
        policy, batch = self.policy, self._share(batch)
        with policy.past_bounds():
            new = policy.distribution(batch.inputs)
        mean_kl = new.at(batch.old_parameters).kl(new).mean()
        return fisher_vector_product(
            mean_kl, policy.actor_parameters.tensors, self.config.cg_damping
        )

    def _product_by_hand(self, batch: Batch, whole: Rows) -> Callable[[Array], Array] | None:
        """Return the same for arrays, None where that cannot be.

        Args:
            batch: the states.
            whole: its rows, whose gradient was just written.
        """
        policy, damping = self.policy, self.config.cg_damping
        fisher = output_fisher(policy.family)
        if policy.by_hand is None or fisher is None:
            return None
        actor, rows = policy.by_hand.actor, whole
        if self.config.fisher_fraction < 1:
            rows = self._share(batch).rows()
            actor.forward(rows.vectors)
        root = fisher_root(policy.family, rows.old_parameters)
        if root is not None:
            return rooted_fisher_vector_product(actor, root, damping)
        return hand_fisher_vector_product(actor, fisher, rows, damping)

    def _share(self, batch: Batch) -> Batch:
        fraction = self.config.fisher_fraction
        return batch.sample(fraction, self.generator) if fraction < 1 else batch

    def metrics(self, step: NaturalStep, fraction: float, backtracks: int) -> Metrics:
        """Return what is known of an update, by TensorBoard tag."""
        return {
            "optim/grad_norm": step.gradient_norm,
            "kl/target": step.max_kl,
            "trust_region/step_fraction": fraction,
            "trust_region/accepted": float(fraction > 0),
            "trust_region/backtracks": float(backtracks),
            "trust_region/expected_improvement": step.expected_improvement,
            "trust_region/cg_residual": step.cg_residual,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stream of states."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.generator.set_state(state["generator"])

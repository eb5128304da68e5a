"""What every policy-optimizer is: the two protocols, and the hyperparameters that all have."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlkl.engines.numpy.distributions import Array, ClosedForm
from rlkl.models.policy import Policy
from rlkl.numerics.advantages import standardize
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.schedules import SCHEDULES
from rlkl.rollouts.rollout import Batch, Rows
from rlkl.utils.field_types import check_fields
from rlkl.utils.validation import check_choice, check_range

Metrics = dict[str, float]


@dataclass(frozen=True)
class AlgoConfig:
    """Hyperparameters of every policy-optimizer.

    Attributes:
        name: set by the choice of the algorithm (`algo=...`), never by hand.
        entropy_coefficient: weight of the mean entropy in what is maximised.
        advantage_standardization: `batch` over the whole batch, `none`; where there are minibatches
            also `minibatch`, over each of them.
    """

    name: str = ""
    entropy_coefficient: float = 0.0
    advantage_standardization: str = "batch"

    def __post_init__(self) -> None:
        check_fields(self, "algo.")
        check_range("algo.entropy_coefficient", self.entropy_coefficient, at_least=0)
        choices = ("batch", "minibatch", "none") if self._has_minibatches else ("batch", "none")
        check_choice("algo.advantage_standardization", self.advantage_standardization, choices)

    @property
    def _has_minibatches(self) -> bool:
        return False

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The interval outside which a ratio counts as clipped in the report of every algorithm."""
        return 0.8, 1.2

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """Where KL(π_old ‖ π_θ) of an update should lie, in multiples of `kl/target`."""
        return 0.0, 1.0


@dataclass(frozen=True)
class FirstOrderConfig(AlgoConfig):
    """Hyperparameters of every policy-optimizer that follows gradients with Adam.

    Attributes:
        learning_rate: of Adam.
        learning_rate_schedule: `constant`, or `linear` to 0 over the training budget.
        max_grad_norm: the actor's gradient is scaled down to this norm; null leaves it.
        adam_epsilon: added to the denominator of Adam.
    """

    learning_rate: float = 7e-4
    learning_rate_schedule: str = "linear"
    max_grad_norm: float | None = 0.5
    adam_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.learning_rate", self.learning_rate, above=0)
        check_choice("algo.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        if self.max_grad_norm is not None:
            check_range("algo.max_grad_norm", self.max_grad_norm, above=0)
        check_range("algo.adam_epsilon", self.adam_epsilon, above=0)


@dataclass(frozen=True)
class MinibatchConfig(FirstOrderConfig):
    """Hyperparameters of every policy-optimizer that goes over its batch several times.

    Attributes:
        num_epochs: passes over the batch.
        num_minibatches: steps in a pass.
    """

    num_epochs: int = 10
    num_minibatches: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.num_epochs", self.num_epochs, at_least=1, at_most=10_000)
        check_range("algo.num_minibatches", self.num_minibatches, at_least=1)

    @property
    def _has_minibatches(self) -> bool:
        return True


class PolicyOptimizer(Protocol):
    """Moves a policy's actor once for each batch. The critic is not its business."""

    def update(self, batch: Batch, progress: float) -> Metrics:
        """Improve the policy.

        Args:
            batch: collected by the policy as it stands.
            progress: share of the training budget that is spent, 0 to 1.

        Returns:
            What this algorithm alone knows, by TensorBoard tag.
        """
        ...

    def adapt(self, kl: float) -> None:
        """Take note of how far an update went, as the report measured it.

        Args:
            kl: KL(π_old ‖ π_θ) over the full batch, in nats.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        ...


class Objective(Protocol):
    """What tells one first-order algorithm from another."""

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        """Return the scalar to descend.

        Args:
            new: π_θ at the states of the minibatch.
            batch: the minibatch, its advantages standardised as configured.
        """
        ...

    @property
    def metrics(self) -> Metrics:
        """What this objective alone knows, by TensorBoard tag."""
        ...

    def adapt(self, kl: float) -> None:
        """Take note of how far an update went; see `PolicyOptimizer.adapt`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the objective has learned."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        ...


class Slopes(NamedTuple):
    """A loss, and how it changes with what it is made of.

    Attributes:
        loss: a scalar.
        of_log_prob: ∂loss/∂log π_θ(a|s) of each row, `[B]`.
        of_kl: ∂loss/∂KL(π_old ‖ π_θ), the same for each row.
    """

    loss: float
    of_log_prob: Array
    of_kl: float = 0.0


@runtime_checkable
class SlopedObjective(Objective, Protocol):
    """An objective that knows the slopes of its loss, so that torch need not differentiate it.

    Attributes:
        has_kl: whether the loss has a term in KL(π_old ‖ π_θ).
    """

    has_kl: bool

    def slopes(self, new: ClosedForm, rows: Rows) -> Slopes:
        """Return the loss and its slopes.

        Args:
            new: π_θ at the states of the minibatch.
            rows: the minibatch, its advantages standardised as configured.
        """
        ...


class FixedObjective:
    """The part of an objective that has no KL in it, nothing to adapt and nothing to store."""

    has_kl = False

    @property
    def metrics(self) -> Metrics:
        """Nothing."""
        return {}

    def adapt(self, kl: float) -> None:
        """Adapt nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


def standardized(batch: Batch) -> Batch:
    """Return the batch with its advantages standardised over it."""
    return replace(batch, advantages=standardize(batch.advantages))


@torch.no_grad()
def full_batch_kl(policy: Policy, batch: Batch) -> float:
    """Return KL(π_old ‖ π_θ) in nats, averaged over all states of the batch, in float64."""
    old = policy.family(batch.old_parameters.double())
    new = old.at(policy.distribution(batch.inputs).parameters.double())
    return float(old.kl(new).mean())

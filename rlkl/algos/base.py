"""The interface of policy-optimizers, and their common hyperparameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from rlkl.engines.base import Objective, ReferencePenalty
from rlkl.numerics.schedules import check_schedules, name_schedules
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.state import Stateful

Metrics = dict[str, float]

Recompute = Callable[[Batch], Batch]
"""Returns a batch with advantages and returns from the current critic."""


@dataclass(frozen=True)
class Outcome:
    """The result of updating a network.

    Attributes:
        metrics: by TensorBoard tag.
        losses: one scalar for each gradient step.
        gradient_norms: likewise, before clipping.
    """

    metrics: Metrics
    losses: Sequence[Any] = ()
    gradient_norms: Sequence[Any] = ()


@dataclass(frozen=True)
class AlgoConfig:
    """Hyperparameters of every policy-optimizer.

    Attributes:
        name: set by `algo=...`.
        entropy_coefficient: weight of the mean entropy in the objective.
        entropy_coefficient_schedule: `constant`, or `linear` to 0 over the training budget.
        advantage_standardization: `batch` over the whole batch, or `none`; with minibatches also
            `minibatch`, over each of them.
    """

    knob: ClassVar[tuple[str, ...]] = ()
    """The key that limits its updates, and keys that are scaled with it (`algos/knobs.py`)."""

    name: str = ""
    entropy_coefficient: float = limited(0.0, at_least=0)
    entropy_coefficient_schedule: str = "constant"
    advantage_standardization: str = limited("batch", choices=("batch", "none"))

    def __post_init__(self) -> None:
        name_schedules(self)
        check_fields(self, "algo.")
        check_schedules("algo.", self)

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The interval outside which a ratio counts as clipped in the report of every algorithm."""
        return 0.8, 1.2

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """The intended range of an update's KL(π_old ‖ π_θ), in multiples of `kl/target`."""
        return 0.0, 1.0


@dataclass(frozen=True)
class FirstOrderConfig(AlgoConfig):
    """Hyperparameters of every policy-optimizer that uses Adam.

    Attributes:
        learning_rate: of Adam.
        learning_rate_schedule: `constant`, or `linear` to 0 over the training budget.
        learning_rate_warmup: share of the training budget in which the learning rate rises from
            1 % of what it would be; 0 for no warm-up.
        max_grad_norm: a larger gradient of the actor is scaled down to this norm; null does not
            clip.
        adam_epsilon: added to the denominator of Adam.
        adam_beta1: decay of Adam's mean of gradients.
        adam_beta2: decay of Adam's mean of squared gradients.
        weight_decay: decoupled, as in AdamW, of all parameters of the actor; 0 for none.
    """

    knob: ClassVar[tuple[str, ...]] = ("learning_rate",)

    learning_rate: float = limited(7e-4, above=0)
    learning_rate_schedule: str = "linear"
    learning_rate_warmup: float = limited(0.0, at_least=0, below=1)
    max_grad_norm: float | None = limited(0.5, above=0)
    adam_epsilon: float = limited(1e-5, above=0)
    adam_beta1: float = limited(0.9, at_least=0, below=1)
    adam_beta2: float = limited(0.999, at_least=0, below=1)
    weight_decay: float = limited(0.0, at_least=0)


@dataclass(frozen=True)
class MinibatchConfig(FirstOrderConfig):
    """Hyperparameters of every policy-optimizer that makes several passes over its batch.

    Attributes:
        num_epochs: passes over the batch.
        num_minibatches: gradient steps in a pass.
        recompute_advantages: compute advantages and returns again before each pass but the first,
            with the critic of that moment; its epochs are then made between those of the actor.
    """

    advantage_standardization: str = limited("batch", choices=("batch", "minibatch", "none"))
    num_epochs: int = limited(10, at_least=1, at_most=10_000)
    num_minibatches: int = limited(4, at_least=1)
    recompute_advantages: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recompute_advantages and self.num_epochs == 1:
            raise ConfigError(
                "algo.recompute_advantages=true: changes nothing with algo.num_epochs=1; leave it "
                "out, or use more epochs"
            )


def recomputes_advantages(config: AlgoConfig) -> bool:
    """Return whether advantages are computed again between the epochs of an update."""
    return isinstance(config, MinibatchConfig) and config.recompute_advantages


class PolicyOptimizer(Protocol):
    """Updates a policy's actor from each batch; it never changes the critic."""

    def update(self, batch: Batch, progress: float) -> Outcome:
        """Improve the policy.

        Args:
            batch: collected by the current policy.
            progress: fraction of the training budget that is used, 0 to 1.
        """

    def penalize(self, coefficient: float, direction: str) -> ReferencePenalty:
        """Add β times the KL to the batch's reference policy to the loss; return the penalty."""

    def adapt(self, kl: float) -> None:
        """Adapt to the KL(π_old ‖ π_θ) of an update over the full batch, in nats, as reported."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to continue exactly."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


class LearningObjective(Stateful, Objective):
    """An objective of a first-order algorithm; without state unless `saved` names it.

    Attributes:
        target_kl: what `kl/target` reports, in nats; None for no target.
    """

    target_kl: float | None = None

    @property
    def metrics(self) -> Metrics:
        """Metrics of this objective, by TensorBoard tag."""
        return {} if self.target_kl is None else {"kl/target": self.target_kl}

    def follow(self, progress: float) -> None:
        """Set what has a schedule, before an update at a fraction of the training budget."""

    def adapt(self, kl: float) -> None:
        """Adapt to the KL of an update; see `PolicyOptimizer.adapt`."""


class FixedObjective(LearningObjective):
    """Base of an objective that uses no KL and has no state."""

    uses_kl = uses_entropy = uses_distribution = False

"""The contract between a policy-optimizer and an engine: objectives, their losses, and `Engine`."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Generator, Tensor

from rlkl.envs.observations import Observations
from rlkl.models.policy import Inputs, Policy
from rlkl.numerics.distributions import Distribution

Array = Any
"""A NumPy array or a torch tensor: objectives use operations that both have."""

Acting = Callable[[int, Observations, Tensor], tuple[Any, Tensor]]
"""Maps step t of a rollout, observations of N environments and memory states `[N, state_size]` to
sampled actions and the states after the step."""


class Minibatch(Protocol):
    """B transitions that a policy-optimizer learns from, in an engine's own form.

    Attributes:
        actions: as sampled, `[B]` or `[B, A]`.
        advantages, returns, old_log_prob, old_values: `[B]`, as in `rollouts.batch.Batch`.

    Its rows also have `reference_parameters`, those of π_ref, or None.
    """

    actions: Array
    advantages: Array
    returns: Array
    old_log_prob: Array
    old_values: Array

    def __len__(self) -> int: ...

    def minibatches(self, num_minibatches: int, generator: Generator) -> Iterator[Self]:
        """Yield random minibatches; the batch itself if only one is requested."""

    def standardized(self) -> Self:
        """Return the same rows with standardized advantages."""


class NewPolicy(Protocol):
    """π_θ at the rows of a minibatch: all that an objective may depend on.

    Attributes:
        xp: `numpy` or `torch`, for functions such as `xp.exp` and `xp.minimum`.
        log_prob: log π_θ(a|s), `[B]`.
        ratio: r = π_θ(a|s) / π_old(a|s), `[B]`.
        kl: KL(π_old ‖ π_θ) of each state in nats, `[B]`.
        reverse_kl: KL(π_θ ‖ π_old) of each state in nats, `[B]`.
        entropy: H(π_θ) of each state in nats, `[B]`.
        distribution: π_θ with a graph, for objectives with `uses_distribution`.
        reference: the same with π_ref in place of π_old, for its `kl` and `reverse_kl`.
    """

    xp: Any
    log_prob: Array
    ratio: Array
    kl: Array
    reverse_kl: Array
    entropy: Array
    distribution: Any
    reference: Any

    def mean_kl(self) -> Any:
        """Return the mean of `kl`."""
        return self.kl.mean()

    def mean_entropy(self) -> Any:
        """Return the mean of `entropy`."""
        return self.entropy.mean()


class Loss(NamedTuple):
    """A loss and its derivatives, which an engine backpropagates to the parameters.

    Attributes:
        value: a scalar.
        log_prob: ∂loss/∂log π_θ(a|s) of each row, `[B]`.
        kl: ∂loss/∂KL(π_old ‖ π_θ): one number, or one for each row.
        entropy: ∂loss/∂H(π_θ): one number, or one for each row.
        torch_term: part of `value` that torch differentiates, computed from `new.distribution`.
        reverse_kl: ∂loss/∂KL(π_θ ‖ π_old): one number, or one for each row.
        reference_kl: ∂loss/∂KL(π_ref ‖ π_θ), likewise.
        reverse_reference_kl: ∂loss/∂KL(π_θ ‖ π_ref), likewise.
    """

    value: Any
    log_prob: Array
    kl: float | Array = 0.0
    entropy: float | Array = 0.0
    torch_term: Tensor | None = None
    reverse_kl: float | Array = 0.0
    reference_kl: float | Array = 0.0
    reverse_reference_kl: float | Array = 0.0


class Objective(Protocol):
    """A loss that depends on the policy only through `NewPolicy`.

    Attributes:
        uses_kl: whether the loss depends on KL(π_old ‖ π_θ) or on the reverse KL.
        uses_entropy: whether it depends on the entropy.
        uses_distribution: whether it depends on `new.distribution` in another way; then the rows
            are tensors, and torch differentiates the loss down to the network's output.
    """

    uses_kl: bool
    uses_entropy: bool
    uses_distribution: bool

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        """Return the loss and its derivatives at a `Minibatch`."""


class EntropyBonus:
    """An objective's loss minus c · E[H(π_θ)], where c is the coefficient.

    If c is 0 at first, it stays 0, and the loss is that of the objective.
    """

    def __init__(self, objective: Objective, coefficient: float) -> None:
        self.objective, self.coefficient, self._is_given = objective, coefficient, coefficient > 0
        self.uses_kl, self.uses_distribution = objective.uses_kl, objective.uses_distribution
        self.uses_entropy = objective.uses_entropy or self._is_given

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        """Return the loss and its derivatives."""
        loss = self.objective.loss(new, batch)
        if not self._is_given:
            return loss
        value = loss.value - self.coefficient * new.mean_entropy()
        return loss._replace(value=value, entropy=loss.entropy - self.coefficient / len(batch))


class ReferencePenalty:
    """An objective's loss plus β · E[KL(π_θ ‖ π_ref)], or β · E[KL(π_ref ‖ π_θ)].

    β is the coefficient; the direction is `new_reference` or `reference_new`.
    """

    def __init__(self, objective: Objective, coefficient: float, direction: str) -> None:
        self.objective, self.coefficient, self.direction = objective, coefficient, direction
        self.uses_kl, self.uses_entropy = objective.uses_kl, objective.uses_entropy
        self.uses_distribution = objective.uses_distribution

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        """Return the loss and its derivatives."""
        loss, of_kl = self.objective.loss(new, batch), self.coefficient / len(batch)
        if not of_kl:
            return loss
        if self.direction == "new_reference":
            value = loss.value + self.coefficient * new.reference.reverse_kl.mean()
            return loss._replace(value=value, reverse_reference_kl=of_kl)
        value = loss.value + self.coefficient * new.reference.kl.mean()
        return loss._replace(value=value, reference_kl=of_kl)


class Engine(Protocol):
    """Evaluates the networks of a policy and differentiates them.

    All engines give the same numbers, up to rounding. Where an engine has no faster way, torch
    evaluates the policy's own modules.

    Attributes:
        name: `numpy` or `torch`.
        reason: why `auto` chose torch; else empty.
        policy: whose networks it evaluates.
        can_fork: whether a forked process can fit the critic.
    """

    name: str
    reason: str
    policy: Policy
    can_fork: bool

    def act(self, noise: Tensor) -> Acting:
        """Return a function that samples actions during a rollout, while the policy is fixed.

        The noise is the action noise of the whole rollout, `[T, N, ...]`.
        """

        def act(t: int, observations: Observations, states: Tensor) -> tuple[Any, Tensor]:
            distribution, states = self.step(self.policy.tensors(observations), states)
            return distribution.draw(noise[t]).cpu().numpy(), states

        return act

    @torch.no_grad()
    def step(self, observations: dict[str, Tensor], states: Tensor) -> tuple[Distribution, Tensor]:
        """Return π(·|s) for encoded observations of N environments, and the states after the step.

        The states are those of the memory, `[N, state_size]`.
        """
        return self.policy.step(observations, states)

    @torch.no_grad()
    def distribution(self, inputs: Inputs, dtype: torch.dtype | None = None) -> Distribution:
        """Return π(·|s) of each row without a graph, in a dtype or the policy's own."""
        return self.policy.distribution(inputs, dtype)

    @torch.no_grad()
    def values(self, inputs: Inputs, states: Tensor | None = None) -> Tensor:
        """Return V(s) of each row, `[B]`, without a graph; see `Policy.values`."""
        return self.policy.values(inputs, states)

    def rows(self, batch: Any, objective: Objective) -> Any:
        """Return a `Batch` in the engine's own form, a `Minibatch`, for an objective's update."""
        return batch

    def policy_gradient(self, objective: Objective, rows: Any) -> Any:
        """Write the gradient of an objective's loss to the actor's gradient; return the loss.

        The rows are from `rows`, or a minibatch of them.
        """

    def state_kl(self, rows: Any) -> Tensor:
        """Return KL(π_old ‖ π_θ) of each state of a `Batch` or of `rows`, `[B]`, in float64."""
        old, new = self._old_and_new(rows)
        return old.kl(new)

    def mean_kl(self, rows: Any) -> float:
        """Return the mean of `state_kl`."""
        return float(self.state_kl(rows).mean())

    def mean_ratio_deviation(self, rows: Any) -> float:
        """Return E[|π_θ(a|s) / π_old(a|s) - 1|] over `rows`, in float64."""
        (old, new), actions = self._old_and_new(rows), torch.as_tensor(rows.actions)
        ratio = (new.log_prob(actions) - old.log_prob(actions)).exp()
        return float((ratio - 1).abs().mean())

    def _old_and_new(self, rows: Any) -> tuple[Distribution, Distribution]:
        old = self.policy.family(torch.as_tensor(rows.old_parameters).double())
        return old, old.at(self.distribution(rows.inputs).parameters.double())

    def fisher_product(self, rows: Any, damping: float) -> Callable[[Array], Array]:
        """Return the Fisher-vector product v ↦ (F + damping · I) v, `[n]`, over the states of rows.

        If they are those of the last `policy_gradient`, the networks are not evaluated again.
        """

    def vector(self, tensor: Tensor) -> Array:
        """Return a vector in the form that `fisher_product` takes."""
        return tensor

    def value_rows(self, batch: Any) -> Any:
        """Return the critic's inputs and targets in the engine's own form, a `Minibatch`."""

    def value_gradient(
        self, rows: Any, value_clip: float | None, huber_delta: float | None = None
    ) -> Any:
        """Write the gradient of the value loss to the critic's gradient; return the loss.

        The rows are from `value_rows`, or a minibatch of them; clip and δ are those of
        `value_loss`.
        """

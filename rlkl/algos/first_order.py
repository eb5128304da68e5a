"""Epochs × minibatches of Adam on an objective: the loop that vanilla PG and both PPOs share."""

from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from rlkl.algos.base import (
    FirstOrderConfig,
    Metrics,
    MinibatchConfig,
    Objective,
    full_batch_kl,
    standardized,
)
from rlkl.algos.gradients import minibatch_gradient
from rlkl.models.flat_parameters import Adam, mean_of
from rlkl.models.policy import Policy
from rlkl.numerics.schedules import scheduled
from rlkl.rollouts.rollout import Batch


@dataclass(frozen=True)
class EarlyStop:
    """When to leave the loop, minibatches and epochs alike.

    Attributes:
        kl: stop once KL(π_old ‖ π_θ) passes this, in nats.
        scope: `minibatch` measures it on each minibatch, before stepping on it; `epoch` on the full
            batch, after each epoch.
    """

    kl: float
    scope: str


class FirstOrder:
    """A policy-optimizer that descends an objective's loss.

    Args:
        config: hyperparameters; without `num_epochs` and `num_minibatches`, one step on the whole
            batch.
        objective: what to descend.
        policy: whose actor is moved.
        generator: source of the minibatches.
        early_stop: when to stop within an update, if ever.

    Attributes:
        losses: of the last update, one of each step.
        gradient_norms: likewise, before clipping.
    """

    def __init__(
        self,
        config: FirstOrderConfig,
        objective: Objective,
        policy: Policy,
        generator: Generator,
        early_stop: EarlyStop | None = None,
    ) -> None:
        self.config = config
        self.objective = objective
        self.policy = policy
        self.generator = generator
        self.early_stop = early_stop
        self.num_epochs = self.num_minibatches = 1
        if isinstance(config, MinibatchConfig):
            self.num_epochs, self.num_minibatches = config.num_epochs, config.num_minibatches
        self.gradient = minibatch_gradient(config, objective, policy)
        self.losses: list[Tensor | float] = []
        self.gradient_norms: list[Tensor | float] = []
        self.adam = Adam(policy.actor_parameters, config.learning_rate, config.adam_epsilon)

    def update(self, batch: Batch, progress: float) -> Metrics:
        """Go over the batch in minibatches, epoch by epoch."""
        config = self.config
        self.policy.settle()
        self.adam.learning_rate = scheduled(
            config.learning_rate, config.learning_rate_schedule, progress
        )
        if config.advantage_standardization == "batch":
            batch = standardized(batch)
        gradient, source = self.gradient, self.gradient.source(batch)
        losses, norms = self.losses, self.gradient_norms = [], []
        epochs, stopped = 0, False
        minibatch_limit, epoch_limit = self._kl_limit("minibatch"), self._kl_limit("epoch")
        while epochs < self.num_epochs and not stopped:
            for minibatch in gradient.minibatches(source, self.num_minibatches, self.generator):
                if minibatch_limit and gradient.mean_kl(minibatch) > minibatch_limit:
                    stopped = True
                    break
                losses.append(gradient.write(minibatch))
                norms.append(self.adam.step(config.max_grad_norm))
            else:
                epochs += 1
                if epoch_limit and epochs < self.num_epochs:
                    stopped = full_batch_kl(self.policy, batch) > epoch_limit
        return {
            "policy/loss": mean_of(losses),
            "optim/lr": self.adam.learning_rate,
            "optim/grad_norm": mean_of(norms),
            "optim/epochs": len(losses) / min(self.num_minibatches, batch.num_parts),
            "optim/stopped_early": float(stopped),
        } | self.objective.metrics

    def adapt(self, kl: float) -> None:
        """Let the objective take note of how far the update went."""
        self.objective.adapt(kl)

    def _kl_limit(self, scope: str) -> float | None:
        stop = self.early_stop
        return stop.kl if stop is not None and stop.scope == scope else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Adam, of the objective and of the stream of minibatches."""
        return {
            "adam": self.adam.state_dict(),
            "objective": self.objective.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.adam.load_state_dict(state["adam"])
        self.objective.load_state_dict(state["objective"])
        self.generator.set_state(state["generator"])

"""Epochs × minibatches of Adam on an objective: the loop that vanilla PG and both PPOs share."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from rlkl.algos.base import (
    FirstOrderConfig,
    Metrics,
    MinibatchConfig,
    Objective,
    full_batch_kl,
    standardized,
)
from rlkl.policy import Policy
from rlkl.rollout import Batch
from rlkl.schedules import scheduled
from rlkl.surrogates import squared_value_loss


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
        self.adam = torch.optim.Adam(
            [policy.actor_parameters.vector],
            lr=config.learning_rate,
            eps=config.adam_epsilon,
            fused=True,
        )

    def update(self, batch: Batch, progress: float) -> Metrics:
        """Go over the batch in minibatches, epoch by epoch."""
        config = self.config
        learning_rate = scheduled(config.learning_rate, config.learning_rate_schedule, progress)
        self.adam.param_groups[0]["lr"] = learning_rate
        if config.advantage_standardization == "batch":
            batch = standardized(batch)
        losses, norms = [], []
        epochs, stopped = 0, False
        while epochs < self.num_epochs and not stopped:
            for part in batch.minibatches(self.num_minibatches, self.generator):
                each = config.advantage_standardization == "minibatch"
                minibatch = standardized(part) if each else part
                if self._too_far("minibatch", minibatch):
                    stopped = True
                    break
                loss = self._loss(minibatch)
                norms.append(
                    self.policy.actor_parameters.descend(loss, self.adam, config.max_grad_norm)
                )
                losses.append(loss.detach())
            else:
                epochs += 1
                stopped = epochs < self.num_epochs and self._too_far("epoch", batch)
        return {
            "policy/loss": _mean(losses),
            "optim/lr": learning_rate,
            "optim/grad_norm": _mean(norms),
            "optim/epochs": len(losses) / min(self.num_minibatches, batch.num_parts),
            "optim/stopped_early": float(stopped),
        } | self.objective.after_update(lambda: full_batch_kl(self.policy, batch))

    def _loss(self, minibatch: Batch) -> Tensor:
        new = self.policy.distribution(minibatch.inputs)
        loss = self.objective.loss(new, minibatch)
        if self.config.entropy_coefficient > 0:
            loss = loss - self.config.entropy_coefficient * new.entropy().mean()
        if self.policy.config.share_encoder:
            values = self.policy.values(minibatch.inputs, through_encoder=True)
            value_loss = squared_value_loss(values, minibatch.returns)
            loss = loss + self.policy.config.shared_value_coefficient * value_loss
        return loss

    def _too_far(self, scope: str, batch: Batch) -> bool:
        stop = self.early_stop
        return (
            stop is not None and stop.scope == scope and full_batch_kl(self.policy, batch) > stop.kl
        )

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


def _mean(scalars: list[Tensor]) -> float:
    return float(torch.stack(scalars).mean()) if scalars else math.nan

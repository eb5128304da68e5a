"""The critic's regression: one piece of code, so every policy-optimizer gets the same values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.engines.numpy.network import HandNetwork
from rlkl.models.flat_parameters import Adam, mean_of
from rlkl.models.policy import Policy
from rlkl.numerics.advantages import explained_variance
from rlkl.numerics.losses import clipped_value_loss, squared_value_loss, value_loss_slopes
from rlkl.numerics.schedules import SCHEDULES, scheduled
from rlkl.rollouts.rollout import Batch, Targets
from rlkl.utils.field_types import check_fields
from rlkl.utils.validation import check_choice, check_range


@dataclass(frozen=True)
class CriticConfig:
    """How V is fitted to the returns of a batch.

    Attributes:
        learning_rate: of Adam.
        learning_rate_schedule: `constant` or `linear` to 0.
        num_epochs: passes over the batch.
        num_minibatches: steps in a pass.
        max_grad_norm: the gradient is scaled down to this norm; null leaves it.
        value_clip: keeps V within this distance of its old self (PPO's value clip); null does not.
        adam_epsilon: added to the denominator of Adam.
        worker: whether a process of its own fits the critic while the actor is moved, which changes
            no number: `auto` where that takes less time, `always` or `never`.
    """

    learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    num_epochs: int = 10
    num_minibatches: int = 4
    max_grad_norm: float | None = 0.5
    value_clip: float | None = None
    adam_epsilon: float = 1e-5
    worker: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "critic.")
        check_choice("critic.worker", self.worker, ("auto", "always", "never"))
        check_range("critic.learning_rate", self.learning_rate, above=0)
        check_choice("critic.learning_rate_schedule", self.learning_rate_schedule, SCHEDULES)
        check_range("critic.num_epochs", self.num_epochs, at_least=1, at_most=10_000)
        check_range("critic.num_minibatches", self.num_minibatches, at_least=1)
        check_range("critic.adam_epsilon", self.adam_epsilon, above=0)
        for key in ("max_grad_norm", "value_clip"):
            value = getattr(self, key)
            if value is not None:
                check_range(f"critic.{key}", value, above=0)


class CriticFit:
    """Fits V(s) to the returns by Adam.

    It has its own parameters, optimizer, gradient clip and stream of minibatches, and touches
    nothing of the actor: after the same batch the critic has the same bits whichever
    policy-optimizer is at work.

    Args:
        config: hyperparameters.
        policy: whose critic is fitted.
        generator: source of the minibatches.

    Attributes:
        losses: of the last update, one of each step.
        gradient_norms: likewise, before clipping.
    """

    def __init__(self, config: CriticConfig, policy: Policy, generator: Generator) -> None:
        self.config = config
        self.policy = policy
        self.generator = generator
        self.losses: list[Tensor | float] = []
        self.gradient_norms: list[Tensor | float] = []
        self.adam = Adam(policy.critic_parameters, config.learning_rate, config.adam_epsilon)

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        """Fit the critic to one batch.

        Args:
            batch: returns to fit and old values to stay near.
            progress: share of the training budget that is spent.

        Returns:
            `value/loss` and `value/grad_norm`, averaged over the steps;
            `value/explained_variance` of the values that the advantages were made from, and
            `value/explained_variance_after` of the fitted critic's, for the same returns.
        """
        config = self.config
        self.adam.learning_rate = scheduled(
            config.learning_rate, config.learning_rate_schedule, progress
        )
        networks = self.policy.by_hand
        source: Batch | Targets
        if networks is None:
            write: Callable[[Any], Tensor | float] = self._write_by_autograd
            source = replace(batch, inputs=self.policy.critic_inputs(batch.inputs))
        else:
            write, source = partial(self._write_by_hand, networks.critic), batch.targets()
        losses, norms = self.losses, self.gradient_norms = [], []
        for _ in range(config.num_epochs):
            for minibatch in source.minibatches(config.num_minibatches, self.generator):
                losses.append(write(minibatch))
                norms.append(self.adam.step(config.max_grad_norm))
        with torch.no_grad():
            values = torch.stack((batch.old_values, self.policy.values(batch.inputs)))
        before, after = explained_variance(values, batch.returns)
        return {
            "value/loss": mean_of(losses),
            "value/grad_norm": mean_of(norms),
            "value/explained_variance": before,
            "value/explained_variance_after": after,
        }

    def _write_by_autograd(self, minibatch: Batch) -> Tensor:
        """Write the gradient on a minibatch; return the loss."""
        self.policy.critic_parameters.gradient.zero_()
        values, returns = self.policy.values(minibatch.inputs), minibatch.returns
        clip = self.config.value_clip
        loss = (
            squared_value_loss(values, returns)
            if clip is None
            else clipped_value_loss(values, minibatch.old_values, returns, clip)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @np.errstate(all="ignore")  # as torch does: what is not finite shows in the report
    def _write_by_hand(self, critic: HandNetwork, targets: Targets) -> float:
        """Write the gradient on a minibatch; return the loss. A sixth of the time of autograd."""
        values = critic.forward(targets.vectors)[:, 0]
        loss, slopes = value_loss_slopes(
            values, targets.old_values, targets.returns, self.config.value_clip
        )
        critic.backward(slopes[:, None])
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Adam and of the stream of minibatches."""
        return {"adam": self.adam.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.adam.load_state_dict(state["adam"])
        self.generator.set_state(state["generator"])

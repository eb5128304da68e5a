"""Vanilla policy gradient: one gradient step for each rollout."""

from dataclasses import dataclass

from rlkl.algos.base import FirstOrderConfig, FixedObjective
from rlkl.algos.first_order import maker
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.numerics.losses import policy_gradient


@dataclass(frozen=True)
class VanillaPGConfig(FirstOrderConfig):
    """Hyperparameters of the vanilla policy gradient.

    The learning rate is large and constant by default, since there is only one step per rollout.
    """

    name: str = "vanilla_pg"
    learning_rate: float = 1e-2
    learning_rate_schedule: str = "constant"


class LogLikelihood(FixedObjective):
    """-E[log π_θ(a|s) · A] (Williams 1992; Sutton 2000, theorem 1)."""

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return the loss, whose gradient is minus the policy gradient."""
        value, derivative = policy_gradient(new.log_prob, batch.advantages)
        return Loss(-value, -derivative)


make = maker(lambda _: LogLikelihood())

"""Vanilla policy gradient: one gradient step for each rollout."""

from dataclasses import dataclass

from torch import Generator, Tensor

from rlkl.algos.base import FirstOrderConfig, FixedObjective, Slopes
from rlkl.algos.first_order import FirstOrder
from rlkl.engines.numpy.distributions import ClosedForm
from rlkl.models.policy import Policy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.losses import policy_gradient
from rlkl.rollouts.rollout import Batch, Rows


@dataclass(frozen=True)
class VanillaPGConfig(FirstOrderConfig):
    """Hyperparameters of the vanilla policy gradient.

    One step for each rollout wants a larger rate than many, and no annealing: the steps are few.
    """

    name: str = "vanilla_pg"
    learning_rate: float = 1e-2
    learning_rate_schedule: str = "constant"


class LogLikelihood(FixedObjective):
    """-E[log π_θ(a|s) · A] (Williams 1992; Sutton 2000, theorem 1)."""

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        """Return the loss whose gradient is minus the policy gradient."""
        return -policy_gradient(new.log_prob(batch.actions), batch.advantages)

    def slopes(self, new: ClosedForm, rows: Rows) -> Slopes:
        """Return the loss and its slopes, -A / B."""
        slopes = rows.advantages / -len(rows.advantages)
        return Slopes(float(new.log_prob @ slopes), slopes)


def make(config: VanillaPGConfig, policy: Policy, generator: Generator) -> FirstOrder:
    """Make the policy-optimizer."""
    return FirstOrder(config, LogLikelihood(), policy, generator)

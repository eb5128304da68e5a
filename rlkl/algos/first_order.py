"""The loop of vanilla PG and PPO: epochs of minibatch steps with Adam on an objective."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Generator, Tensor

from rlkl.algos.base import FirstOrderConfig, LearningObjective, MinibatchConfig, Outcome
from rlkl.engines.base import Engine, EntropyBonus, Objective, ReferencePenalty
from rlkl.models.adam import make_adam, mean_of
from rlkl.numerics.schedules import scheduled_field
from rlkl.rollouts.batch import Batch
from rlkl.utils.state import Stateful

Refresh = Callable[[], Batch]
"""Returns the batch of an update with new advantages."""


class FirstOrder(Stateful):
    """A policy-optimizer that minimises an objective's loss with Adam.

    Args:
        config: hyperparameters; one step on the whole batch if it is no `MinibatchConfig`.
        objective: without the entropy bonus.
        engine: of the policy whose actor is updated.
        generator: source of the minibatches.
    """

    saved: ClassVar[tuple[str, ...]] = ("adam", "objective", "generator")

    def __init__(
        self,
        config: FirstOrderConfig,
        objective: LearningObjective,
        engine: Engine,
        generator: Generator,
    ) -> None:
        self.config = config
        self.objective = objective
        self.engine = engine
        self.generator = generator
        self.num_epochs = self.num_minibatches = 1
        if isinstance(config, MinibatchConfig):
            self.num_epochs, self.num_minibatches = config.num_epochs, config.num_minibatches
        self.bonus = EntropyBonus(objective, config.entropy_coefficient)
        self.penalized: Objective = self.bonus
        self.adam = make_adam(engine.policy.actor_parameters, config)

    def update(self, batch: Batch, progress: float, refresh: Refresh | None = None) -> Outcome:
        """Make `num_epochs` passes over the batch, or fewer with an early stop.

        `refresh` returns the batch with new advantages; it is called before each pass but the
        first.
        """
        self.engine.policy.settle()
        self._set_learning_rate(progress)
        self.bonus.coefficient = scheduled_field(self.config, "entropy_coefficient", progress)
        self.objective.follow(progress)
        standardization = self.config.advantage_standardization
        rows = self._rows(batch)
        losses: list[Tensor | float] = []
        norms: list[Tensor | float] = []
        epochs, stopped = 0, False
        while epochs < self.num_epochs and not stopped:
            if refresh is not None and epochs:
                rows = self._rows(refresh())
            for minibatch in rows.minibatches(self.num_minibatches, self.generator):
                if self._ends("minibatch", minibatch, len(losses)):
                    stopped = True
                    break
                if standardization == "minibatch":
                    minibatch = minibatch.standardized()  # noqa: PLW2901
                loss, norm = self.step(minibatch)
                losses.append(loss)
                norms.append(norm)
            else:
                epochs += 1
                if epochs < self.num_epochs:
                    stopped = self._ends("epoch", rows, len(losses))
        metrics = {
            "policy/loss": mean_of(losses),
            "optim/lr": self.adam.learning_rate,
            "optim/grad_norm": mean_of(norms),
            "optim/epochs": len(losses) / min(self.num_minibatches, batch.num_parts),
            "optim/stopped_early": float(stopped),
        }
        return Outcome(metrics | self.objective.metrics, losses, norms)

    def _rows(self, batch: Batch) -> Any:
        """Return the batch as the engine needs it, standardized as a whole if so configured."""
        whole = self.config.advantage_standardization == "batch"
        return self.engine.rows(batch.standardized() if whole else batch, self.penalized)

    def step(self, minibatch: Any) -> tuple[Any, Tensor | float]:
        """Take one gradient step; return the loss, and the gradient's norm before clipping."""
        loss = self.engine.policy_gradient(self.penalized, minibatch)
        return loss, self.adam.step(self.config.max_grad_norm)

    def penalize(self, coefficient: float, direction: str) -> ReferencePenalty:
        """Add a KL to a reference policy to the loss; see `PolicyOptimizer.penalize`."""
        self.penalized = penalty = ReferencePenalty(self.penalized, coefficient, direction)
        return penalty

    def adapt(self, kl: float) -> None:
        """Let the objective adapt to the KL of the update."""
        self.objective.adapt(kl)

    def _set_learning_rate(self, progress: float) -> None:
        self.adam.learning_rate = scheduled_field(self.config, "learning_rate", progress)

    def _ends(self, scope: str, rows: Any, steps: int) -> bool:
        """Return whether the update ends now, after a number of steps.

        It is asked of each minibatch before its step, and of all rows between two epochs; the
        scope is `minibatch` or `epoch`.
        """
        return False


def maker(
    objective: Callable[[Any], LearningObjective], kind: type[FirstOrder] = FirstOrder
) -> Callable[[Any, Engine, Generator], FirstOrder]:
    """Return the function that makes a policy-optimizer with the objective of its config."""
    return lambda config, engine, generator: kind(config, objective(config), engine, generator)

"""A first-order update, then steps that bring every state of the batch within a bound."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor

from rlkl.algos.base import Outcome
from rlkl.algos.first_order import FirstOrder, Refresh
from rlkl.engines.base import Objective
from rlkl.rollouts.batch import Batch

MAX_HALVINGS = 50


class TwoPhase(FirstOrder, ABC):
    """The primary phase is that of `FirstOrder`; then no state may be beyond a bound.

    The fixup phase makes gradient steps on a penalty, on minibatches with a state beyond the bound.
    If `config.max_fixup_steps` do not suffice, the change of the parameters is halved until the
    bound holds.

    Attributes:
        penalty: the loss of the fixup phase.
        bound: of what `largest` returns.
    """

    config: Any
    penalty: Objective
    bound: float

    @abstractmethod
    def largest(self, rows: Any) -> float:
        """Return the largest distance of a state from π_old, over an engine's rows."""

    def update(self, batch: Batch, progress: float, refresh: Refresh | None = None) -> Outcome:
        """Make both phases; return with every state within the bound."""
        start = self.engine.policy.actor_parameters.vector.data.clone()
        outcome = super().update(batch, progress, refresh)
        rows = self.engine.rows(batch, self.penalty)
        metrics = {
            "trust_region/fixup_steps": float(self._fixup(rows)),
            "trust_region/step_fraction": self._shorten(rows, start),
        }
        return replace(outcome, metrics=outcome.metrics | metrics)

    def fixup_step(self, minibatch: Any, _largest: float) -> None:
        """Make a gradient step on the penalty; the largest distance is that before it."""
        self.engine.policy_gradient(self.penalty, minibatch)
        self.adam.step(self.config.max_grad_norm)

    # In both functions a distance of NaN counts as within the bound: the update is then reverted.

    def _fixup(self, rows: Any) -> int:
        """Descend the penalty on minibatches beyond the bound; return the number of steps."""
        limit, steps, before = self.config.max_fixup_steps, 0, -1
        # A minibatch's distances are rounded differently from those of all rows.
        nearly = self.bound * (1 - 1e-4)
        while before < steps < limit and self.largest(rows) > self.bound:
            before = steps
            for minibatch in rows.minibatches(self.num_minibatches, self.generator):
                largest = self.largest(minibatch)
                if largest > nearly and steps < limit:
                    self.fixup_step(minibatch, largest)
                    steps += 1
        return steps

    def _shorten(self, rows: Any, start: Tensor) -> float:
        """Halve the change of the parameters until the bound holds; return what is left of it."""
        vector, fraction = self.engine.policy.actor_parameters.vector.data, 1.0
        change = vector - start
        while self.largest(rows) > self.bound:
            fraction = fraction / 2 if fraction > 2.0**-MAX_HALVINGS else 0.0
            vector.copy_(start)
            if not fraction:
                break
            vector.add_(change, alpha=fraction)
        return fraction

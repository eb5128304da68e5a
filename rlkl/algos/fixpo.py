"""FixPO: a KL penalty, then gradient steps on the KL until no state's KL exceeds a bound."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, Tensor

from rlkl.algos.base import FixedObjective, Metrics, Outcome
from rlkl.algos.first_order import FirstOrder, Refresh
from rlkl.algos.multipliers import Multipliers
from rlkl.algos.ppo_kl import KLPenalizedSurrogate, PPOKLFixedConfig
from rlkl.engines.base import Engine, Loss, Minibatch, NewPolicy
from rlkl.rollouts.batch import Batch
from rlkl.utils.validation import check_range

MAX_HALVINGS = 50


@dataclass(frozen=True)
class FixPOConfig(PPOKLFixedConfig):
    """Hyperparameters of FixPO.

    Attributes:
        kl_coefficient: β of the first step, the weight of KL(π_old ‖ π_θ).
        kl_coefficient_learning_rate: of β, in Adam on log β.
        max_state_kl: ε, the largest KL(π_old ‖ π_θ) of any state of the batch, in nats.
        kl_margin: C; β steers the largest KL of a minibatch towards ε / C.
        max_fixup_steps: gradient steps of the fixup phase; if they do not suffice, the update is
            shortened.
    """

    name: str = "fixpo"
    kl_coefficient_learning_rate: float = 0.01
    max_state_kl: float = 0.2
    kl_margin: float = 2.0
    max_fixup_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.kl_coefficient", self.kl_coefficient, above=0)
        rate = self.kl_coefficient_learning_rate
        check_range("algo.kl_coefficient_learning_rate", rate, above=0)
        check_range("algo.max_state_kl", self.max_state_kl, above=0)
        check_range("algo.kl_margin", self.kl_margin, at_least=1)
        check_range("algo.max_fixup_steps", self.max_fixup_steps, at_least=0, at_most=10_000)


class BoundedSurrogate(KLPenalizedSurrogate):
    """-E[r · A - β · KL(π_old ‖ π_θ)], where β descends β · (ε - C · max_s KL(π_old ‖ π_θ))."""

    config: FixPOConfig

    def __init__(self, config: FixPOConfig) -> None:
        super().__init__(config)
        rate = config.kl_coefficient_learning_rate
        self.multipliers = Multipliers([config.kl_coefficient], rate)

    def adapt_to_largest(self, kl: float) -> None:
        """Adapt β to the largest KL of a minibatch's states."""
        self.multipliers.step([self.config.max_state_kl - self.config.kl_margin * kl])
        (self.kl_coefficient,) = self.multipliers.values

    @property
    def metrics(self) -> Metrics:
        """β, and the bound ε."""
        return super().metrics | {"kl/target": self.config.max_state_kl}

    def state_dict(self) -> dict[str, Any]:
        """Return β and the state of its optimizer."""
        return super().state_dict() | {"multipliers": self.multipliers.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict(state)
        self.multipliers.load_state_dict(state["multipliers"])


class Penalty(FixedObjective):
    """β · E[KL(π_old ‖ π_θ)], the loss of the fixup phase."""

    uses_kl = True

    def __init__(self, surrogate: BoundedSurrogate) -> None:
        self.surrogate = surrogate

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return the penalty."""
        weight = self.surrogate.kl_coefficient
        return Loss(weight * new.mean_kl(), new.xp.zeros_like(new.log_prob), kl=weight / len(batch))


class FixPO(FirstOrder):
    """max_θ E[r · A] subject to KL(π_old ‖ π_θ) ≤ ε in every state of the batch (Zentner 2023).

    The primary phase makes the epochs of `FirstOrder` on `BoundedSurrogate`. The fixup phase makes
    gradient steps on minibatches with a state beyond ε. If its steps do not suffice, the change of
    the parameters is halved until the bound holds.
    """

    config: FixPOConfig
    objective: BoundedSurrogate

    def __init__(self, config: FixPOConfig, engine: Engine, generator: Generator) -> None:
        super().__init__(config, BoundedSurrogate(config), engine, generator)
        self.penalty = Penalty(self.objective)

    def update(self, batch: Batch, progress: float, refresh: Refresh | None = None) -> Outcome:
        """Make both phases; return with every state's KL at most ε."""
        start = self.engine.policy.actor_parameters.vector.data.clone()
        outcome = super().update(batch, progress, refresh)
        rows = self.engine.rows(batch, self.penalty)
        metrics = {
            "trust_region/fixup_steps": float(self._fixup(rows)),
            "trust_region/step_fraction": self._shorten(rows, start),
        }
        return replace(outcome, metrics=outcome.metrics | metrics)

    def step(self, minibatch: Any) -> tuple[Any, Tensor | float]:
        """Take one gradient step of the primary phase, and adapt β."""
        largest = self._largest_kl(minibatch)
        taken = super().step(minibatch)
        self.objective.adapt_to_largest(largest)
        return taken

    # In both functions a KL of NaN counts as within the bound: the update is then reverted.

    def _fixup(self, rows: Any) -> int:
        """Descend the penalty on minibatches beyond the bound; return the number of steps."""
        config, steps, before = self.config, 0, -1
        # A minibatch's KLs are rounded differently from those of all rows.
        nearly = config.max_state_kl * (1 - 1e-4)
        while before < steps < config.max_fixup_steps and self._is_beyond(rows):
            before = steps
            for minibatch in rows.minibatches(self.num_minibatches, self.generator):
                largest = self._largest_kl(minibatch)
                if largest > nearly and steps < config.max_fixup_steps:
                    self.engine.policy_gradient(self.penalty, minibatch)
                    self.adam.step(config.max_grad_norm)
                    self.objective.adapt_to_largest(largest)
                    steps += 1
        return steps

    def _shorten(self, rows: Any, start: Tensor) -> float:
        """Halve the change of the parameters until the bound holds; return what is left of it."""
        vector, fraction = self.engine.policy.actor_parameters.vector.data, 1.0
        change = vector - start
        while self._is_beyond(rows):
            fraction = fraction / 2 if fraction > 2.0**-MAX_HALVINGS else 0.0
            vector.copy_(start)
            if not fraction:
                break
            vector.add_(change, alpha=fraction)
        return fraction

    def _is_beyond(self, rows: Any) -> bool:
        return self._largest_kl(rows) > self.config.max_state_kl

    def _largest_kl(self, rows: Any) -> float:
        return float(self.engine.state_kl(rows).max())


make = FixPO

"""FixPO: a KL penalty, then gradient steps on the KL until no state's KL exceeds a bound."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor

from rlkl.algos.base import FixedObjective
from rlkl.algos.multipliers import Multipliers
from rlkl.algos.ppo_kl import KLPenalizedSurrogate, KLPenaltyConfig
from rlkl.algos.two_phase import TwoPhase
from rlkl.engines.base import Engine, Loss, Minibatch, NewPolicy
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class FixPOConfig(KLPenaltyConfig):
    """Hyperparameters of FixPO.

    Attributes:
        kl_coefficient: β of the first step, the weight of KL(π_old ‖ π_θ).
        kl_coefficient_learning_rate: of β, in Adam on log β.
        max_state_kl: ε, the largest KL(π_old ‖ π_θ) of any state of the batch, in nats.
        kl_margin: C; β steers the largest KL of a minibatch towards ε / C.
        max_fixup_steps: gradient steps of the fixup phase; if they do not suffice, the update is
            shortened.
    """

    knob: ClassVar[tuple[str, ...]] = ("max_state_kl",)

    name: str = "fixpo"
    kl_coefficient: float = limited(1.0, above=0)
    kl_coefficient_learning_rate: float = limited(0.01, above=0)
    max_state_kl: float = limited(0.2, above=0)
    kl_margin: float = limited(2.0, at_least=1)
    max_fixup_steps: int = limited(100, at_least=0, at_most=10_000)


class BoundedSurrogate(KLPenalizedSurrogate):
    """-E[r · A - β · KL(π_old ‖ π_θ)], where β descends β · (ε - C · max_s KL(π_old ‖ π_θ))."""

    config: FixPOConfig
    saved = ("kl_coefficient", "multipliers")

    def __init__(self, config: FixPOConfig) -> None:
        super().__init__(config)
        self.target_kl = config.max_state_kl
        rate = config.kl_coefficient_learning_rate
        self.multipliers = Multipliers([config.kl_coefficient], rate)

    def adapt_to_largest(self, kl: float) -> None:
        """Adapt β to the largest KL of a minibatch's states."""
        self.multipliers.step([self.config.max_state_kl - self.config.kl_margin * kl])
        (self.kl_coefficient,) = self.multipliers.values


class Penalty(FixedObjective):
    """β · E[KL(π_old ‖ π_θ)], the loss of the fixup phase."""

    uses_kl = True

    def __init__(self, surrogate: BoundedSurrogate) -> None:
        self.surrogate = surrogate

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return the penalty."""
        weight = self.surrogate.kl_coefficient
        return Loss(weight * new.mean_kl(), new.xp.zeros_like(new.log_prob), kl=weight / len(batch))


class FixPO(TwoPhase):
    """max_θ E[r · A] subject to KL(π_old ‖ π_θ) ≤ ε in every state of the batch (Zentner 2023).

    The primary phase makes the epochs of `FirstOrder` on `BoundedSurrogate`, the fixup phase steps
    on its `Penalty`.
    """

    config: FixPOConfig
    objective: BoundedSurrogate

    def __init__(self, config: FixPOConfig, engine: Engine, generator: Generator) -> None:
        super().__init__(config, BoundedSurrogate(config), engine, generator)
        self.penalty = Penalty(self.objective)
        self.bound = config.max_state_kl

    def largest(self, rows: Any) -> float:
        """Return the largest KL(π_old ‖ π_θ) of a state in nats."""
        return float(self.engine.state_kl(rows).max())

    def step(self, minibatch: Any) -> tuple[Any, Tensor | float]:
        """Take one gradient step of the primary phase, and adapt β."""
        largest = self.largest(minibatch)
        taken = super().step(minibatch)
        self.objective.adapt_to_largest(largest)
        return taken

    def fixup_step(self, minibatch: Any, largest: float) -> None:
        """Take one gradient step of the fixup phase, and adapt β."""
        super().fixup_step(minibatch, largest)
        self.objective.adapt_to_largest(largest)


make = FixPO

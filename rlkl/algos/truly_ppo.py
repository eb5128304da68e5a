"""Truly proximal policy optimization: PPO that pulls the policy back into its trust region."""

from dataclasses import dataclass
from typing import ClassVar

from rlkl.algos.base import FixedObjective, MinibatchConfig
from rlkl.algos.first_order import maker
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.numerics.losses import surrogate
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited

ROLLBACKS = {"truly_ppo": 5.0, "tr_ppo_rb": 0.05, "tr_ppo": 0.0, "ppo_rb": 0.3}
"""The variants, with the α that the authors use for each in continuous control."""


@dataclass(frozen=True)
class TrulyPPOConfig(MinibatchConfig):
    """Hyperparameters of Truly PPO and its variants.

    Attributes:
        variant: `truly_ppo` (triggered by the KL, rolls back along the KL), `tr_ppo_rb` (triggered
            by the KL, rolls back along the ratio), `tr_ppo` (triggered by the KL, no gradient), or
            `ppo_rb` (triggered by the ratio, rolls back along the ratio).
        clip_kl: δ, the KL(π_old ‖ π_θ) of a state in nats at which a sample is triggered.
        clip_ratio: ε, the distance from 1 at which a ratio is triggered in `ppo_rb`.
        rollback_coefficient: α, the strength of the rollback; null for the authors' value: 5 for
            `truly_ppo`, 0.05 for `tr_ppo_rb`, 0.3 for `ppo_rb`. `tr_ppo` has none.
    """

    knob: ClassVar[tuple[str, ...]] = ("clip_kl",)

    name: str = "truly_ppo"
    variant: str = limited("truly_ppo", choices=ROLLBACKS)
    clip_kl: float = limited(0.03, above=0)
    clip_ratio: float = limited(0.2, above=0, below=1)
    rollback_coefficient: float | None = limited(None, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "tr_ppo" and self.rollback_coefficient:
            raise ConfigError(
                f"algo.rollback_coefficient={self.rollback_coefficient:g}: algo.variant=tr_ppo has "
                "no rollback; leave it out, or use algo.variant=tr_ppo_rb"
            )

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The interval 1 - ε to 1 + ε."""
        return 1 - self.clip_ratio, 1 + self.clip_ratio


class RollbackSurrogate(FixedObjective):
    """-E[r · A], with another gradient for samples that have moved too far (Wang 2019).

    A sample is triggered if its objective has improved, r · A ≥ A, and KL(π_old ‖ π_θ) ≥ δ in its
    state; in `ppo_rb` if its ratio has passed 1 ± ε in the direction of A. It then contributes

    - `truly_ppo`: r · A - α · (KL - δ),
    - others: ((1 + α) · b - α · r) · A, with b = 1, and in `ppo_rb` the bound 1 ± ε.

    The second has the derivative -α · r · A in log π_θ(a|s), which is 0 in `tr_ppo`.
    """

    def __init__(self, config: TrulyPPOConfig) -> None:
        self.variant, self.clip_kl = config.variant, config.clip_kl
        self.bounds = config.ratio_bounds
        given = config.rollback_coefficient
        self.rollback = ROLLBACKS[config.variant] if given is None else given
        self.uses_kl = config.variant != "ppo_rb"
        self.target_kl = self.clip_kl if self.uses_kl else None

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the objective."""
        xp, alpha, advantages = new.xp, self.rollback, batch.advantages
        value, derivative = surrogate(new.ratio, advantages)
        product = new.ratio * advantages
        if self.variant == "ppo_rb":
            bound = new.ratio.clip(*self.bounds) * advantages
            is_triggered = product > bound
        else:
            bound = advantages
            is_triggered = (product >= bound) & (new.kl >= self.clip_kl)
        if self.variant == "truly_ppo":
            zeros = xp.zeros_like(new.kl)
            penalty = alpha * xp.where(is_triggered, new.kl - self.clip_kl, zeros).mean()
            of_kl = xp.where(is_triggered, alpha / len(batch), zeros)
            return Loss(penalty - value, -derivative, kl=of_kl)
        value = xp.where(is_triggered, (1 + alpha) * bound - alpha * product, product).mean()
        return Loss(-value, -xp.where(is_triggered, -alpha * derivative, derivative))


make = maker(RollbackSurrogate)

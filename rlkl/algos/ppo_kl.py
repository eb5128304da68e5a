"""Proximal policy optimisation with a KL penalty, its coefficient adaptive or fixed."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Generator, Tensor

from rlkl.algos.base import Metrics, MinibatchConfig, Slopes
from rlkl.algos.first_order import FirstOrder
from rlkl.engines.numpy.distributions import ClosedForm
from rlkl.models.policy import Policy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.losses import kl_penalized_surrogate
from rlkl.rollouts.rollout import Batch, Rows
from rlkl.utils.validation import ConfigError, check_range

TOLERANCE = 1.5
"""By this factor KL may miss its target, above or below, before β moves."""


@dataclass(frozen=True)
class PPOKLFixedConfig(MinibatchConfig):
    """Hyperparameters of PPO with a fixed KL penalty.

    Attributes:
        kl_coefficient: β, the weight of KL(π_old ‖ π_θ); 0 leaves the surrogate alone, without a
            bound.
    """

    name: str = "ppo_kl_fixed"
    kl_coefficient: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.kl_coefficient", self.kl_coefficient, at_least=0)


@dataclass(frozen=True)
class PPOKLConfig(PPOKLFixedConfig):
    """Hyperparameters of PPO with an adaptive KL penalty.

    Attributes:
        kl_coefficient: β of the first update.
        target_kl: KL(π_old ‖ π_θ) of a whole update that β steers towards, in nats.
        kl_coefficient_min: β never falls below.
        kl_coefficient_max: β never rises above.
    """

    name: str = "ppo_kl"
    target_kl: float = 0.01
    kl_coefficient_min: float = 1e-4
    kl_coefficient_max: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.target_kl", self.target_kl, above=0)
        check_range("algo.kl_coefficient_min", self.kl_coefficient_min, above=0)
        check_range("algo.kl_coefficient_max", self.kl_coefficient_max, above=0)
        if not self.kl_coefficient_min <= self.kl_coefficient <= self.kl_coefficient_max:
            raise ConfigError(
                f"algo.kl_coefficient={self.kl_coefficient:g}: expected between "
                f"algo.kl_coefficient_min={self.kl_coefficient_min:g} and "
                f"algo.kl_coefficient_max={self.kl_coefficient_max:g}"
            )

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """Within which β stays as it is, in multiples of `target_kl`."""
        return 1 / TOLERANCE, TOLERANCE


def adapted_kl_coefficient(
    kl_coefficient: float, kl: float, target_kl: float, lowest: float, highest: float
) -> float:
    """Return β for the next update (Schulman 2017, section 4).

    β doubles if KL > 1.5 · target, halves if KL < target / 1.5, and stays otherwise or if the KL
    is not finite.

    Args:
        kl_coefficient: β of the update that is over.
        kl: KL(π_old ‖ π_θ) over the full batch after it, in nats.
        target_kl: in nats.
        lowest: β is kept at or above.
        highest: β is kept at or below.
    """
    if not math.isfinite(kl):
        return kl_coefficient
    if kl > TOLERANCE * target_kl:
        kl_coefficient *= 2
    elif kl < target_kl / TOLERANCE:
        kl_coefficient /= 2
    return min(max(kl_coefficient, lowest), highest)


class KLPenalizedSurrogate:
    """-E[r · A - β · KL(π_old ‖ π_θ)] (Schulman 2017, eq. 8); β adapts if it has a target."""

    has_kl = True

    def __init__(self, config: PPOKLFixedConfig) -> None:
        self.config = config
        self.kl_coefficient = config.kl_coefficient

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        """Return minus the penalised surrogate."""
        ratio = (new.log_prob(batch.actions) - batch.old_log_prob).exp()
        kl = new.at(batch.old_parameters).kl(new)
        return -kl_penalized_surrogate(ratio, batch.advantages, kl, self.kl_coefficient)

    def slopes(self, new: ClosedForm, rows: Rows) -> Slopes:
        """Return the loss and its slopes, -r · A / B and β / B."""
        size = len(rows.advantages)
        slopes = np.exp(new.log_prob - rows.old_log_prob) * rows.advantages / -size
        loss = float(np.add.reduce(slopes))
        if self.kl_coefficient:  # 0 times an infinite KL would be NaN
            loss += self.kl_coefficient * new.mean_kl()
        return Slopes(loss, slopes, self.kl_coefficient / size)

    @property
    def metrics(self) -> Metrics:
        """β as it stands, and what it is steered by."""
        metrics = {"kl/coefficient": self.kl_coefficient}
        if isinstance(self.config, PPOKLConfig):
            metrics["kl/target"] = self.config.target_kl
        return metrics

    def adapt(self, kl: float) -> None:
        """Move β, once, for the next update."""
        config = self.config
        if isinstance(config, PPOKLConfig):
            self.kl_coefficient = adapted_kl_coefficient(
                self.kl_coefficient,
                kl,
                config.target_kl,
                config.kl_coefficient_min,
                config.kl_coefficient_max,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return β."""
        return {"kl_coefficient": self.kl_coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over β."""
        self.kl_coefficient = float(state["kl_coefficient"])


def make(config: PPOKLFixedConfig, policy: Policy, generator: Generator) -> FirstOrder:
    """Make the policy-optimizer."""
    return FirstOrder(config, KLPenalizedSurrogate(config), policy, generator)

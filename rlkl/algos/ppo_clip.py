"""Proximal policy optimisation with a clipped ratio."""

from dataclasses import dataclass

import numpy as np
from torch import Generator, Tensor

from rlkl.algos.base import FixedObjective, Metrics, MinibatchConfig, Slopes
from rlkl.algos.first_order import EarlyStop, FirstOrder
from rlkl.engines.numpy.distributions import ClosedForm
from rlkl.models.policy import Policy
from rlkl.numerics.distributions import Distribution
from rlkl.numerics.losses import clipped_surrogate, clipped_surrogate_slopes
from rlkl.rollouts.rollout import Batch, Rows
from rlkl.utils.validation import check_choice, check_range


@dataclass(frozen=True)
class PPOClipConfig(MinibatchConfig):
    """Hyperparameters of PPO-clip.

    Attributes:
        clip_ratio: ε, how far a ratio may leave 1 and still have a gradient.
        clip_ratio_high: ε above 1 where it differs from that below; null takes `clip_ratio`.
        target_kl: stop an update early once KL(π_old ‖ π_θ) passes `target_kl_multiplier` times
            this, in nats; null never stops.
        target_kl_multiplier: see `target_kl`.
        target_kl_scope: where the KL is measured: `minibatch`, before each step, or `epoch`, on the
            full batch after each epoch.
    """

    name: str = "ppo_clip"
    clip_ratio: float = 0.2
    clip_ratio_high: float | None = None
    target_kl: float | None = None
    target_kl_multiplier: float = 1.5
    target_kl_scope: str = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("algo.clip_ratio", self.clip_ratio, above=0, below=1)
        if self.clip_ratio_high is not None:
            check_range("algo.clip_ratio_high", self.clip_ratio_high, above=0)
        if self.target_kl is not None:
            check_range("algo.target_kl", self.target_kl, above=0)
        check_range("algo.target_kl_multiplier", self.target_kl_multiplier, above=0)
        check_choice("algo.target_kl_scope", self.target_kl_scope, ("minibatch", "epoch"))

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The interval that the clip leaves alone, 1 - ε to 1 + ε."""
        high = self.clip_ratio if self.clip_ratio_high is None else self.clip_ratio_high
        return 1 - self.clip_ratio, 1 + high

    @property
    def kl_bounds(self) -> tuple[float, float]:
        """Up to where no update is stopped early, in multiples of `target_kl`."""
        return 0.0, self.target_kl_multiplier


class ClippedSurrogate(FixedObjective):
    """-E[min(r · A, clip(r, 1 - ε, 1 + ε) · A)] (Schulman 2017, eq. 7)."""

    def __init__(self, config: PPOClipConfig) -> None:
        self.bounds = config.ratio_bounds
        self.target_kl = config.target_kl

    def loss(self, new: Distribution, batch: Batch) -> Tensor:
        """Return minus the clipped surrogate."""
        ratio = (new.log_prob(batch.actions) - batch.old_log_prob).exp()
        return -clipped_surrogate(ratio, batch.advantages, *self.bounds)

    def slopes(self, new: ClosedForm, rows: Rows) -> Slopes:
        """Return the loss and its slopes, -r · A / B where the clip leaves a gradient."""
        ratio = np.exp(new.log_prob - rows.old_log_prob)
        objective, slopes = clipped_surrogate_slopes(ratio, rows.advantages, *self.bounds)
        return Slopes(-objective, -slopes)

    @property
    def metrics(self) -> Metrics:
        """The target of early stopping, if there is one."""
        return {} if self.target_kl is None else {"kl/target": self.target_kl}


def make(config: PPOClipConfig, policy: Policy, generator: Generator) -> FirstOrder:
    """Make the policy-optimizer."""
    early_stop = None
    if config.target_kl is not None:
        early_stop = EarlyStop(
            config.target_kl * config.target_kl_multiplier, config.target_kl_scope
        )
    return FirstOrder(config, ClippedSurrogate(config), policy, generator, early_stop)

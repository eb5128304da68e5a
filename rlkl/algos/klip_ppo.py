"""KLip-PPO: PPO with a KL penalty whose coefficient for each sample reproduces PPO-clip."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlkl.algos.first_order import maker
from rlkl.algos.ppo_clip import ClippedSurrogate, EarlyStopping, PPOClipConfig
from rlkl.engines.base import Loss, Minibatch, NewPolicy
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class KLipPPOConfig(PPOClipConfig):
    """Hyperparameters of KLip-PPO: those of PPO-clip, and the form of the KL.

    Attributes:
        kl_form: `sample` penalises an estimate of the KL from the sampled action, which gives
            PPO-clip's gradient; `exact` the KL of the state.
    """

    name: str = "klip_ppo"
    kl_form: str = limited("sample", choices=("sample", "exact"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual_clip is not None:
            raise ConfigError(
                f"algo.dual_clip={self.dual_clip:g}: algo=klip_ppo has no dual clip, because its "
                "coefficient would be negative; leave it out, or use algo=ppo_clip"
            )


def clip_coefficients(
    xp: Any, ratio: Any, advantages: Any, lowest: float, highest: float
) -> tuple[Any, Any]:
    """Return the coefficients β of the samples, and which of them PPO-clip clips, `[B]` each.

    With the estimate k = r - 1 - log r of the KL (Schulman 2020, k3), ∂k/∂log π_θ = r - 1. So
    β = r · A / (r - 1) cancels the derivative of r · A where a sample is clipped. There A and r - 1
    have the same sign, so β is positive. It is 0 elsewhere.
    """
    product = ratio * advantages
    clipped = product > ratio.clip(lowest, highest) * advantages
    return xp.where(clipped, product / xp.where(clipped, ratio - 1, 1.0), 0.0), clipped


class ClipAsPenalty(ClippedSurrogate):
    """-E[r · A - β · k], with β constant in each step (Colletti & Holzinger 2026, theorem 1).

    k is the estimate r - 1 - log r of KL(π_old ‖ π_θ), or the KL itself.
    """

    def __init__(self, config: KLipPPOConfig) -> None:
        super().__init__(config)
        self.uses_kl = config.kl_form == "exact"

    def loss(self, new: NewPolicy, batch: Minibatch) -> Loss:
        """Return minus the penalised surrogate; its derivatives take β as a constant."""
        ratio, size = new.ratio, len(batch)
        beta, clipped = clip_coefficients(new.xp, ratio, batch.advantages, *self.bounds)
        beta = beta.detach() if isinstance(beta, Tensor) else beta
        product = ratio * batch.advantages
        if self.uses_kl:
            kl = new.xp.where(clipped, new.kl, 0.0)  # 0 times an infinite KL would be NaN
            return Loss((beta * kl - product).mean(), -product / size, kl=beta / size)
        k3 = ratio - 1 - (new.log_prob - batch.old_log_prob)
        return Loss((beta * k3 - product).mean(), (beta * (ratio - 1) - product) / size)


make = maker(ClipAsPenalty, EarlyStopping)

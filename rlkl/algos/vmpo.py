"""V-MPO: maximise the likelihood of the better half of the samples, weighted by advantages."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from rlkl.algos.base import LearningObjective, Metrics, MinibatchConfig
from rlkl.algos.first_order import FirstOrder
from rlkl.algos.multipliers import Multipliers
from rlkl.engines.base import Engine, Loss, NewPolicy
from rlkl.numerics.losses import policy_gradient
from rlkl.utils.field_types import limited


@dataclass(frozen=True)
class VMPOConfig(MinibatchConfig):
    """Hyperparameters of V-MPO.

    Attributes:
        temperature: η of the first step.
        target_weight_kl: ε_η, KL of the samples' weights from equal weights, in nats.
        kl_coefficient: α of the first step, for a Gaussian both α_μ and α_Σ.
        target_kl: ε_α, KL(π_old ‖ π_θ) that α steers towards, in nats; for a Gaussian ε_μ, the part
            from the change of the mean.
        target_std_kl: ε_Σ, the part from the change of the standard deviation; Gaussians only.
        dual_learning_rate: of η and α, in Adam on their logarithms.
    """

    knob: ClassVar[tuple[str, ...]] = ("target_kl", "target_std_kl")

    name: str = "vmpo"
    temperature: float = limited(1.0, above=0)
    target_weight_kl: float = limited(0.1, above=0)
    kl_coefficient: float = limited(1.0, above=0)
    target_kl: float = limited(0.01, above=0)
    target_std_kl: float = limited(1e-4, above=0)
    dual_learning_rate: float = limited(0.01, above=0)


def sample_weights(advantages: Tensor, temperature: float) -> tuple[Tensor, float]:
    """Return ψ ∝ exp(A / η) over the better half of the samples, else 0, `[B]`, with sum 1.

    (Song 2019.) The second number is KL(ψ ‖ uniform) over that half, in nats. With it
    ε_η - KL(ψ ‖ uniform) is the derivative of the temperature's loss
    η · ε_η + η · log mean exp(A / η).
    """
    better = advantages.topk(max(1, len(advantages) // 2)).indices
    log_weights = (advantages[better].double() / temperature).log_softmax(0)
    chosen = log_weights.exp()
    weights = torch.zeros_like(advantages)
    weights[better] = chosen.to(weights.dtype)
    return weights, math.log(len(better)) + float(chosen @ log_weights)


def kl_parts(old: Any, new: Any) -> tuple[Tensor, Tensor]:
    """Return the KL of diagonal Gaussians from the change of the mean, and of the std, `[B]` each.

    They are KL(N(μ_old, Σ_old) ‖ N(μ, Σ_old)) and KL(N(μ_old, Σ_old) ‖ N(μ_old, Σ)).
    """
    of_mean = torch.cat((new.mean, old.log_std), -1)
    of_std = torch.cat((old.mean, new.log_std), -1)
    return old.kl(old.at(of_mean)), old.kl(old.at(of_std))


class WeightedLikelihood(LearningObjective):
    """-Σ ψ log π_θ(a|s) + α · E[KL(π_old ‖ π_θ)] (Song 2019).

    A minibatch's `advantages` are B · ψ. A Gaussian's KL has two parts, each with its own α.
    """

    saved = ("temperature", "coefficients")
    uses_entropy = False

    def __init__(self, config: VMPOConfig, is_gaussian: bool) -> None:
        self.config = config
        self.uses_kl, self.uses_distribution = not is_gaussian, is_gaussian
        self.targets = [config.target_kl, config.target_std_kl][: 1 + is_gaussian]
        self.target_kl = sum(self.targets)
        rate = config.dual_learning_rate
        self.temperature = Multipliers([config.temperature], rate)
        self.coefficients = Multipliers([config.kl_coefficient] * len(self.targets), rate)

    def loss(self, new: NewPolicy, batch: Any) -> Loss:
        """Return the loss at the current α."""
        value, derivative = policy_gradient(new.log_prob, batch.advantages)
        alphas = self.coefficients.values
        if self.uses_kl:
            return Loss(alphas[0] * new.mean_kl() - value, -derivative, kl=alphas[0] / len(batch))
        old = new.distribution.at(batch.old_parameters)
        of_mean, of_std = kl_parts(old, new.distribution)
        penalty = (alphas[0] * of_mean + alphas[1] * of_std).mean()
        return Loss(penalty.detach() - value, -derivative, torch_term=penalty)

    @property
    def metrics(self) -> Metrics:
        """η, α (of a Gaussian α_μ) and the target KL."""
        return super().metrics | {
            "trust_region/temperature": self.temperature.values[0],
            "kl/coefficient": self.coefficients.values[0],
        }


class VMPO(FirstOrder):
    """On-policy maximum a posteriori policy optimization (Song 2019).

    Each minibatch moves θ, η and α by one gradient step.
    """

    objective: WeightedLikelihood

    def __init__(self, config: VMPOConfig, engine: Engine, generator: Generator) -> None:
        objective = WeightedLikelihood(config, engine.policy.decoder.is_gaussian)
        super().__init__(config, objective, engine, generator)

    def step(self, minibatch: Any) -> tuple[Any, Tensor | float]:
        """Take one gradient step on a minibatch with its weights, and adapt η and α."""
        objective, engine = self.objective, self.engine
        advantages = torch.as_tensor(minibatch.advantages)
        weights, weight_kl = sample_weights(advantages, objective.temperature.values[0])
        kls = self._kls(minibatch)
        scaled = engine.vector(len(minibatch) * weights)
        taken = super().step(replace(minibatch, advantages=scaled))
        objective.temperature.step([objective.config.target_weight_kl - weight_kl])
        pairs = zip(objective.targets, kls, strict=True)
        objective.coefficients.step([target - kl for target, kl in pairs])
        return taken

    def _kls(self, rows: Any) -> list[float]:
        """Return the mean KL(π_old ‖ π_θ) in nats, for a Gaussian in its two parts."""
        if self.objective.uses_kl:
            return [self.engine.mean_kl(rows)]
        old = self.engine.policy.family(torch.as_tensor(rows.old_parameters).double())
        new = self.engine.distribution(rows.inputs, torch.float64)
        return [float(kl.mean()) for kl in kl_parts(old, new)]


make = VMPO

"""The fit of the critic to returns, shared by all policy-optimizers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from rlkl.algos.base import Outcome
from rlkl.engines.base import Engine
from rlkl.models.adam import make_adam, mean_of
from rlkl.numerics.advantages import explained_variance
from rlkl.numerics.normalization import ValueNormalizer
from rlkl.numerics.schedules import check_schedules, name_schedules, scheduled_field
from rlkl.rollouts.batch import Batch
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.state import Stateful

Scalars = list[Tensor | float]


@dataclass(frozen=True)
class CriticConfig:
    """Hyperparameters of the critic's fit.

    Attributes:
        learning_rate: of Adam.
        learning_rate_schedule: `constant` or `linear` to 0.
        learning_rate_warmup: share of the training budget in which the learning rate rises from
            1 % of what it would be; 0 for no warm-up.
        num_epochs: passes over the batch.
        num_minibatches: gradient steps in a pass.
        max_grad_norm: a larger gradient is scaled down to this norm; null does not clip.
        value_clip: no gradient beyond this distance from the old value (PPO); null does not clip.
        loss: `mse`, half the squared error, or `huber`, which grows linearly for large errors.
        huber_delta: δ, the error from which `huber` is linear.
        normalize_values: the critic fits returns that are standardized by their running mean and
            standard deviation; `value_clip` and `huber_delta` are then in these units.
        adam_epsilon: added to the denominator of Adam.
        adam_beta1: decay of Adam's mean of gradients.
        adam_beta2: decay of Adam's mean of squared gradients.
        weight_decay: decoupled, as in AdamW, of all parameters of the critic; 0 for none.
        worker: whether a separate process fits the critic in parallel with the actor's update,
            with identical results: `auto` where that is faster, `always` or `never`.
    """

    learning_rate: float = limited(1e-3, above=0)
    learning_rate_schedule: str = "constant"
    learning_rate_warmup: float = limited(0.0, at_least=0, below=1)
    num_epochs: int = limited(10, at_least=1, at_most=10_000)
    num_minibatches: int = limited(4, at_least=1)
    max_grad_norm: float | None = limited(0.5, above=0)
    value_clip: float | None = limited(None, above=0)
    loss: str = limited("mse", choices=("mse", "huber"))
    huber_delta: float = limited(1.0, above=0)
    normalize_values: bool = False
    adam_epsilon: float = limited(1e-5, above=0)
    adam_beta1: float = limited(0.9, at_least=0, below=1)
    adam_beta2: float = limited(0.999, at_least=0, below=1)
    weight_decay: float = limited(0.0, at_least=0)
    worker: str = limited("auto", choices=("auto", "always", "never"))

    def __post_init__(self) -> None:
        name_schedules(self)
        check_fields(self, "critic.")
        check_schedules("critic.", self)
        if self.loss == "mse" and self.huber_delta != 1.0:
            raise ConfigError(
                f"critic.huber_delta={self.huber_delta:g}: changes nothing with critic.loss=mse; "
                "add critic.loss=huber, or leave it out"
            )


class CriticFit(Stateful):
    """Fits V(s) to the returns with Adam; the generator is the source of minibatches.

    With `normalize_values` the values and returns of batches are those of the critic's outputs, and
    `value_normalizer` gives V(s).

    It shares no parameter, optimizer, gradient clip or random numbers with the actor's update. So
    after the same batch the critic is bit-for-bit identical for every policy-optimizer.
    """

    saved = ("adam", "generator")

    def __init__(self, config: CriticConfig, engine: Engine, generator: Generator) -> None:
        self.config = config
        self.engine = engine
        self.generator = generator
        self.value_normalizer = ValueNormalizer() if config.normalize_values else None
        self.adam = make_adam(engine.policy.critic_parameters, config)

    def update(self, batch: Batch, progress: float) -> Outcome:
        """Fit the critic to one batch, at a fraction of the training budget."""
        return self.outcome(batch, *self.epochs(batch, progress, self.config.num_epochs))

    def epochs(self, batch: Batch, progress: float, number: int) -> tuple[Scalars, Scalars]:
        """Make passes over a batch; return each step's loss, and its gradient's norm."""
        config, engine = self.config, self.engine
        self.adam.learning_rate = scheduled_field(config, "learning_rate", progress)
        rows = engine.value_rows(batch)
        delta = config.huber_delta if config.loss == "huber" else None
        losses: Scalars = []
        norms: Scalars = []
        for _ in range(number):
            for minibatch in rows.minibatches(config.num_minibatches, self.generator):
                losses.append(engine.value_gradient(minibatch, config.value_clip, delta))
                norms.append(self.adam.step(config.max_grad_norm))
        return losses, norms

    def outcome(self, batch: Batch, losses: Scalars, norms: Scalars) -> Outcome:
        """Return the outcome of an update, from what `epochs` returned."""
        values = torch.stack((batch.old_values, self.engine.values(batch.inputs)))
        before, after = explained_variance(values, batch.returns)
        metrics = {
            "value/loss": mean_of(losses),
            "value/grad_norm": mean_of(norms),
            "value/explained_variance": before,
            "value/explained_variance_after": after,
        }
        return Outcome(metrics, losses, norms)

    def adapt(self, batch: Batch) -> None:
        """Merge the returns of a batch into the statistics, after the update.

        The critic's output layer is rescaled so that V(s) does not change (van Hasselt 2016,
        proposition 1).
        """
        normalizer = self.value_normalizer
        if normalizer is not None:
            returns = normalizer.denormalize(batch.returns.double().cpu().numpy())
            self.engine.policy.rescale_values(*normalizer.update(returns))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Adam, of the generator and of the statistics of returns."""
        normalizer = self.value_normalizer
        returns = {} if normalizer is None else {"returns": normalizer.moments.state_dict()}
        return super().state_dict() | returns

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict(state)
        if self.value_normalizer is not None:
            self.value_normalizer.moments.load_state_dict(state["returns"])

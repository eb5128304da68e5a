"""PPO whose ratio is clipped around a moving average of the policy, not around π_old."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from rlkl.algos.base import LearningObjective, Outcome
from rlkl.algos.first_order import Refresh, maker
from rlkl.algos.ppo_clip import ClippedSurrogate, EarlyStopping, PPOClipConfig
from rlkl.engines.base import Engine
from rlkl.rollouts.batch import Batch
from rlkl.utils.field_types import limited
from rlkl.utils.state import Stateful


@dataclass(frozen=True)
class PPOEWMAConfig(PPOClipConfig):
    """Hyperparameters of PPO-EWMA.

    Attributes:
        proximal_decay: β, the weight of a parameter vector relative to that one gradient step
            later; their average is β / (1 - β) gradient steps old, by default about the 40 of an
            update.
    """

    name: str = "ppo_ewma"
    proximal_decay: float = limited(0.976, at_least=0, below=1)


class MovingAverage(Stateful):
    """The average of vectors `[n]`, v_0 … v_t, with weights βᵗ … β, 1; β is the decay.

    Attributes:
        vector: the average, `[n]`.
        weight: sum of the weights; 0 before the first vector.
    """

    saved = ("vector", "weight")

    def __init__(self, like: Tensor, decay: float) -> None:
        self.decay = decay
        self.vector = torch.zeros_like(like)
        self.weight = 0.0

    def add(self, vector: Tensor) -> None:
        """Add the next vector."""
        earlier = self.decay * self.weight
        self.weight = earlier + 1
        self.vector.mul_(earlier / self.weight).add_(vector, alpha=1 / self.weight)


class PPOEWMA(EarlyStopping):
    """-E[min(r · A, clip(π_θ / π_prox, 1 - ε, 1 + ε) · π_prox / π_old · A)] (Hilton 2021, sec. 3).

    π_prox has the average of the parameters after each gradient step so far.
    """

    config: PPOEWMAConfig
    saved = (*EarlyStopping.saved, "proximal")

    def __init__(
        self,
        config: PPOEWMAConfig,
        objective: LearningObjective,
        engine: Engine,
        generator: Generator,
    ) -> None:
        super().__init__(config, objective, engine, generator)
        self._vector = engine.policy.actor_parameters.vector.data
        self.proximal = MovingAverage(self._vector, config.proximal_decay)

    def update(self, batch: Batch, progress: float, refresh: Refresh | None = None) -> Outcome:
        """Make `num_epochs` passes over the batch, or fewer with an early stop."""
        if not self.proximal.weight:
            self.proximal.add(self._vector)
        return super().update(batch, progress, refresh)

    def step(self, minibatch: Any) -> tuple[Any, Tensor | float]:
        """Take one gradient step, and add its parameters to the average.

        The objective is PPO-clip's with π_prox in place of π_old and A · π_prox / π_old in place
        of A.
        """
        engine = self.engine
        log_prob = self._proximal_log_prob(minibatch)
        weights = (log_prob - torch.as_tensor(minibatch.old_log_prob)).exp()
        minibatch = replace(
            minibatch,
            old_log_prob=engine.vector(log_prob),
            advantages=engine.vector(weights) * minibatch.advantages,
        )
        taken = super().step(minibatch)
        self.proximal.add(self._vector)
        return taken

    def _proximal_log_prob(self, rows: Any) -> Tensor:
        """Return log π_prox(a|s), `[B]`."""
        current = self._vector.clone()
        self._vector.copy_(self.proximal.vector)
        policy = self.engine.distribution(rows.inputs)
        self._vector.copy_(current)
        return policy.log_prob(torch.as_tensor(rows.actions))


make = maker(ClippedSurrogate, PPOEWMA)

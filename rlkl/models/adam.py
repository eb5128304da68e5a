"""Adam on one parameter vector, with clipping of the gradient's norm."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkl.models.flat_parameters import FlatParameters, in_shared_memory
from rlkl.utils.state import Stateful


class Adam(Stateful):
    """Adam on one parameter vector (Kingma & Ba 2015, algorithm 1), after gradient clipping.

    With the step number t: m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²,
    θ ← θ - learning_rate · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε). Weight decay is decoupled
    (AdamW, Loshchilov & Hutter 2019): before that, θ ← θ - learning_rate · weight_decay · θ.

    It calls the kernels of `torch.optim.Adam(fused=True)` and `AdamW` directly, without the
    overhead of those classes. Its state is in memory that forked processes share. The learning rate
    may change between steps.
    """

    saved = ("first_moment", "second_moment", "num_steps")

    def __init__(
        self,
        parameters: FlatParameters,
        learning_rate: float,
        epsilon: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.epsilon = epsilon
        self.betas = betas
        self.weight_decay = weight_decay
        self._kernel = torch._fused_adamw_ if weight_decay else torch._fused_adam_
        vector = parameters.vector.data
        self.first_moment = in_shared_memory(torch.zeros_like(vector))
        self.second_moment = in_shared_memory(torch.zeros_like(vector))
        self.num_steps = in_shared_memory(torch.zeros((), device=vector.device))
        self._counter = self.num_steps.numpy() if vector.device.type == "cpu" else None
        self._tensors: tuple[list[Tensor], ...] = (
            [vector],
            [parameters.gradient],
            [self.first_moment],
            [self.second_moment],
            [],  # for AMSGrad, which rlkl does not use
            [self.num_steps],
        )

    def step(self, max_grad_norm: float | None = None) -> Tensor | float:
        """Take one descent step; a gradient longer than `max_grad_norm` is scaled down to it.

        Returns:
            The norm before clipping; on a GPU a scalar tensor, which avoids a synchronisation.
        """
        norm = self._clip(max_grad_norm)
        if self._counter is None:
            self.num_steps.add_(1)
        else:
            self._counter += 1  # faster than torch
        self._kernel(
            *self._tensors,
            lr=self.learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )
        return norm

    def _clip(self, max_grad_norm: float | None) -> Tensor | float:
        gradient = self.parameters.gradient
        if gradient.device.type != "cpu":
            norm: Tensor = torch.linalg.vector_norm(gradient)
            if max_grad_norm is not None:
                gradient.mul_((max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
            return norm
        # Python and NumPy are faster here. Unlike `@`, `vdot` does not warn about an overflow.
        array = gradient.numpy()
        length = math.sqrt(np.vdot(array, array))
        if max_grad_norm is not None:
            scale = max_grad_norm / (length + 1e-6)
            if not scale >= 1:  # also for a norm of NaN, which then reaches the parameters
                with np.errstate(invalid="ignore"):
                    array *= scale
        return length


def make_adam(parameters: FlatParameters, config: Any) -> Adam:
    """Make Adam with the hyperparameters of a config."""
    betas = config.adam_beta1, config.adam_beta2
    return Adam(parameters, config.learning_rate, config.adam_epsilon, betas, config.weight_decay)


def mean_of(scalars: Sequence[Tensor | float]) -> float:
    """Return the mean of tensors or of numbers; NaN if there are none."""
    if not scalars:
        return math.nan
    tensors = [scalar for scalar in scalars if isinstance(scalar, Tensor)]
    numbers = [scalar for scalar in scalars if not isinstance(scalar, Tensor)]
    return float(torch.stack(tensors).mean()) if tensors else sum(numbers) / len(numbers)

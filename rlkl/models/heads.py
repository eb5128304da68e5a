"""The Gaussian head of an actor: means, and log standard deviations within bounds."""

from typing import Any

import torch
from torch import Tensor, nn

from rlkl.models.policy_config import PolicyConfig


class _Bounded(torch.autograd.Function):
    """Clamp to two bounds, with the gradient of `GaussianHead`."""

    @staticmethod
    def forward(
        ctx: Any, numbers: Tensor, lowest: float, highest: float, stops_outward: bool
    ) -> Tensor:
        ctx.stops_outward = stops_outward
        ctx.save_for_backward(numbers <= lowest, numbers >= highest)
        return numbers.clamp(lowest, highest)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.stops_outward:
            is_lowest, is_highest = ctx.saved_tensors
            outward = (is_lowest & (gradients > 0)) | (is_highest & (gradients < 0))
            gradients = gradients.masked_fill(outward, 0)
        return gradients, None, None, None

    @staticmethod
    def jvp(_: Any, tangents: Tensor, *__: None) -> Tensor:
        return tangents.clone()  # for Fisher-vector products: see `GaussianHead.stops_outward`


class GaussianHead(nn.Module):
    """Map features to means and bounded log standard deviations, `[B, 2D]`.

    The network gives the means, and the log standard deviations if they depend on the state. At
    or beyond a bound, the gradient of a log standard deviation is that of the bound where descent
    leads back inside, and 0 where it leads further out. So it can return to the inside.

    Attributes:
        stops_outward: False for Fisher-vector products, which need gradients in both directions.
    """

    def __init__(self, network: nn.Module, action_size: int, config: PolicyConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.stops_outward = True
        if not config.state_dependent_std:
            self.log_std = nn.Parameter(torch.full((action_size,), config.log_std))

    def forward(self, features: Tensor) -> Tensor:
        """Return means and log standard deviations, `[B, 2D]`."""
        config = self.config
        if config.state_dependent_std:
            mean, offset = self.network(features).chunk(2, -1)
            log_std = self._bounded(config.log_std + offset)
        else:
            mean = self.network(features)
            # Bounded before expanding: the gradient summed over rows has the direction of descent.
            log_std = self._bounded(self.log_std).expand_as(mean)
            # Changes no value, but makes the gradient contiguous, which fixes the order of its sum.
            log_std = log_std * 1.0
        return torch.cat((mean, log_std), -1)

    def _bounded(self, log_std: Tensor) -> Tensor:
        lowest, highest = self.config.log_std_min, self.config.log_std_max
        if not torch.is_grad_enabled():
            return log_std.clamp(lowest, highest)
        bounded: Tensor = _Bounded.apply(log_std, lowest, highest, self.stops_outward)  # type: ignore[no-untyped-call]
        return bounded

    def settle(self) -> None:
        """Clamp log standard deviations that are parameters; this changes no distribution."""
        if not self.config.state_dependent_std:
            self.log_std.data.clamp_(self.config.log_std_min, self.config.log_std_max)

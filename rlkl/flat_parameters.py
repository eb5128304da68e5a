"""The parameters of a network as one contiguous vector."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class FlatParameters:
    """Parameters of modules as one contiguous vector that the modules' own tensors view.

    Whatever is done to the vector (an optimizer's step, a natural-gradient step, clipping,
    restoring) is done to the modules, in one operation; `backward` adds into its gradient. Made
    last: moving a module to another device or type would part it from its vector.

    Args:
        tensors: the parameters, which become views.

    Attributes:
        tensors: the same, to differentiate with respect to.
        vector: all of them, `[n]`, a parameter whose gradient is `gradient`.
        gradient: all their gradients, `[n]`.
    """

    def __init__(self, tensors: Iterable[nn.Parameter]) -> None:
        self.tensors = list(tensors)
        self.vector = nn.Parameter(
            torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])
        )
        self.gradient = torch.zeros_like(self.vector.data)
        self.vector.grad = self.gradient
        offset = 0
        for tensor in self.tensors:
            span = slice(offset, offset + tensor.numel())
            tensor.data = self.vector.data[span].view_as(tensor)
            tensor.grad = self.gradient[span].view_as(tensor)
            offset = span.stop

    def descend(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, max_grad_norm: float | None
    ) -> Tensor:
        """Take one optimizer step down the loss, its gradient clipped to a norm.

        Args:
            loss: a scalar.
            optimizer: over `vector` alone.
            max_grad_norm: the gradient is scaled down to this norm; None leaves it.

        Returns:
            The norm before clipping, a scalar.
        """
        self.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        norm: Tensor = torch.linalg.vector_norm(self.gradient)
        if max_grad_norm is not None:
            self.gradient.mul_((max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        optimizer.step()
        return norm

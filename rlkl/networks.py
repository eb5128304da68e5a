"""Multilayer perceptrons, and parameters laid out in one contiguous vector."""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def mlp(
    input_size: int, hidden_sizes: Iterable[int], output_size: int, activation: str
) -> nn.Sequential:
    """Make a multilayer perceptron, `[B, input_size]` to `[B, output_size]`."""
    layers: list[nn.Module] = []
    size = input_size
    for hidden_size in hidden_sizes:
        layers += [nn.Linear(size, hidden_size), ACTIVATIONS[activation]()]
        size = hidden_size
    return nn.Sequential(*layers, nn.Linear(size, output_size))


def orthogonal_(
    network: nn.Module, hidden_gain: float, output_gain: float, generator: Generator
) -> None:
    """Initialise weights as scaled orthogonal matrices and biases as 0 (Saxe 2014).

    Args:
        network: changed in place.
        hidden_gain: of all linear layers but the last.
        output_gain: of the last one.
        generator: source of the random matrices.
    """
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in linears:
        gain = output_gain if layer is linears[-1] else hidden_gain
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        nn.init.zeros_(layer.bias)


def uniform_(network: nn.Module, generator: Generator) -> None:
    """Initialise weights and biases uniformly within ±1/√fan_in, as torch does by itself."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


class FlatParameters:
    """The parameters of a module as one contiguous vector that the module's own tensors view.

    Whatever is done to the vector (an optimizer's step, a natural-gradient step, clipping,
    restoring) is done to the module, in one operation; `backward` adds into its gradient. Made
    last: moving the module to another device or type would part it from its vector.

    Args:
        module: its parameters become views.

    Attributes:
        tensors: the module's parameters, to differentiate with respect to.
        vector: all of them, `[n]`, a parameter whose gradient is `gradient`.
        gradient: all their gradients, `[n]`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.tensors = list(module.parameters())
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

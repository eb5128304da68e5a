"""The parameters of a network as one contiguous vector."""

import mmap
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def in_shared_memory(tensor: Tensor) -> Tensor:
    """Return a copy in memory that forked processes share; a plain copy if not on the CPU.

    All processes see each other's writes. The memory is freed with the last tensor on it.
    """
    if tensor.device.type != "cpu" or not tensor.numel():
        return tensor.clone()
    memory = mmap.mmap(-1, tensor.nbytes)
    shared = torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape)
    return shared.copy_(tensor)


class FlatParameters:
    """Module parameters as one contiguous vector; the modules' tensors become views of it.

    A change of the vector, such as an optimizer step, changes the modules. `backward` adds to its
    gradient, which is not zeroed automatically. The vector is in memory that forked processes
    share. Create it last: moving a module to another device or dtype detaches it from the vector.

    Attributes:
        tensors: the parameters, to differentiate with respect to.
        vector: all parameters, `[n]`, itself a parameter whose gradient is `gradient`, `[n]`.
    """

    def __init__(self, tensors: Iterable[nn.Parameter]) -> None:
        self.tensors = list(tensors)
        self.vector = nn.Parameter(
            in_shared_memory(torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors]))
        )
        self.gradient = torch.zeros_like(self.vector.data)
        self.vector.grad = self.gradient
        ends = list(accumulate(tensor.numel() for tensor in self.tensors))
        spans = [slice(start, end) for start, end in pairwise((0, *ends))]
        for tensor, span in zip(self.tensors, spans, strict=True):
            tensor.data = self.vector.data[span].view_as(tensor)
            tensor.grad = self.gradient[span].view_as(tensor)
        self._parts = [(s, tuple(t.shape)) for s, t in zip(spans, self.tensors, strict=True)]

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector `[n]`, one in the shape of each parameter."""
        return [vector[span].view(shape) for span, shape in self._parts]

    def arrays(self, vector: Tensor | NDArray[Any]) -> list[NDArray[Any]]:
        """Return views of a CPU vector `[n]`, one in the shape of each parameter."""
        array = vector.detach().numpy() if isinstance(vector, Tensor) else vector
        return [array[span].reshape(shape) for span, shape in self._parts]

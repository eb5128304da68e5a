"""Encode observations and decode actions as tensors; exchange arrays by DLPack."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from rlkl.envs.actions import ActionDecoder
from rlkl.envs.observations import VECTOR, ObservationEncoder, channels_first
from rlkl.envs.spaces import Leaf
from rlkl.utils.errors import BrokenEnvironmentError

TensorObservations = dict[str, Tensor]
"""Encoded observations of N environments: `VECTOR` and an entry for each image."""


def as_tensor(values: Any, device: torch.device, where: str = "the environment") -> Tensor:
    """Return an array of any library as a tensor; without a copy if it is on the device already.

    Args:
        values: a tensor, or an array that has DLPack's methods.
        device: of the tensor.
        where: the start of an error message.

    Raises:
        BrokenEnvironmentError: it is no such array.
    """
    if isinstance(values, Tensor):
        return values.to(device)
    if not hasattr(values, "__dlpack__"):
        raise BrokenEnvironmentError(
            f"{where}: env.backend=tensor takes torch tensors and arrays that have DLPack, such as "
            f"JAX's; got {type(values).__name__}"
        )
    tensor: Tensor = from_dlpack(values)
    return tensor.to(device)


def actions_like(observations: Any) -> Callable[[Tensor], Any]:
    """Return the conversion of actions to the library of nested observations, by DLPack."""
    while isinstance(observations, Mapping | tuple | list):
        parts = observations.values() if isinstance(observations, Mapping) else observations
        observations = next(iter(parts))
    if isinstance(observations, Tensor):
        return lambda actions: actions
    convert: Callable[[Tensor], Any] = observations.__array_namespace__().from_dlpack
    return convert


class TensorEncoder:
    """Encodes observations like `ObservationEncoder`, as tensors on a device.

    Numbers and shapes are checked here, finite values once for each rollout (`TensorCollector`):
    looking at values in every step would wait for the device. A Discrete observation outside its
    space becomes NaN, so that the same check finds it. Messages start with `where`.
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        device: torch.device,
        num_envs: int,
        where: str = "the environment",
    ) -> None:
        self._device, self._num_envs, self._where = device, num_envs, where
        self._leaves = encoder.vector_leaves
        self._images = encoder.image_leaves
        self._dtype = torch.float64 if encoder.dtype == np.float64 else torch.float32
        self._codes: dict[tuple[str | int, ...], list[Tensor]] = {}
        for leaf in self._leaves:
            if leaf.one_hot is not None:
                sizes, lowest, _ = leaf.one_hot
                self._codes[leaf.path] = [
                    torch.arange(low, low + size, device=device)
                    for size, low in zip(sizes.tolist(), lowest.tolist(), strict=True)
                ]

    def __call__(self, observations: Any) -> TensorObservations:
        """Encode a batch of observations, nested like the space, N rows in each leaf.

        Raises:
            BrokenEnvironmentError: a leaf has another shape than its space, or is no tensor.
        """
        encoded: TensorObservations = {}
        if self._leaves:
            parts = [self._columns(leaf, self._rows(leaf, observations)) for leaf in self._leaves]
            encoded[VECTOR] = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        for name, leaf in self._images.items():
            encoded[name] = channels_first(self._rows(leaf, observations))
        return encoded

    def _rows(self, leaf: Leaf, observations: Any) -> Tensor:
        try:
            rows = as_tensor(leaf.select(observations), self._device, self._where)
        except (LookupError, TypeError):
            raise BrokenEnvironmentError(
                f"{self._where}: the observation{leaf.label} is missing"
            ) from None
        if tuple(rows.shape) != (self._num_envs, *leaf.shape):
            raise BrokenEnvironmentError(
                f"{self._where}: the observations{leaf.label} have shape {tuple(rows.shape)}; "
                f"expected {(self._num_envs, *leaf.shape)}"
            )
        return rows

    def _columns(self, leaf: Leaf, rows: Tensor) -> Tensor:
        rows = rows.flatten(1) if rows.ndim > 1 else rows[:, None]
        if leaf.path not in self._codes:
            return rows.to(self._dtype)
        parts = []
        for column, categories in zip(rows.unbind(1), self._codes[leaf.path], strict=True):
            code = column[:, None] == categories
            outside = ~code.any(1, keepdim=True)
            parts.append(code.to(self._dtype).masked_fill(outside, math.nan))
        return torch.cat(parts, -1)


class TensorDecoder:
    """Converts samples to actions like `ActionDecoder`, as tensors on a device."""

    def __init__(self, decoder: ActionDecoder, device: torch.device) -> None:
        self._decoder, space = decoder, decoder.space
        self._dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype

        def constant(values: Any) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64).to(device)

        if decoder.is_continuous:
            self._low, self._high = constant(space.low), constant(space.high)
            if decoder.half_range is not None:
                self._middle = constant(decoder.middle)
                self._half_range = constant(decoder.half_range)
        else:
            self._start = torch.as_tensor(getattr(space, "start", 0)).to(device)

    def __call__(self, samples: Tensor) -> Tensor:
        """Return the environment's actions for samples `[N]` or `[N, D]`, `[N, *shape]`."""
        decoder = self._decoder
        samples = samples.reshape(-1, *decoder.space.shape)
        if not decoder.is_continuous:
            return (samples + self._start).to(self._dtype)
        if decoder.squashes:
            samples = self._low + (self._high - self._low) * (samples.tanh().double() + 1) / 2
        elif decoder.half_range is not None:
            samples = self._middle + self._half_range * samples.double()
        if decoder.clips:
            samples = samples.clamp(self._low, self._high)
        return samples.to(self._dtype)

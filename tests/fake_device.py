"""A fake GPU for machines without one.

Its tensors are in CPU memory, but reject what tensors on a GPU reject: conversion to NumPy arrays,
operations with CPU tensors, and CPU generators.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)

CPUGenerator = torch.Generator


class DeviceTensor(Tensor):
    """A tensor on `DEVICE`."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return call(function, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return to_cpu(self).__reduce_ex__(protocol)


class DeviceGenerator(CPUGenerator):
    """A generator of random numbers on `DEVICE`."""

    device = DEVICE  # type: ignore[assignment]


def to_cpu(tensor: Tensor) -> Tensor:
    """Return the same memory as a CPU tensor."""
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(Tensor)


def to_device(tensor: Any) -> Any:
    """Return the same memory as a tensor on `DEVICE`."""
    if not isinstance(tensor, Tensor) or isinstance(tensor, DeviceTensor):
        return tensor
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(DeviceTensor)


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


PROPERTIES = {
    Tensor.device.__get__: DEVICE,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
}
REJECTED = (Tensor.numpy, Tensor.__array__)
MOVING = (Tensor.copy_, Tensor.to, Tensor.data.__set__)  # type: ignore[attr-defined]
INDEXING = (Tensor.__getitem__,)  # CPU indices are allowed
UPLOADING = (Tensor.to, torch.as_tensor, torch.tensor)

uploads: list[Tensor] = []
"""Tensors that were copied from the CPU to `DEVICE`; tests clear it."""


def call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a torch function with tensors of either device."""
    result = _called(function, args, kwargs)
    is_upload = function in UPLOADING and not isinstance(args[0], DeviceTensor)
    if is_upload and isinstance(result, DeviceTensor):
        uploads.append(result)
    return result


def _called(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    leaves, _ = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    first = tensors[0] if tensors else None
    is_on_device = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
    with torch._C.DisableTorchFunction():
        if isinstance(first, DeviceTensor):
            if function in PROPERTIES:
                return PROPERTIES[function]
            if function in REJECTED:
                raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")
        if function is Tensor.cpu:
            return to_cpu(args[0])
        if function is torch._has_compatible_shallow_copy_type:
            return len({isinstance(tensor, DeviceTensor) for tensor in tensors}) == 1
        if function is Tensor.to:
            return _moved(*args, **kwargs)
        if is_on_device and function not in MOVING + INDEXING:
            on_cpu = [t for t in tensors if not isinstance(t, DeviceTensor) and t.ndim > 0]
            if on_cpu:
                raise RuntimeError(f"{function.__name__}: tensors on cpu and on {DEVICE}")
        kwargs.pop("pin_memory", None)  # pinning needs a real device
        device = kwargs.pop("device", None)
        goes_to_device = is_on_device if device is None else _is_device(device)
        _check_generators(function, leaves, is_on_device=goes_to_device)
        result = function(*args, **kwargs)
        if function is Tensor.copy_ or function is Tensor.data.__set__:  # type: ignore[attr-defined]
            return result
        if function.__name__ in ("__get__", "tolist", "item"):
            return to_device(result) if is_on_device else result
        return tree_map(to_device, result) if goes_to_device else result


def _moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    targets = [*args, *kwargs.values()]
    to_fake = isinstance(tensor, DeviceTensor)
    for target in targets:
        if isinstance(target, str | torch.device):
            to_fake = _is_device(target)
        elif isinstance(target, Tensor):
            to_fake = isinstance(target, DeviceTensor)

    def on_cpu_instead(target: Any) -> Any:
        return torch.device("cpu") if isinstance(target, str | torch.device) else target

    moved = tensor.to(
        *map(on_cpu_instead, args), **{k: on_cpu_instead(v) for k, v in kwargs.items()}
    )
    return to_device(moved) if to_fake else to_cpu(moved)


def _check_generators(
    function: Callable[..., Any], leaves: list[Any], *, is_on_device: bool
) -> None:
    for leaf in leaves:
        if isinstance(leaf, CPUGenerator) and isinstance(leaf, DeviceGenerator) != is_on_device:
            raise RuntimeError(f"{function.__name__}: a generator of another device")


class _FakeDeviceMode(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return call(function, args, kwargs or {})


class _Generator(CPUGenerator):
    """Makes a generator on the device that is asked for; a class, as annotations need one."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return DeviceGenerator() if _is_device(device) else CPUGenerator()


@contextmanager
def fake_device() -> Iterator[str]:
    """Provide a device besides the CPU, and yield its name."""
    with pytest.MonkeyPatch.context() as patch, _FakeDeviceMode():
        patch.setattr(torch, "Generator", _Generator)
        # These two warn without CUDA.
        patch.setattr(torch.backends.cudnn, "flags", lambda **_: nullcontext())
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "fake")
        yield str(DEVICE)

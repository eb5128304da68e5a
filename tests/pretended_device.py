"""A device that is not the CPU, for machines that have no other.

Its tensors lie in ordinary memory, but they refuse what tensors on a GPU refuse: to become NumPy
arrays, to meet tensors of the CPU in one operation, and to be filled by the CPU's generators.
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

CpuGenerator = torch.Generator


class Elsewhere(Tensor):
    """A tensor on `DEVICE`."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return answered(function, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return here(self).__reduce_ex__(protocol)


class ElsewhereGenerator(CpuGenerator):
    """A source of random numbers on `DEVICE`."""

    device = DEVICE  # type: ignore[assignment]


def here(tensor: Tensor) -> Tensor:
    """Return the same memory as a tensor of the CPU."""
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(Tensor)


def there(tensor: Any) -> Any:
    """Return the same memory as a tensor of `DEVICE`."""
    if not isinstance(tensor, Tensor) or isinstance(tensor, Elsewhere):
        return tensor
    with torch._C.DisableTorchFunction():
        return tensor.as_subclass(Elsewhere)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


PROPERTIES = {
    Tensor.device.__get__: DEVICE,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
}
REFUSED = (Tensor.numpy, Tensor.__array__)
MOVING = (Tensor.copy_, Tensor.to, Tensor.data.__set__)  # type: ignore[attr-defined]
TAKING = (Tensor.__getitem__,)  # tensors on a GPU take indices of the CPU


def answered(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return what a function of torch gives, with tensors of two devices."""
    leaves, _ = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    first = tensors[0] if tensors else None
    is_there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    with torch._C.DisableTorchFunction():
        if isinstance(first, Elsewhere):
            if function in PROPERTIES:
                return PROPERTIES[function]
            if function in REFUSED:
                raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")
        if function is Tensor.cpu:
            return here(args[0])
        if function is torch._has_compatible_shallow_copy_type:
            return len({isinstance(tensor, Elsewhere) for tensor in tensors}) == 1
        if function is Tensor.to:
            return _moved(*args, **kwargs)
        if is_there and function not in MOVING + TAKING:
            apart = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim > 0]
            if apart:
                raise RuntimeError(f"{function.__name__}: tensors on cpu and on {DEVICE}")
        device = kwargs.pop("device", None)
        is_asked_for = is_there if device is None else _is_there(device)
        _check_generators(function, leaves, is_there=is_asked_for)
        result = function(*args, **kwargs)
        if function is Tensor.copy_ or function is Tensor.data.__set__:  # type: ignore[attr-defined]
            return result
        if function.__name__ in ("__get__", "tolist", "item"):
            return there(result) if is_there else result
        return tree_map(there, result) if is_asked_for else result


def _moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    targets = [*args, *kwargs.values()]
    goes = isinstance(tensor, Elsewhere)
    for target in targets:
        if isinstance(target, str | torch.device):
            goes = _is_there(target)
        elif isinstance(target, Tensor):
            goes = isinstance(target, Elsewhere)

    def stand_in(target: Any) -> Any:
        return torch.device("cpu") if isinstance(target, str | torch.device) else target

    moved = tensor.to(*map(stand_in, args), **{k: stand_in(v) for k, v in kwargs.items()})
    return there(moved) if goes else here(moved)


def _check_generators(function: Callable[..., Any], leaves: list[Any], *, is_there: bool) -> None:
    for leaf in leaves:
        if isinstance(leaf, CpuGenerator) and isinstance(leaf, ElsewhereGenerator) != is_there:
            raise RuntimeError(f"{function.__name__}: a generator of another device")


class _Pretending(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return answered(function, args, kwargs or {})


def _generator(device: Any = "cpu") -> CpuGenerator:
    return ElsewhereGenerator() if _is_there(device) else CpuGenerator()


@contextmanager
def pretended_device() -> Iterator[str]:
    """Have a device beside the CPU; yields its name."""
    with pytest.MonkeyPatch.context() as patch, _Pretending():
        patch.setattr(torch, "Generator", _generator)
        # Without CUDA both of them warn.
        patch.setattr(torch.backends.cudnn, "flags", lambda **_: nullcontext())
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda tensor: False)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
        yield str(DEVICE)

"""Reads the files that `torch.save` writes as data: no code runs, and no size is taken on trust.

`torch.load(weights_only=True)` runs no code either, but it inflates compressed entries, believes
the sizes that tensors and storages declare, and follows references that multiply.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from itertools import pairwise
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

MOST_FILES = 100_000
"""Within an archive; a checkpoint has one for each storage and a few more."""

MOST_NODES, MOST_LEVELS = 10_000_000, 200
"""Of a state: numbers, texts and containers, counted once for each way that leads to them."""

MOST_NUMBERS = 2**24
"""Of an observation or an action; each has bounds, and most a row of weights."""

_ENTRY = b"PK\x01\x02"
"""What each entry of an archive's directory begins with."""


def read_archive(content: bytes) -> Any:
    """Return what was saved, tensors on the CPU.

    Args:
        content: of the file.

    Raises:
        pickle.UnpicklingError: it holds something else than data.
        ValueError: it is damaged, compressed, or larger than it can be.
        zipfile.BadZipFile, LookupError, TypeError, ...: it is no such file.
    """
    if content.count(_ENTRY) > MOST_FILES:  # before a list of them is made
        raise ValueError(f"it holds more than {MOST_FILES:,} files")
    archive = zipfile.ZipFile(io.BytesIO(content))
    found = archive.infolist()
    for entry in found:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{entry.filename} in it is compressed; rlkl never compresses")
    if sum(entry.file_size for entry in found) > len(content):
        raise ValueError("its files overlap")
    files = {entry.filename: entry for entry in found}
    if len(files) != len(found):
        raise ValueError("it holds two files of one name")
    # Each is held against its checksum, those that are not needed too.
    read = {name: archive.read(entry) for name, entry in files.items()}
    mains = [name for name in read if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(mains) != 1:
        raise ValueError("it has no data.pkl, or several")
    prefix = mains[0].removesuffix("data.pkl")
    order = read.get(f"{prefix}byteorder", sys.byteorder.encode()).decode()
    if order != sys.byteorder:
        raise ValueError(f"it was written on a machine of {order}-endian byte order")
    files_of_state = {name.removeprefix(prefix): read[name] for name in read}
    state = _Unpickler(read[mains[0]], files_of_state).state()
    _check_extent(state, len(content))
    return state


class _Storage:
    """The numbers that tensors view: their type, their size in bytes, and all of them, flat."""

    def __init__(self, kind: torch.dtype | None, content: bytes) -> None:
        self.kind, self.size = kind, len(content)
        # A copy of torch's own lies where its arithmetic expects it.
        self.flat = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8).clone()
            if content
            else torch.empty(0, dtype=torch.uint8)
        )


def _rebuilt(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    metadata: Any = None,
    *,
    kind: torch.dtype | None = None,
) -> Tensor:
    """Return a tensor as `torch._utils._rebuild_tensor_v2` does, within its storage.

    Raises:
        ValueError: it reaches out of its storage, or shows more numbers than are stored.
    """
    kind = kind or storage.kind
    if kind is None or hooks or metadata:
        raise pickle.UnpicklingError("a tensor with hooks or metadata")
    if len(size) != len(stride) or any(
        type(n) is not int or n < 0 for n in (offset, *size, *stride)
    ):
        raise ValueError("a tensor in it has no valid shape")
    count = prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if max(count, last + 1 if count else 0) * kind.itemsize > storage.size:
        raise ValueError(f"a tensor in it shows {count:,} numbers, more than are stored of it")
    whole = storage.flat[: storage.size // kind.itemsize * kind.itemsize].view(kind)
    tensor = whole.as_strided(size, stride, offset if count else 0)
    return tensor.requires_grad_() if requires_grad is True else tensor


def _rebuilt_of_kind(storage: _Storage, *given: Any) -> Tensor:
    """Return a tensor as `torch._utils._rebuild_tensor_v3` does, within its storage."""
    *place, kind = given[:6]  # the type comes before the metadata
    return _rebuilt(storage, *place, *given[6:], kind=kind)


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_KINDS = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}

_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuilt_of_kind,
    ("torch.storage", "UntypedStorage"): None,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("__builtin__", "complex"): complex,
    **{("torch", f"{name}Storage"): kind for name, kind in _KINDS.items()},
    **{("torch", f"uint{bits}"): getattr(torch, f"uint{bits}") for bits in (16, 32, 64)},
}
"""All that a pickle may name, and what it stands for; so nothing else can be called."""

_INSTRUCTIONS = """
    PROTO STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL
    BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT NONE NEWTRUE NEWFALSE TUPLE TUPLE1 TUPLE2
    TUPLE3 BINPERSID REDUCE BUILD APPEND APPENDS SETITEM SETITEMS
"""
"""All that plain data needs of a pickle's language."""


class _Unpickler(pickle._Unpickler):
    """Knows the few names and instructions that plain data needs.

    It is the one in Python: that in C makes room for as many references as a file declares.
    """

    stack: list[Any]

    def __init__(self, content: bytes, files: dict[str, bytes]) -> None:
        super().__init__(io.BytesIO(content))
        self._files = files
        self._storages: dict[str, _Storage] = {}

    def state(self) -> Any:
        """Return what is saved.

        Raises:
            pickle.UnpicklingError: it is something else than data.
        """
        try:
            return self.load()
        except KeyError as error:
            if error.args and error.args[0] in range(256):  # an instruction
                raise pickle.UnpicklingError("an instruction that data does not need") from None
            raise

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None

    def persistent_load(self, identity: Any) -> _Storage:
        what, kind, key, _, count = identity
        if what != "storage" or not (kind is None or isinstance(kind, torch.dtype)):
            raise pickle.UnpicklingError("a storage of another kind")
        if key not in self._storages:
            self._storages[key] = _Storage(kind, self._files[f"data/{key}"])
        storage = self._storages[key]
        if storage.kind is not kind or count * (kind.itemsize if kind else 1) != storage.size:
            raise ValueError(f"data/{key} in it has another size than is declared")
        return storage

    def _build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if type(made) is not OrderedDict or type(state) is not dict or {*state} - {"_metadata"}:
            raise pickle.UnpicklingError("attributes of something else than a module's state")
        made.__dict__.update(state)

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in _INSTRUCTIONS.split())
    } | {pickle.BUILD[0]: _build}


def _check_extent(state: Any, size: int) -> None:
    """Raise unless a state stays within bounds if every reference is replaced by what it names.

    Args:
        state: containers, texts, numbers and tensors.
        size: of its file, in bytes.

    Raises:
        ValueError: it is too large, too deep, or contains itself.
    """
    known: dict[int, tuple[int, int, int]] = {}
    under_way: set[int] = set()

    def extent(node: Any, level: int) -> tuple[int, int, int]:
        """Return how many nodes, how many bytes of tensors, and how many levels."""
        if isinstance(node, Tensor):
            return 1, node.numel() * node.element_size(), 1
        if isinstance(node, str | bytes):
            return 1 + len(node) // 64, 0, 1
        if not isinstance(node, dict | list | tuple):
            return 1, 0, 1
        if id(node) not in known:
            if level > MOST_LEVELS or id(node) in under_way:
                raise ValueError(f"it contains itself, or is nested more than {MOST_LEVELS} deep")
            under_way.add(id(node))
            parts = [*node, *node.values()] if isinstance(node, dict) else node
            extents = [extent(part, level + 1) for part in parts] or [(0, 0, 0)]
            nodes, in_tensors, levels = zip(*extents, strict=True)
            known[id(node)] = 1 + sum(nodes), sum(in_tensors), 1 + max(levels)
            under_way.discard(id(node))
        return known[id(node)]

    nodes, in_tensors, levels = extent(state, 0)
    if nodes > MOST_NODES or in_tensors > 16 * size or levels > MOST_LEVELS:
        raise ValueError("references in it multiply")


def check_described(description: dict[str, Any], weights: Any, vector_size: int = 0) -> None:
    """Raise if spaces and networks are described as larger than the weights, before they are made.

    Args:
        description: as `describe_policy` gives it.
        weights: containers of the policy's tensors.
        vector_size: numbers that a network sees beside images, once that is known.

    Raises:
        ValueError: they are, or a space is larger than any can be.
    """
    observation = _numbers(description["observation_space"])
    least = max(_numbers(description["action_space"]), 1 if observation else 0)
    config = description["config"]
    widths = [config.get("memory_size", 1)] if config.get("memory", "none") != "none" else []
    least = max(least, *(width**2 for width in widths), 0)
    for key in ("encoder_hidden_sizes", "actor_hidden_sizes", "critic_hidden_sizes"):
        layers = config.get(key, [])
        widths += layers
        least = max(least, sum(a * b for a, b in pairwise([1, *layers])))
    least = max(least, vector_size * min(widths, default=1))
    stored = _stored(weights)
    if least > stored:
        raise ValueError(f"its policy has {least:,} weights or more, and {stored:,} are stored")


def _numbers(space: dict[str, Any]) -> int:
    """Return how many numbers a space has that `describe_space` described."""
    numbers = 0
    if "dict" in space:
        numbers = sum(map(_numbers, space["dict"].values()))
    elif "tuple" in space:
        numbers = sum(map(_numbers, space["tuple"]))
    elif "discrete" in space:
        numbers = space["discrete"]
    elif "multi_discrete" in space:
        numbers = sum(map(int, _flat(space["multi_discrete"])))
    elif "box" in space or "multi_binary" in space:
        numbers = prod(_flat(space.get("box", space.get("multi_binary"))))
    if not 0 <= numbers <= MOST_NUMBERS:
        raise ValueError(f"a space of {numbers:,} numbers; expected {MOST_NUMBERS:,} at most")
    return numbers


def _flat(node: Any) -> list[Any]:
    return [leaf for part in node for leaf in _flat(part)] if isinstance(node, list) else [node]


def _stored(node: Any) -> int:
    """Return how many numbers the tensors of nested containers have."""
    if isinstance(node, dict):
        return sum(map(_stored, node.values()))
    return node.numel() if isinstance(node, Tensor) else 0

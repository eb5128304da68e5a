"""Read files of `torch.save` as data: without running code, and with a check of every size.

`torch.load(weights_only=True)` runs no code either, but it decompresses entries, trusts the sizes
that tensors and storages declare, and expands nested references without limit.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

MOST_FILES = 100_000  # limit for an archive; a checkpoint has one file per storage and a few more

MOST_NODES, MOST_LEVELS = 10_000_000, 200
"""Limits for a state: numbers, texts and containers, counted once per reference; and nesting."""

_ENTRY = b"PK\x01\x02"  # the first bytes of each entry of an archive's directory


def read_archive(content: bytes) -> Any:
    """Return the state that `torch.save` wrote to these bytes, with tensors on the CPU.

    Raises:
        pickle.UnpicklingError: the file contains something other than data.
        ValueError: the file is damaged, compressed, or expands to more than its size.
        zipfile.BadZipFile, LookupError, TypeError, ...: it is not a file of `torch.save`.
    """
    if content.count(_ENTRY) > MOST_FILES:  # before `infolist` allocates memory for them
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
        raise ValueError("it holds two files with the same name")
    # Reading verifies the checksum, so files that are not needed are read too.
    read = {name: archive.read(entry) for name, entry in files.items()}
    mains = [name for name in read if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(mains) != 1:
        raise ValueError("it has no data.pkl, or more than one")
    prefix = mains[0].removesuffix("data.pkl")
    order = read.get(f"{prefix}byteorder", sys.byteorder.encode()).decode()
    if order != sys.byteorder:
        raise ValueError(f"it was written on a machine with {order}-endian byte order")
    state = _Unpickler(read, prefix).state()
    _check_extent(state, len(content))
    return state


class _Storage:
    """The flat data that tensors view, its dtype, and its size in bytes."""

    def __init__(self, dtype: torch.dtype | None, content: bytes) -> None:
        self.dtype, self.size = dtype, len(content)
        self.flat = torch.empty(0, dtype=torch.uint8)
        if content:  # `clone` makes memory with the alignment that torch's arithmetic expects
            self.flat = torch.frombuffer(bytearray(content), dtype=torch.uint8).clone()


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    metadata: Any = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return a tensor like `torch._utils._rebuild_tensor_v2`, after a check of its bounds."""
    dtype = dtype or storage.dtype
    if dtype is None or hooks or metadata:
        raise pickle.UnpicklingError("a tensor with hooks or metadata")
    is_valid = all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if len(size) != len(stride) or not is_valid:
        raise ValueError("a tensor in it has no valid shape")
    count = prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if max(count, last + 1 if count else 0) * dtype.itemsize > storage.size:
        raise ValueError(f"a tensor in it has {count:,} numbers, more than are stored")
    flat = storage.flat[: storage.size // dtype.itemsize * dtype.itemsize].view(dtype)
    tensor = flat.as_strided(size, stride, offset if count else 0)
    return tensor.requires_grad_() if requires_grad is True else tensor


def _rebuild_tensor_with_dtype(storage: _Storage, *given: Any) -> Tensor:
    """Return a tensor like `torch._utils._rebuild_tensor_v3`, after a check of its bounds."""
    *layout, dtype = given[:6]  # the dtype comes before the metadata
    return _rebuild_tensor(storage, *layout, *given[6:], dtype=dtype)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}")
    return text.encode("latin1")


_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip

_ALLOWED_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_with_dtype,
    ("torch.storage", "UntypedStorage"): None,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # of a size it could fill the memory
    ("__builtin__", "complex"): complex,
    **{("torch", f"{name}Storage"): dtype for name, dtype in _DTYPES.items()},
    **{("torch", f"uint{bits}"): getattr(torch, f"uint{bits}") for bits in (16, 32, 64)},
}
"""All names that a pickle may use, and their meaning; nothing else can be called."""

_OPCODES = """
    PROTO STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL
    BINUNICODE BININT BININT1 BININT2 LONG1 BINFLOAT NONE NEWTRUE NEWFALSE TUPLE TUPLE1 TUPLE2
    TUPLE3 BINPERSID REDUCE BUILD APPEND APPENDS SETITEM SETITEMS
"""
"""The pickle opcodes that plain data needs."""


class _Unpickler(pickle._Unpickler):
    """Unpickler that accepts only the names and opcodes of plain data.

    It derives from Python's version: the one in C allocates a memo as large as the file declares.
    """

    stack: list[Any]

    def __init__(self, files: dict[str, bytes], prefix: str) -> None:
        super().__init__(io.BytesIO(files[f"{prefix}data.pkl"]))
        self._files, self._prefix = files, prefix
        self._storages: dict[str, _Storage] = {}

    def state(self) -> Any:
        """Return the saved state, if it is nothing other than data."""
        try:
            return self.load()
        except KeyError as error:
            if error.args and error.args[0] in range(256):  # an opcode
                raise pickle.UnpicklingError("an instruction that data does not need") from None
            raise

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED_NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None

    def persistent_load(self, identity: Any) -> _Storage:
        what, dtype, key, _, count = identity
        if what != "storage" or not (dtype is None or isinstance(dtype, torch.dtype)):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if key not in self._storages:
            self._storages[key] = _Storage(dtype, self._files[f"{self._prefix}data/{key}"])
        storage = self._storages[key]
        if storage.dtype is not dtype or count * (dtype.itemsize if dtype else 1) != storage.size:
            raise ValueError(f"data/{key} in it has another size than declared")
        return storage

    def _build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if type(made) is not OrderedDict or type(state) is not dict or {*state} - {"_metadata"}:
            raise pickle.UnpicklingError("attributes of something other than a module's state")
        made.__dict__.update(state)

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in _OPCODES.split())
    } | {pickle.BUILD[0]: _build}


def _check_extent(state: Any, size: int) -> None:
    """Check the extent of a state from a file of `size` bytes; each reference counts."""
    known: dict[int, tuple[int, int, int]] = {}
    in_progress: set[int] = set()

    def extent(node: Any, level: int) -> tuple[int, int, int]:
        """Return the number of nodes, bytes of tensors, and levels."""
        if isinstance(node, Tensor):
            return 1, node.numel() * node.element_size(), 1
        if isinstance(node, str | bytes):
            return 1 + len(node) // 64, 0, 1
        if not isinstance(node, dict | list | tuple):
            return 1, 0, 1
        if id(node) not in known:
            if level > MOST_LEVELS or id(node) in in_progress:
                raise ValueError(f"it contains itself, or is nested more than {MOST_LEVELS} deep")
            in_progress.add(id(node))
            parts = [*node, *node.values()] if isinstance(node, dict) else node
            extents = [extent(part, level + 1) for part in parts] or [(0, 0, 0)]
            nodes, in_tensors, levels = zip(*extents, strict=True)
            known[id(node)] = 1 + sum(nodes), sum(in_tensors), 1 + max(levels)
            in_progress.discard(id(node))
        return known[id(node)]

    nodes, in_tensors, levels = extent(state, 0)
    if nodes > MOST_NODES or in_tensors > 16 * size or levels > MOST_LEVELS:
        raise ValueError("its references expand to too many objects")

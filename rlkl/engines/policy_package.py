"""The files of a packaged policy: how its weights are stored, and how it is loaded."""

import os
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkl.engines.acting import TrainedPolicy, policy_from
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import read_bytes, read_yaml
from rlkl.utils.validation import check_installed, one_line, reading_parts

FORMAT = 1
"""Version of the format; raised by every change that older code cannot read."""

POLICY, WEIGHTS = "policy.yaml", "policy.safetensors"
"""The two files that are read: spaces, networks and settings; and the numbers."""

MAX_WEIGHTS_BYTES = 2**31
"""Of the file of weights, which usually has less than a megabyte."""

PARTS = ("actor", "critic", "normalizer")
STATISTICS = {"count": torch.int64, "mean": torch.float64, "squares": torch.float64}
CLIP = {"clip": torch.float64}
"""Also of the normalizer; older packages lack it."""


def is_package(folder: str | Path) -> bool:
    """Return whether a folder is a packaged policy, perhaps a damaged one."""
    return any(os.path.lexists(Path(folder) / name) for name in (POLICY, WEIGHTS))


def weights_of(trained: TrainedPolicy) -> bytes:
    """Return the weights and the normalizer's statistics as the content of a safetensors file.

    Raises:
        ConfigError: the package safetensors is missing.
    """
    save = _safetensors("to write weights").save
    nested: dict[str, dict[str, Any]] = trained.policy.state_dict()
    if trained.normalizer is not None:
        statistics = trained.normalizer.state_dict()
        types = STATISTICS | CLIP
        tensors = {key: torch.tensor(statistics[key], dtype=types[key]) for key in types}
        nested = nested | {"normalizer": tensors}
    # Shared parameters are stored once for each name.
    flat = {
        f"{part}.{name}": tensor.detach().cpu().clone().contiguous()
        for part, tensors in nested.items()
        for name, tensor in tensors.items()
    }
    content: bytes = save(flat)
    return content


def load_package(
    folder: str | Path, checkpoint: str = "last"
) -> tuple[TrainedPolicy, dict[str, Any]]:
    """Load a packaged policy; return it and the content of its `policy.yaml`.

    Nothing in the folder is run, and no pickle is read.

    Args:
        folder: made by `rlkl package`.
        checkpoint: `last`, or the name of the checkpoint that was packaged.

    Raises:
        ConfigError: a file is missing, damaged or of a newer format, the files do not belong
            together, or the package safetensors is missing.
    """
    path = Path(folder)
    content = read_yaml(path / POLICY)
    with reading_package(folder):
        if not isinstance(content, dict):
            raise ValueError(f"{POLICY} is no mapping")
        written = content["format"]
        if not isinstance(written, int) or written < 1:
            raise ValueError(f"format {written!r}")
        if written > FORMAT:
            raise ConfigError(
                f"{folder} has format {written}, newer than {FORMAT} of this rlkl; upgrade rlkl"
            )
        packaged = str(content["checkpoint"])
        if checkpoint not in ("last", packaged):
            raise ConfigError(
                f"{folder} is a package of the checkpoint {packaged} only; leave out "
                f"checkpoint {checkpoint}"
            )
        load = _safetensors(f"{folder}/{WEIGHTS}").load
        stored = read_bytes(path / WEIGHTS, at_most=MAX_WEIGHTS_BYTES)
        try:
            flat: dict[str, Tensor] = load(stored)
        except Exception as error:  # safetensors has its own, of no common kind
            raise ValueError(f"{WEIGHTS}: {one_line(error)}") from error
        return _policy(content["policy"], flat), content


def _policy(description: dict[str, Any], flat: dict[str, Tensor]) -> TrainedPolicy:
    nested: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in flat.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = tensor
    statistics = nested.pop("normalizer")
    if statistics and set(statistics) - set(CLIP) != set(STATISTICS):
        raise ValueError("the statistics of the normalizer are incomplete")
    if statistics and bool((statistics["squares"] < 0).any()):
        raise ValueError("the statistics of the normalizer have a negative variance")
    if "clip" in statistics and not bool((statistics["clip"] > 0).all()):
        raise ValueError("the clip of the normalizer is not above 0")
    numbers = {key: tensor.numpy() for key, tensor in statistics.items()} or None
    trained = policy_from(
        {"policy_description": description, "policy": nested, "normalizer": numbers}
    )
    size = (trained.policy.encoder.vector_size,)
    if statistics and not statistics["mean"].shape == statistics["squares"].shape == size:
        raise ValueError(f"the normalizer is not of {size[0]} numbers")
    return trained


def reading_package(folder: str | Path) -> AbstractContextManager[None]:
    """Turn errors of missing or malformed parts of a package into a ConfigError of one line."""
    return reading_parts(
        f"{folder} is not a package that can be read", "make it again with rlkl package"
    )


def _safetensors(what: str) -> Any:
    check_installed("safetensors", "safetensors", what)
    return import_module("safetensors.torch")

"""Encode observations of any supported space as one vector and images."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple
from numpy.typing import NDArray

from rlkl.envs.spaces import FLAT, FLOAT32_MAX, Leaf, leaves
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.validation import nearest

Observations = dict[str, NDArray[Any]]
"""Encoded observations of N environments: `VECTOR`, an entry for each image, `ACTION_MASK`."""

VECTOR = "vector"
"""All numbers and one-hot codes side by side, `[N, D]`: float32, or float64 if the space contains
wider numbers, so that the normalizer subtracts the mean before rounding."""

ACTION_MASK = "action_mask"
"""Which actions are allowed, bool `[N, M]`, if the environment has action masks."""


class ObservationEncoder:
    """Encodes the observations of environments for networks.

    Box and MultiBinary become columns of one vector, Discrete and MultiDiscrete one-hot columns of
    it. A Box of bytes (uint8) in two or more dimensions is an image: it stays bytes, channels
    first. The channel axis of three is the shorter of the first and the last (the last if they are
    equal). Of four axes the first is a stack of frames, and frames times channels become channels.

    Args:
        space: of one observation, Dict and Tuple included.
        keys: the parts of a Dict or Tuple to use; none for all.

    Attributes:
        vector_size: D, columns of the vector; 0 if there is none.
        images: channels, height and width of each image, by its key in the encoded observations.
        is_measured: which columns come from Boxes and are normalized, `[D]`.
        dtype: of the vector.

    Raises:
        ConfigError: for an unsupported space or a key that does not exist.
    """

    def __init__(self, space: gym.Space[Any], keys: Sequence[str] = ()) -> None:
        self.space = space
        self.keys = tuple(keys)
        self._columns: list[tuple[Leaf, slice]] = []
        self._images: dict[str, Leaf] = {}
        self.images: dict[str, tuple[int, int, int]] = {}
        self.vector_size = 0
        all_leaves = list(leaves(space))
        for leaf in _chosen(all_leaves, self.keys):
            _check_supported(leaf, all_leaves)
            if leaf.is_image:
                name = f"image/{leaf.name}".rstrip("/")
                self._images[name] = leaf
                blank = np.empty((0, *leaf.shape), np.uint8)
                channels, height, width = channels_first(blank).shape[1:]
                self.images[name] = (channels, height, width)
            else:
                end = self.vector_size + leaf.size
                self._columns.append((leaf, slice(self.vector_size, end)))
                self.vector_size = end
        if not self.vector_size and not self.images:
            raise ConfigError(f"observations {space} show nothing; expected at least one number")
        self.is_measured = np.zeros(self.vector_size, np.bool_)
        for leaf, columns in self._columns:
            self.is_measured[columns] = isinstance(leaf.space, Box)
        is_wide = any(
            isinstance(leaf.space, Box) and not np.can_cast(leaf.dtype, np.float32)
            for leaf, _ in self._columns
        )
        self.dtype = np.dtype(np.float64 if is_wide else np.float32)
        self._is_flat_box = len(self._columns) == 1 and self.is_measured.all()
        self._is_plain = self._is_flat_box and not self._images and _is_plain(self._columns[0][0])
        # One-hot codes, bits and integers are finite.
        self._can_be_infinite = any(
            np.issubdtype(leaf.dtype, np.inexact) for leaf, _ in self._columns
        )

    def __call__(self, observations: Any, where: str = "the environment") -> Observations:
        """Encode a batch of observations.

        Args:
            observations: of a vector environment: nested like the space, N rows in each leaf.
            where: the start of an error message.

        Raises:
            BrokenEnvironmentError: for NaN, infinite numbers, or anything outside the space.
        """
        if self._is_plain and isinstance(observations, np.ndarray):
            plain = self._plain(observations)
            if plain is not None:
                return {VECTOR: plain}
        encoded: Observations = {}
        if self.vector_size:
            encoded[VECTOR] = vector = self._vector(observations, where)
            if self._can_be_infinite and not all_finite(vector):
                rows, columns = np.nonzero(~np.isfinite(vector))
                leaf = next(leaf for leaf, span in self._columns if columns[0] < span.stop)
                raise BrokenEnvironmentError(
                    f"{where}: the observation{leaf.label} of sub-environment {rows[0]} is "
                    f"{vector[rows[0], columns[0]]} at index {columns[0]}; expected finite numbers"
                )
        for name, leaf in self._images.items():
            encoded[name] = channels_first(_checked_rows(leaf, observations, where))
        return encoded

    def _plain(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        """Return rows of one flat Box unchanged; None if they need a closer look.

        This is the fast path of nearly every step. A sum of squares below the maximum of float32
        means that all numbers are finite in float32 too.
        """
        leaf = self._columns[0][0]
        is_declared = rows.shape[1:] == leaf.shape and rows.dtype == leaf.dtype
        return rows if is_declared and np.vdot(rows, rows) < FLOAT32_MAX else None

    def _vector(self, observations: Any, where: str) -> NDArray[Any]:
        if self._is_flat_box:
            rows = _checked_rows(self._columns[0][0], observations, where)
            vector = self._numbers(rows)
            return vector if vector.ndim == 2 else vector.reshape(len(rows), -1)
        parts = [_checked_rows(leaf, observations, where) for leaf, _ in self._columns]
        vector = np.zeros((len(parts[0]), self.vector_size), self.dtype)
        for rows, (leaf, columns) in zip(parts, self._columns, strict=True):
            if leaf.one_hot is not None:
                _write_one_hot(vector[:, columns], leaf, rows, where)
            else:
                vector[:, columns] = self._numbers(rows).reshape(len(rows), -1)
        return vector

    def _numbers(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return numbers in the vector's type; those too large for float32 become infinite."""
        narrow = _as_float32(rows)
        if self.dtype == np.float32:
            return narrow
        return np.where(np.isfinite(narrow), rows, narrow).astype(np.float64)

    @property
    def columns(self) -> dict[str, tuple[int, int]]:
        """Start and end (exclusive) of each part's columns in the vector."""
        return {leaf.name: (span.start, span.stop) for leaf, span in self._columns}

    def _used_leaves(self) -> list[Leaf]:
        return [*(leaf for leaf, _ in self._columns), *self._images.values()]

    def stack(self, observations: Sequence[Any], where: str = "the environment") -> Observations:
        """Encode single observations, one row each."""
        used = [leaf.path for leaf in self._used_leaves()]
        return self(_stacked(self.space, observations, used), where)

    def check_single(self, observation: Any) -> None:
        """Check that one observation has the declared shapes and types.

        Raises:
            BrokenEnvironmentError: with the part, what it is and what it should be.
        """
        for leaf in self._used_leaves():
            try:
                part = np.asarray(leaf.select(observation))
            except (LookupError, TypeError, ValueError):
                raise BrokenEnvironmentError(
                    f"the observation{leaf.label} is missing; expected {self.space}"
                ) from None
            is_array = isinstance(leaf.select(observation), np.ndarray | np.generic)
            if part.shape != leaf.shape or is_array or part.dtype.kind not in "biuf":
                leaf.check(part.shape, part.dtype, "the observation")

    def empty(self, *shape: int) -> Observations:
        """Return uninitialized buffers for encoded observations, `[*shape, ...]` each."""
        buffers: Observations = {
            name: np.empty((*shape, *size), np.uint8) for name, size in self.images.items()
        }
        if self.vector_size:
            buffers[VECTOR] = np.empty((*shape, self.vector_size), np.float32)
        return buffers


def normalized(
    observations: Observations, normalizer: ObservationNormalizer | None
) -> Observations:
    """Return observations with normalized vectors; unchanged without a normalizer."""
    if normalizer is None:
        return observations
    return observations | {VECTOR: normalizer(observations[VECTOR])}


def channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images as `[N, C, H, W]`.

    Args:
        images: `[N, H, W]`, `[N, H, W, C]`, `[N, C, H, W]`, or stacks of K frames
            `[N, K, H, W, C]` or `[N, K, C, H, W]`, which become `[N, K * C, H, W]`.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.shape[-1] <= images.shape[-3]:
        # np.moveaxis is slower and gives the same view.
        images = images.transpose(*range(images.ndim - 3), -1, -3, -2)
    if images.ndim == 5:
        images = images.reshape(len(images), math.prod(images.shape[1:3]), *images.shape[3:])
    return images


def _chosen(all_leaves: list[Leaf], keys: tuple[str, ...]) -> list[Leaf]:
    for key in keys:
        if not any(leaf.is_below(key) for leaf in all_leaves):
            names = [leaf.name for leaf in all_leaves if leaf.path]
            raise ConfigError(
                f"env.observation_keys: observations have no part {key!r}; "
                f"expected {', '.join(names) or 'none: they have no parts'}{nearest(key, names)}"
            )
    return [leaf for leaf in all_leaves if not keys or any(map(leaf.is_below, keys))]


def _is_supported(leaf: Leaf) -> bool:
    return isinstance(leaf.space, FLAT) and (not leaf.is_image or len(leaf.shape) <= 4)


def _check_supported(leaf: Leaf, all_leaves: list[Leaf]) -> None:
    if _is_supported(leaf):
        return
    part = f" in {leaf.name!r}" if leaf.path else ""
    supported = ",".join(other.name for other in all_leaves if _is_supported(other)) or "..."
    fix = (
        f"choose the parts to use, such as env.observation_keys=[{supported}]"
        if leaf.path
        else "wrap the environment so that it shows one of these"
    )
    # Some spaces print the address of a function.
    space = type(leaf.space).__name__ if " at 0x" in str(leaf.space) else leaf.space
    raise ConfigError(
        f"observations {space}{part} are not supported: expected Box (images of at most four "
        f"dimensions), Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of them; {fix}"
    )


def _is_plain(leaf: Leaf) -> bool:
    return leaf.path == () and len(leaf.shape) == 1 and leaf.dtype in (np.float32, np.float64)


def _checked_rows(leaf: Leaf, observations: Any, where: str) -> NDArray[Any]:
    rows: NDArray[Any] = np.asarray(leaf.select(observations))
    if rows.shape[1:] != leaf.shape or rows.dtype != leaf.dtype:
        leaf.check(rows.shape[1:], rows.dtype, where)
    return rows


def _as_float32(rows: NDArray[Any]) -> NDArray[np.float32]:
    if rows.dtype == np.float32:
        return rows
    if rows.dtype == np.float64 and np.vdot(rows, rows) < FLOAT32_MAX:
        return rows.astype(np.float32)  # nothing overflows, so errstate, which is slow, can go
    with np.errstate(over="ignore"):  # too large numbers become infinite, which the caller reports
        return rows.astype(np.float32)


def all_finite(numbers: NDArray[np.floating[Any]]) -> bool:
    """Return whether there is neither NaN nor an infinity.

    A finite sum of squares means that, and is fast; else each number is checked.
    """
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def _write_one_hot(zeros: NDArray[Any], leaf: Leaf, rows: NDArray[Any], where: str) -> None:
    """Write one-hot codes of rows `[N, *shape]` into the columns of their leaf, `[N, size]`."""
    assert leaf.one_hot is not None
    sizes, lowest, first_columns = leaf.one_hot
    indices = rows.reshape(len(rows), -1) - lowest
    outside = ((indices < 0) | (indices >= sizes)).any(1)
    if outside.any():
        raise BrokenEnvironmentError(
            f"{where}: an observation{leaf.label} of sub-environment {np.argmax(outside)} is "
            f"{rows[outside][0]}, outside its space {leaf.space}"
        )
    zeros[np.arange(len(rows))[:, None], indices + first_columns] = 1


def _stacked(
    space: gym.Space[Any], observations: Sequence[Any], used: Sequence[tuple[str | int, ...]]
) -> Any:
    """Return single observations as a batch, without the parts that are not used.

    Args:
        space: of one observation.
        observations: each nested like the space; unused parts may be missing.
        used: paths of the leaves that are used.
    """
    if not isinstance(space, Dict | Tuple):
        return np.array(observations)
    parts: Any = space.spaces if isinstance(space, Dict) else dict(enumerate(space.spaces))
    return {
        key: _stacked(part, [observation[key] for observation in observations], below)
        for key, part in parts.items()
        if (below := [path[1:] for path in used if path[0] == key])
    }

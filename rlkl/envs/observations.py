"""Encode observations of any supported space as one vector and images."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from rlkl.envs.spaces import FLOAT32_MAX, Leaf, leaves
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError
from rlkl.utils.validation import nearest

Observations = dict[str, NDArray[Any]]
"""Encoded observations of N environments: `VECTOR`, an entry for each image, `ACTION_MASK`."""

VECTOR = "vector"
"""All numbers and one-hot codes side by side, `[N, D]`: float32, or float64 if the space contains
wider numbers, so that the normalizer subtracts the mean before rounding."""

ACTION_MASK = "action_mask"
"""Which actions are allowed, bool `[N, M]`, if the environment has action masks."""


class View(NamedTuple):
    """The part of encoded observations that a network reads.

    Attributes:
        columns: of the vector, in order; None for all.
        vector_size: their number.
        images: channels, height and width of each image, by its key.
    """

    columns: list[int] | None
    vector_size: int
    images: dict[str, tuple[int, int, int]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one observation's entries, by key."""
        vector: dict[str, tuple[int, ...]] = {VECTOR: (self.vector_size,)}
        return (vector if self.vector_size else {}) | self.images


class ObservationEncoder:
    """Encodes the observations of environments for networks.

    Box and MultiBinary become columns of one vector, Discrete and MultiDiscrete one-hot columns of
    it. A Box of bytes (uint8) in two or more dimensions is an image: it stays bytes, channels
    first. The channel axis of three is the shorter of the first and the last (the last if they are
    equal). Of four axes the first is a stack of frames, and frames times channels become channels.
    `keys` names the parts of a Dict or Tuple to use; none for all.

    Attributes:
        vector_size: D, columns of the vector; 0 if there is none.
        images: channels, height and width of each image, by its key in the encoded observations.
        image_leaves: the same parts of the space, by that key.
        is_measured: which columns come from Boxes and are normalized, `[D]`.
        dtype: of the vector.

    Raises:
        ConfigError: for an unsupported space or a key that does not exist.
    """

    def __init__(self, space: gym.Space[Any], keys: Sequence[str] = ()) -> None:
        self.space = space
        self.keys = tuple(keys)
        self._columns: list[tuple[Leaf, slice]] = []
        self.image_leaves: dict[str, Leaf] = {}
        self.images: dict[str, tuple[int, int, int]] = {}
        self.vector_size = 0
        all_leaves = list(leaves(space))
        for leaf in _chosen(all_leaves, self.keys, "env.observation_keys"):
            _check_supported(leaf, all_leaves)
            if leaf.is_image:
                name = f"image/{leaf.name}".rstrip("/")
                self.image_leaves[name] = leaf
                blank = np.empty((0, *leaf.shape), np.uint8)
                channels, height, width = channels_first(blank).shape[1:]
                self.images[name] = (channels, height, width)
            else:
                end = self.vector_size + leaf.size
                self._columns.append((leaf, slice(self.vector_size, end)))
                self.vector_size = end
        if not self.vector_size and not self.images:
            raise ConfigError(f"observations {space} contain nothing; expected at least one number")
        self.is_measured = np.zeros(self.vector_size, np.bool_)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        for leaf, columns in self._columns:
            self.is_measured[columns] = is_box = isinstance(leaf.space, Box)
            if is_box and not np.can_cast(leaf.dtype, np.float32):
                self.dtype = np.dtype(np.float64)
        is_vector = isinstance(space, Box) and len(space.shape) == 1
        self._is_plain = is_vector and space.dtype in (np.float32, np.float64)

    def __call__(self, observations: Any, where: str = "the environment") -> Observations:
        """Encode observations of a vector environment: nested like the space, N rows in each leaf.

        Raises:
            BrokenEnvironmentError: for NaN, infinite numbers, or anything outside the space.
        """
        # Fast for nearly every step: below this sum of squares all numbers are finite in float32.
        if (
            self._is_plain
            and isinstance(observations, np.ndarray)
            and observations.shape[1:] == self.space.shape
            and observations.dtype == self.space.dtype
            and np.vdot(observations, observations) < FLOAT32_MAX
        ):
            return {VECTOR: observations}
        return self._encoded(lambda leaf: np.asarray(leaf.select(observations)), where)

    def stack(self, observations: Sequence[Any], where: str = "the environment") -> Observations:
        """Encode single observations, one row each."""
        return self._encoded(
            lambda leaf: np.array([leaf.select(observation) for observation in observations]), where
        )

    def encode(
        self, observations: Any, where: str, count: int | None = None, unseen: Sequence[str] = ()
    ) -> Observations:
        """Encode an observation, or a batch, some parts of which may be missing.

        Args:
            observations: one, or `count` of them, nested like those of a vector environment.
            where: for messages.
            count: N; None for a single observation.
            unseen: names of parts that are not read; their lowest value, or 0, stands for them.
        """

        def rows_of(leaf: Leaf) -> NDArray[Any]:
            if leaf.name in unseen:
                rows = np.zeros((count or 1, *leaf.shape), leaf.dtype)
                if leaf.one_hot is not None:
                    rows += leaf.one_hot[1].reshape(leaf.shape).astype(leaf.dtype)
                return rows
            rows = np.asarray(leaf.select(observations))
            return rows[None] if count is None else rows

        return self._encoded(rows_of, where)

    def _encoded(self, rows_of: Callable[[Leaf], NDArray[Any]], where: str) -> Observations:
        encoded: Observations = {}
        if self.vector_size:
            encoded[VECTOR] = vector = self._vector(rows_of, where)
            if not all_finite(vector):
                rows, columns = np.nonzero(~np.isfinite(vector))
                leaf = next(leaf for leaf, span in self._columns if columns[0] < span.stop)
                raise BrokenEnvironmentError(
                    f"{where}: the observation{leaf.label} of sub-environment {rows[0]} is "
                    f"{vector[rows[0], columns[0]]} at index {columns[0]}; expected finite numbers"
                )
        for name, leaf in self.image_leaves.items():
            encoded[name] = channels_first(self._checked(leaf, rows_of, where))
        return encoded

    def _vector(self, rows_of: Callable[[Leaf], NDArray[Any]], where: str) -> NDArray[Any]:
        parts = [self._checked(leaf, rows_of, where) for leaf, _ in self._columns]
        vector = np.zeros((len(parts[0]), self.vector_size), self.dtype)
        for rows, (leaf, columns) in zip(parts, self._columns, strict=True):
            if leaf.one_hot is not None:
                _write_one_hot(vector[:, columns], leaf, rows, where)
            else:
                vector[:, columns] = self._numbers(rows).reshape(len(rows), -1)
        return vector

    def _checked(
        self, leaf: Leaf, rows_of: Callable[[Leaf], NDArray[Any]], where: str
    ) -> NDArray[Any]:
        try:
            rows = rows_of(leaf)
        except (LookupError, TypeError, ValueError):
            raise BrokenEnvironmentError(
                f"{where}: the observation{leaf.label} is missing; expected {self.space}"
            ) from None
        if rows.shape[1:] != leaf.shape or rows.dtype != leaf.dtype:
            leaf.check(rows.shape[1:], rows.dtype, where)
        return rows

    def _numbers(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return numbers in the vector's type; those too large for float32 become infinite."""
        with np.errstate(over="ignore"):
            narrow = rows.astype(np.float32, copy=False)
        if self.dtype == np.float32:
            return narrow
        return np.where(np.isfinite(narrow), rows, narrow).astype(np.float64)

    @property
    def columns(self) -> dict[str, tuple[int, int]]:
        """Start and end (exclusive) of each part's columns in the vector."""
        return {leaf.name: (span.start, span.stop) for leaf, span in self._columns}

    @property
    def vector_leaves(self) -> list[Leaf]:
        """The parts of the vector, in its order."""
        return [leaf for leaf, _ in self._columns]

    def view(self, keys: Sequence[str], setting: str) -> View:
        """Return what a network sees that is given some parts of the observations; none for all.

        Raises:
            ConfigError: the setting names a part that does not exist.
        """
        chosen = _chosen([*self.vector_leaves, *self.image_leaves.values()], tuple(keys), setting)
        spans = [span for leaf, span in self._columns if leaf in chosen]
        columns = [column for span in spans for column in range(span.start, span.stop)]
        images = {
            key: self.images[key] for key, leaf in self.image_leaves.items() if leaf in chosen
        }
        if not columns and not images:
            raise ConfigError(f"{setting}={list(keys)}: these parts contain nothing")
        is_all = len(columns) == self.vector_size
        return View(None if is_all else columns, len(columns), images)

    def empty(self, *shape: int) -> Observations:
        """Return uninitialized buffers for encoded observations, `[*shape, ...]` each."""
        buffers: Observations = {
            name: np.empty((*shape, *size), np.uint8) for name, size in self.images.items()
        }
        if self.vector_size:
            buffers[VECTOR] = np.empty((*shape, self.vector_size), np.float32)
        return buffers


def normalized(
    observations: dict[str, Any], normalizer: Callable[[Any], Any] | None
) -> dict[str, Any]:
    """Return observations with normalized vectors; unchanged without a normalizer or vectors."""
    if normalizer is None or VECTOR not in observations:
        return observations
    return observations | {VECTOR: normalizer(observations[VECTOR])}


def channels_first(images: Any) -> Any:
    """Return images, an array or a tensor, as `[N, C, H, W]`.

    Args:
        images: `[N, H, W]`, `[N, H, W, C]`, `[N, C, H, W]`, or stacks of K frames
            `[N, K, H, W, C]` or `[N, K, C, H, W]`, which become `[N, K * C, H, W]`.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.shape[-1] <= images.shape[-3]:
        images = images.swapaxes(-1, -2).swapaxes(-2, -3)
    if images.ndim == 5:
        images = images.reshape(len(images), math.prod(images.shape[1:3]), *images.shape[3:])
    return images


def _chosen(all_leaves: list[Leaf], keys: tuple[str, ...], setting: str) -> list[Leaf]:
    for key in keys:
        if not any(leaf.is_below(key) for leaf in all_leaves):
            names = [leaf.name for leaf in all_leaves if leaf.path]
            raise ConfigError(
                f"{setting}: observations have no part {key!r}; "
                f"expected {', '.join(names) or 'none: they have no parts'}{nearest(key, names)}"
            )
    return [leaf for leaf in all_leaves if not keys or any(map(leaf.is_below, keys))]


def _is_supported(leaf: Leaf) -> bool:
    return leaf.is_array and (not leaf.is_image or len(leaf.shape) <= 4)


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


def all_finite(numbers: NDArray[np.floating[Any]]) -> bool:
    """Return whether there is neither NaN nor an infinity; faster than `np.isfinite`."""
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

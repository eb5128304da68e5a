"""What spaces mean to a policy: observations as numbers and images, actions as a distribution's."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from numpy.typing import NDArray
from torch import Tensor

from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError, nearest

Observations = dict[str, NDArray[Any]]
"""What N environments show, one row each: `VECTOR`, an entry for each image, `ACTION_MASK`."""

VECTOR = "vector"
"""All numbers and one-hot codes side by side, `[N, D]`: float32, or float64 where the space holds
numbers that float32 does not, for the normaliser to subtract their mean before they are rounded."""

ACTION_MASK = "action_mask"
"""Which actions are allowed, where the environment says so, bool `[N, M]`."""

FLAT = Box | Discrete | MultiDiscrete | MultiBinary
"""The spaces whose elements are numbers, side by side in one array."""

FLOAT32_MAX = float(np.finfo(np.float32).max)

BOX_DISTRIBUTIONS = ("gaussian", "tanh_gaussian")


@dataclass(frozen=True)
class Leaf:
    """A space of an observation that holds no further spaces.

    Attributes:
        path: the keys that lead to it; empty if it is the whole observation.
        space: Box, Discrete, MultiDiscrete or MultiBinary.
    """

    path: tuple[str | int, ...]
    space: gym.Space[Any]

    @property
    def name(self) -> str:
        """The path with slashes."""
        return "/".join(map(str, self.path))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one element."""
        return self.space.shape or ()

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of one element."""
        declared: np.dtype[Any] = np.dtype(self.space.dtype)
        return declared

    @property
    def label(self) -> str:
        """How a message names it behind "observation"; nothing where it is the whole of it."""
        return f" of {self.name!r}" if self.path else ""

    def is_below(self, key: str) -> bool:
        """Whether it is the part that a key names, or lies within it."""
        return f"{self.name}/".startswith(f"{key}/")

    @property
    def is_image(self) -> bool:
        """Whether it is bytes in two or more dimensions."""
        space = self.space
        return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1

    @property
    def size(self) -> int:
        """How many columns of the vector it takes."""
        if isinstance(self.space, Discrete):
            return int(self.space.n)
        if isinstance(self.space, MultiDiscrete):
            return int(self.space.nvec.sum())
        return math.prod(self.space.shape or ())

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
        """Raise unless an observation has the declared shape and a type that casts to the declared.

        Raises:
            BrokenEnvironmentError: naming this leaf, what came and what was declared.
        """
        casts = dtype == self.dtype or np.can_cast(dtype, self.dtype, "same_kind")
        if shape != self.shape or not casts:
            raise BrokenEnvironmentError(
                f"{where}: an observation{self.label} has shape {shape} and type {dtype}; "
                f"its space declares {self.shape} and {self.dtype}"
            )

    def of(self, observations: Any) -> Any:
        """Return this leaf's part of nested observations."""
        for key in self.path:
            observations = observations[key]
        return observations


class ObservationEncoder:
    """Turns what environments show into what networks take.

    Boxes and MultiBinary become columns of one vector, Discrete and MultiDiscrete one-hot columns
    of it. A Box of bytes (uint8) in two or more dimensions is an image: it stays bytes, channels
    first. The channel axis of three is the shorter of the first and the last (the last if they are
    equal); of four axes the first is a stack of frames, and frames times channels become channels.

    Args:
        space: of one observation, Dict and Tuple included.
        keys: the parts of a Dict or Tuple to use; none for all.

    Attributes:
        space, keys: as given.
        vector_size: D, columns of the vector; 0 if there is none.
        images: channels, height and width of each image, by its key in the encoded observations.
        is_measured: which columns come from Boxes, `[D]`: those are what a normaliser scales.
        dtype: of the vector.

    Raises:
        ConfigError: a space that no network here takes, or a key that does not exist.
    """

    def __init__(self, space: gym.Space[Any], keys: Sequence[str] = ()) -> None:
        self.space = space
        self.keys = tuple(keys)
        self._columns: list[tuple[Leaf, slice]] = []
        self._images: dict[str, Leaf] = {}
        self.images: dict[str, tuple[int, int, int]] = {}
        self.vector_size = 0
        every = list(leaves(space))
        for leaf in _chosen(every, self.keys):
            _check_leaf(leaf, every)
            if leaf.is_image:
                name = f"image/{leaf.name}".rstrip("/")
                self._images[name] = leaf
                blank = np.empty((0, *(leaf.space.shape or ())), np.uint8)
                channels, height, width = channels_first(blank).shape[1:]
                self.images[name] = (channels, height, width)
            else:
                end = self.vector_size + leaf.size
                self._columns.append((leaf, slice(self.vector_size, end)))
                self.vector_size = end
        self.is_measured = np.zeros(self.vector_size, np.bool_)
        for leaf, columns in self._columns:
            self.is_measured[columns] = isinstance(leaf.space, Box)
        if not self.vector_size and not self.images:
            raise ConfigError(f"observations {space} show nothing; expected at least one number")
        is_wide = any(
            isinstance(leaf.space, Box) and not np.can_cast(leaf.dtype, np.float32)
            for leaf, _ in self._columns
        )
        self.dtype = np.dtype(np.float64 if is_wide else np.float32)
        self._is_flat_box = len(self._columns) == 1 and self.is_measured.all()
        self._is_plain = self._is_flat_box and not self._images and self._is_plain_box()
        # Codes, bits and whole numbers are finite.
        self._can_be_infinite = any(
            np.issubdtype(leaf.dtype, np.inexact) for leaf, _ in self._columns
        )
        self._one_hots = {
            columns.start: _OneHot(leaf, columns)
            for leaf, columns in self._columns
            if isinstance(leaf.space, Discrete | MultiDiscrete)
        }

    def __call__(self, observations: Any, where: str = "the environment") -> Observations:
        """Encode a batch of observations as a vector environment gives it.

        Args:
            observations: nested as the space is, each leaf with N rows.
            where: who gave them, for the message of an error.

        Raises:
            BrokenEnvironmentError: NaN or infinite numbers, or anything outside the declared space.
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
                    f"{where}: the observation{leaf.label} of copy {rows[0]} is "
                    f"{vector[rows[0], columns[0]]} in place {columns[0]}; expected finite numbers"
                )
        for name, leaf in self._images.items():
            images = _checked_rows(leaf, leaf.of(observations), where)
            encoded[name] = channels_first(images)
        return encoded

    def _is_plain_box(self) -> bool:
        [(leaf, _)] = self._columns
        return leaf.path == () and len(leaf.shape) == 1 and leaf.dtype in (np.float32, np.float64)

    def _plain(self, rows: NDArray[Any]) -> NDArray[Any] | None:
        """Return rows of one flat Box as they are; None if anything about them must be looked at.

        It is what nearly every step needs. A sum of squares that is small enough says at once that
        all numbers are finite, in 32 bits as well; the rest of `__call__` takes 10 µs more.
        """
        [(leaf, _)] = self._columns
        if rows.shape[1:] != leaf.shape or rows.dtype != leaf.dtype:
            return None
        if not np.vdot(rows, rows) < FLOAT32_MAX:
            return None
        return rows

    def _vector(self, observations: Any, where: str) -> NDArray[Any]:
        if self._is_flat_box:
            leaf = self._columns[0][0]
            rows = _checked_rows(leaf, leaf.of(observations), where)
            vector = self._numbers(rows)
            return vector if vector.ndim == 2 else vector.reshape(len(rows), -1)
        parts = [_checked_rows(leaf, leaf.of(observations), where) for leaf, _ in self._columns]
        vector = np.zeros((len(parts[0]), self.vector_size), self.dtype)
        for rows, (_, columns) in zip(parts, self._columns, strict=True):
            one_hot = self._one_hots.get(columns.start)
            if one_hot is not None:
                one_hot.write(vector, rows, where)
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
        """The first column of the vector that each part takes, and the one behind its last."""
        return {leaf.name: (span.start, span.stop) for leaf, span in self._columns}

    def stack(self, observations: Sequence[Any], where: str = "the environment") -> Observations:
        """Encode single observations, one row each."""
        used = [leaf.path for leaf, _ in self._columns]
        used += [leaf.path for leaf in self._images.values()]
        return self(_stacked(self.space, observations, used), where)

    def check_single(self, observation: Any) -> None:
        """Raise unless one observation has the shapes and types that its space declares.

        Raises:
            BrokenEnvironmentError: naming the part, what it is and what it should be.
        """
        for leaf in (*(leaf for leaf, _ in self._columns), *self._images.values()):
            try:
                part = np.asarray(leaf.of(observation))
            except (LookupError, TypeError, ValueError):
                raise BrokenEnvironmentError(
                    f"the observation{leaf.label} is missing; expected {self.space}"
                ) from None
            is_listed = not isinstance(leaf.of(observation), np.ndarray | np.generic)
            if part.shape != leaf.shape or not (is_listed and part.dtype.kind in "biuf"):
                leaf.check(part.shape, part.dtype, "the observation")

    def empty(self, *shape: int) -> Observations:
        """Return uninitialised room for encoded observations, `[*shape, ...]` each."""
        room: Observations = {
            name: np.empty((*shape, *size), np.uint8) for name, size in self.images.items()
        }
        if self.vector_size:
            room[VECTOR] = np.empty((*shape, self.vector_size), np.float32)
        return room


def normalized(
    observations: Observations, normalizer: ObservationNormalizer | None
) -> Observations:
    """Return observations with their vectors normalised, if they have any and training does."""
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
        # np.moveaxis takes five times as long for the same view.
        images = images.transpose(*range(images.ndim - 3), -1, -3, -2)
    if images.ndim == 5:
        images = images.reshape(len(images), math.prod(images.shape[1:3]), *images.shape[3:])
    return images


def leaves(space: gym.Space[Any], path: tuple[str | int, ...] = ()) -> Iterator[Leaf]:
    """Yield the spaces within a space that hold no further spaces, in order."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, (*path, key))
    elif isinstance(space, Tuple):
        for number, part in enumerate(space.spaces):
            yield from leaves(part, (*path, number))
    else:
        yield Leaf(path, space)


def _chosen(leaves: list[Leaf], keys: tuple[str, ...]) -> list[Leaf]:
    for key in keys:
        if not any(leaf.is_below(key) for leaf in leaves):
            names = [leaf.name for leaf in leaves if leaf.path]
            raise ConfigError(
                f"env.observation_keys: observations have no part {key!r}; "
                f"expected {', '.join(names) or 'none: they have no parts'}{nearest(key, names)}"
            )
    if not keys:
        return leaves
    return [leaf for leaf in leaves if any(leaf.is_below(key) for key in keys)]


def _is_usable(leaf: Leaf) -> bool:
    is_flat = isinstance(leaf.space, FLAT)
    return is_flat and (not leaf.is_image or len(leaf.space.shape or ()) <= 4)


def _check_leaf(leaf: Leaf, every: list[Leaf]) -> None:
    if _is_usable(leaf):
        return
    part = f" in {leaf.name!r}" if leaf.path else ""
    usable = ",".join(other.name for other in every if _is_usable(other)) or "..."
    mend = (
        f"choose the parts to use, such as env.observation_keys=[{usable}]"
        if leaf.path
        else "wrap the environment so that it shows one of these"
    )
    # Some spaces print the address of a function.
    space = type(leaf.space).__name__ if " at 0x" in str(leaf.space) else leaf.space
    raise ConfigError(
        f"observations {space}{part} are not supported: expected Box (images of at most four "
        f"dimensions), Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of them; {mend}"
    )


def _checked_rows(leaf: Leaf, rows: Any, where: str) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(rows)
    if array.shape[1:] != leaf.shape or array.dtype != leaf.dtype:
        leaf.check(array.shape[1:], array.dtype, where)
    return array


def _as_float32(rows: NDArray[Any]) -> NDArray[np.float32]:
    if rows.dtype == np.float32:
        return rows
    if rows.dtype == np.float64 and np.vdot(rows, rows) < FLOAT32_MAX:
        return rows.astype(np.float32)  # nothing that is too large, so 2 µs can be saved
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found as that
        return rows.astype(np.float32)


def all_finite(numbers: NDArray[np.floating[Any]]) -> bool:
    """Return whether there is neither NaN nor an infinity.

    A finite sum of squares says so in 0.5 µs; only where there is none is each number looked at.
    """
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


class _OneHot:
    """Writes the codes of one leaf into its columns of the vector.

    Args:
        leaf: Discrete or MultiDiscrete.
        columns: of the vector that are its own.
    """

    def __init__(self, leaf: Leaf, columns: slice) -> None:
        self._leaf = leaf
        space: Any = leaf.space
        is_single = isinstance(space, Discrete)
        self._sizes = np.atleast_1d(space.n if is_single else space.nvec.ravel())
        self._start = np.ravel(space.start)
        self._columns = columns.start + np.concatenate(([0], np.cumsum(self._sizes)[:-1]))

    def write(self, vector: NDArray[np.float32], rows: NDArray[Any], where: str) -> None:
        """Write a 1 for each number of each row into zeros.

        Args:
            vector: all columns, `[N, D]`.
            rows: `[N, *shape]` of the leaf.
            where: who gave them, for the message of an error.

        Raises:
            BrokenEnvironmentError: a number outside the space.
        """
        places = rows.reshape(len(rows), -1) - self._start
        outside = ((places < 0) | (places >= self._sizes)).any(1)
        if outside.any():
            raise BrokenEnvironmentError(
                f"{where}: an observation{self._leaf.label} of copy {np.argmax(outside)} is "
                f"{rows[outside][0]}, outside its space {self._leaf.space}"
            )
        vector[np.arange(len(rows))[:, None], places + self._columns] = 1


def _stacked(
    space: gym.Space[Any], observations: Sequence[Any], used: Sequence[tuple[str | int, ...]]
) -> Any:
    """Return observations side by side, the parts that are not used left out.

    Args:
        space: of one.
        observations: each nested as the space is; parts that are not used may be missing.
        used: paths of the leaves that are.
    """
    if not isinstance(space, Dict | Tuple):
        return np.array(observations)
    parts: Any = space.spaces if isinstance(space, Dict) else dict(enumerate(space.spaces))
    return {
        key: _stacked(part, [observation[key] for observation in observations], below)
        for key, part in parts.items()
        if (below := [path[1:] for path in used if path[0] == key])
    }


class ActionDecoder:
    """The distribution that an action space asks for, and the way from its samples to actions.

    Discrete gives a `Categorical`, MultiDiscrete a `MultiCategorical`, MultiBinary a `Bernoulli`, a
    Box a `DiagonalGaussian` whose samples are clipped to the bounds, or a `TanhGaussian`, whose
    samples are squashed into them: a = low + (high - low) · (tanh(u) + 1) / 2.

    Args:
        space: of one action.
        box_distribution: `gaussian` or `tanh_gaussian`.
        clip: False does not clip the samples of a `DiagonalGaussian`.
        scale: whether a sample u of a `DiagonalGaussian` counts half-ranges from the middle of the
            bounds, a = (low + high) / 2 + u · (high - low) / 2; without finite bounds a = u.

    Attributes:
        space: as given.
        clips: whether actions are kept within the bounds of a Box.
        middle, half_range: what samples are multiplied by and added to, of the space's shape; None
            where that would change nothing.
        log_half_range: of squashed actions Σ_d log((high - low) / 2), by which their entropy
            differs from that of tanh(u); else 0.
        family: from a network's output `[B, P]` to distributions.
        parameter_size: P.

    Raises:
        ConfigError: no distribution for this space, or no bounds to squash into or to clip to.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        box_distribution: str = "gaussian",
        clip: bool = True,
        scale: bool = False,
    ) -> None:
        check_action_space(space)
        if not clip and not isinstance(space, Box):
            raise ConfigError(
                f"policy.clip_actions=false: changes nothing, actions {space} have no bounds that "
                "samples could leave; leave it out"
            )
        self.clips = clip
        self.space: Any = space
        self.middle: Any = None
        self.half_range: Any = None
        self.log_half_range = 0.0
        box: Any = space
        self.family: Callable[[Tensor], Distribution]
        if isinstance(space, Discrete):
            self.family, self.parameter_size = Categorical, int(space.n)
        elif isinstance(space, MultiDiscrete):
            sizes = tuple(int(n) for n in space.nvec.ravel())
            self.family, self.parameter_size = partial(MultiCategorical, sizes=sizes), sum(sizes)
        elif isinstance(space, MultiBinary):
            self.family, self.parameter_size = Bernoulli, math.prod(space.shape)
        else:
            self.family = DiagonalGaussian if box_distribution == "gaussian" else TanhGaussian
            self.parameter_size = 2 * math.prod(space.shape or ())
            if self.squashes and not (np.isfinite(box.low) & np.isfinite(box.high)).all():
                raise ConfigError(
                    f"policy.box_distribution=tanh_gaussian: actions {space} have no finite bounds "
                    "to be squashed into; use policy.box_distribution=gaussian"
                )
            self._low, self._high = _bound(box.low), _bound(box.high)
            # In 64 bits, where high - low neither overflows nor falls short of the upper bound.
            self._floor = box.low.astype(np.float64)
            self._span = box.high.astype(np.float64) - self._floor if self.squashes else None
            if self._span is not None:
                with np.errstate(divide="ignore"):  # bounds that leave no choice
                    self.log_half_range = float(np.log(self._span / 2).sum())
            if scale and not self.squashes:
                self._scale_to(box)
        self._shape: tuple[int, ...] = space.shape or ()
        self._counts_from = int(space.start) if isinstance(space, Discrete) else None

    def _scale_to(self, box: Box) -> None:
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        # The largest numbers of a type stand for no bound at all.
        bounded = np.maximum(np.abs(low), np.abs(high)) < FLOAT32_MAX
        middle, half = np.zeros(low.shape), np.ones(low.shape)
        middle[bounded] = (low[bounded] + high[bounded]) / 2
        half[bounded] = (high[bounded] - low[bounded]) / 2
        if middle.any() or (half != 1).any():
            self.middle, self.half_range = _bound(middle), _bound(half)

    def is_out_of_reach(self, distance: float) -> bool:
        """Whether samples within ± a distance all miss the bounds of some dimension."""
        if self.family is not DiagonalGaussian:
            return False
        middle, half = (0, 1) if self.half_range is None else (self.middle, self.half_range)
        above = self.space.low - middle > distance * half
        return bool((above | (self.space.high - middle < -distance * half)).any())

    @property
    def squashes(self) -> bool:
        """Whether samples pass through tanh on their way to the environment."""
        return self.family is TanhGaussian

    @property
    def is_continuous(self) -> bool:
        """Whether the distribution is a Gaussian, squashed or not."""
        return self.family in (DiagonalGaussian, TanhGaussian)

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Turn samples of the distribution into actions that the environment takes.

        Args:
            samples: `[N]` whole numbers from 0, `[N, D]` of them, or `[N, D]` unbounded.

        Returns:
            `[N]` or `[N, *shape]` in the environment's own numbering, bounds and type; the samples
            themselves if that is how the environment counts.
        """
        space = self.space
        if self._counts_from is not None:
            shifted: NDArray[Any] = samples + self._counts_from if self._counts_from else samples
            return shifted if shifted.dtype == space.dtype else shifted.astype(space.dtype)
        if samples.shape[1:] != self._shape:
            samples = samples.reshape(len(samples), *self._shape)
        if not self.is_continuous:
            start = space.start if isinstance(space, MultiDiscrete) else 0
            return (samples + start).astype(space.dtype)
        if self._span is not None:
            samples = self._floor + self._span * (np.tanh(samples) + 1) / 2
        elif self.half_range is not None:
            samples = self.middle + self.half_range * samples
        actions: NDArray[Any] = samples
        if self.clips:  # np.clip takes twice as long
            actions = np.maximum(samples, self._low)
            np.minimum(actions, self._high, out=actions)
        return actions if actions.dtype == space.dtype else actions.astype(space.dtype)


def _bound(bounds: NDArray[np.floating[Any]]) -> Any:
    """Return bounds as one number if they are all the same: that is compared faster."""
    return bounds.flat[0] if bounds.size and (bounds == bounds.flat[0]).all() else bounds


def check_action_space(space: gym.Space[Any]) -> None:
    """Raise unless some distribution fits.

    Raises:
        ConfigError: naming the space and those expected.
    """
    is_float_box = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
    if not (isinstance(space, Discrete | MultiDiscrete | MultiBinary) or is_float_box):
        raise ConfigError(
            f"actions {space} are not supported: expected Discrete, MultiDiscrete, MultiBinary or "
            "a Box of floats"
        )


def mask_rows(
    space: gym.Space[Any],
    masks: Any,
    free: NDArray[np.bool_],
    where: str = "the environment",
) -> NDArray[np.bool_]:
    """Return which actions are allowed as the policy's distribution takes it.

    Args:
        space: of one action.
        masks: of N environments, each as the environment gives it. Discrete: `[A]`. MultiDiscrete:
            the masks of all dimensions, side by side or in a tuple. MultiBinary: for each bit 0 (it
            must be 0), 1 (it must be 1) or 2 (either), or the pairs (may be 0, may be 1).
        free: rows in which all is allowed, whatever the mask, `[N]`.
        where: who gave them, for the message of an error.

    Returns:
        bool, `[N, M]`.

    Raises:
        BrokenEnvironmentError: a mask of the wrong size, or one that allows nothing.
    """
    if isinstance(space, Discrete) and all(
        isinstance(mask, np.ndarray) and mask.shape == (space.n,) for mask in masks
    ):
        # All at once, in a third of the time that it takes row by row.
        together = np.array(masks)
        allowed: NDArray[np.bool_] = (together != 0) | free[:, None]
        if allowed.any(1).all() and _are_choices(together[~free], 1):
            return allowed
    if isinstance(space, MultiBinary):
        groups = [2] * math.prod(space.shape)
    elif isinstance(space, MultiDiscrete):
        groups = [int(n) for n in space.nvec.ravel()]
    elif isinstance(space, Discrete):
        groups = [int(space.n)]
    else:
        raise BrokenEnvironmentError(
            f"{where}: an action mask for actions {space}, which have none"
        )
    allowed = np.ones((len(free), sum(groups)), np.bool_)
    for copy in np.flatnonzero(~free):
        row = _side_by_side(masks[copy])
        most = 2 if isinstance(space, MultiBinary) and len(row) == len(groups) else 1
        if len(row) not in (sum(groups), len(groups) * (most == 2)):
            raise BrokenEnvironmentError(
                f"{where}: the action mask of copy {copy} has {len(row)} entries; "
                f"expected {sum(groups)}"
            )
        if not _are_choices(row, most):
            raise BrokenEnvironmentError(
                f"{where}: the action mask of copy {copy} holds other numbers than 1, which is "
                "allowed, and 0, which is not"
            )
        if most == 2:
            row = np.stack((row != 1, row != 0), -1).ravel()
        allowed[copy] = row.astype(np.bool_)
    starts = np.cumsum([0, *groups[:-1]])
    possible = np.logical_or.reduceat(allowed, starts, axis=1)
    if not possible.all():
        raise BrokenEnvironmentError(
            f"{where}: the action mask of copy {np.argmin(possible.all(1))} allows no action"
        )
    return allowed


def _are_choices(mask: NDArray[Any], most: int) -> bool:
    """Whether a mask is of bools, or of whole numbers from 0 to the most that means something."""
    if mask.dtype == np.bool_:
        return True
    return mask.dtype.kind in "iuf" and bool(np.isin(mask, np.arange(most + 1)).all())


def _side_by_side(mask: Any) -> NDArray[Any]:
    if isinstance(mask, tuple | list):
        return np.concatenate([_side_by_side(part) for part in mask])
    return np.ravel(mask)


def describe_space(space: gym.Space[Any]) -> dict[str, Any]:
    """Return a space as plain numbers, strings, lists and dicts, for `described_space`."""
    if isinstance(space, Dict):
        return {"dict": {key: describe_space(part) for key, part in space.spaces.items()}}
    if isinstance(space, Tuple):
        return {"tuple": [describe_space(part) for part in space.spaces]}
    if isinstance(space, Discrete):
        return {"discrete": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, MultiDiscrete):
        return {
            "multi_discrete": space.nvec.tolist(),
            "start": np.broadcast_to(space.start, space.nvec.shape).tolist(),
            "dtype": str(space.dtype),
        }
    if isinstance(space, MultiBinary):
        # To gymnasium, MultiBinary(4) is not equal to MultiBinary([4]).
        return {"multi_binary": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, Box):
        bounds = {
            # Images have one bound for tens of thousands of numbers.
            key: bound.flat[0].item() if (bound == bound.flat[0]).all() else bound.tolist()
            for key, bound in (("low", space.low), ("high", space.high))
            if bound.size
        }
        return {"box": list(space.shape), "dtype": str(space.dtype)} | bounds
    return {"unused": str(space)}


def described_space(description: dict[str, Any]) -> gym.Space[Any]:
    """Return the space that `describe_space` described."""
    if "dict" in description:
        return Dict({key: described_space(part) for key, part in description["dict"].items()})
    if "tuple" in description:
        return Tuple([described_space(part) for part in description["tuple"]])
    if "discrete" in description:
        dtype = np.dtype(description["dtype"]).type
        return Discrete(description["discrete"], start=description["start"], dtype=dtype)
    if "multi_discrete" in description:
        dtype = np.dtype(description["dtype"]).type
        sizes = description["multi_discrete"]
        return MultiDiscrete(sizes, start=description["start"], dtype=dtype)
    if "multi_binary" in description:
        return MultiBinary(description["multi_binary"])
    if "box" in description:
        dtype, shape = np.dtype(description["dtype"]).type, tuple(description["box"])
        low, high = (
            np.broadcast_to(np.array(description.get(key, 0), dtype), shape)
            for key in ("low", "high")
        )
        return Box(low, high, dtype=dtype)
    return gym.spaces.Text(1)

"""Nested spaces: their leaves, their batches, and their description as plain data."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlkl.utils.errors import BrokenEnvironmentError

FLAT = Box | Discrete | MultiDiscrete | MultiBinary  # their elements are one array each
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Leaf:
    """A space without further spaces, and the keys that lead to it."""

    path: tuple[str | int, ...]
    space: gym.Space[Any]

    @property
    def name(self) -> str:
        """The path with slashes."""
        return "/".join(map(str, self.path))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one element."""
        return self.space.shape or ()

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of one element."""
        return np.dtype(self.space.dtype)

    @property
    def label(self) -> str:
        """What follows "observation" in a message; empty for a whole observation."""
        return f" of {self.name!r}" if self.path else ""

    def is_below(self, key: str) -> bool:
        """Return whether the key names this leaf or a space that contains it."""
        return f"{self.name}/".startswith(f"{key}/")

    @cached_property
    def is_array(self) -> bool:
        """Whether its elements are one array each."""
        return isinstance(self.space, FLAT)

    @property
    def is_image(self) -> bool:
        """Whether it is bytes in two or more dimensions."""
        space = self.space
        return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1

    @cached_property
    def one_hot(self) -> tuple[NDArray[Any], ...] | None:
        """Number of categories, lowest value and first column of each number, for one-hot codes."""
        space: Any = self.space
        if not isinstance(space, Discrete | MultiDiscrete):
            return None
        sizes = np.ravel(space.n if isinstance(space, Discrete) else space.nvec)
        return sizes, np.ravel(space.start), np.cumsum(sizes) - sizes

    @property
    def size(self) -> int:
        """The number of vector columns for this leaf."""
        return math.prod(self.shape) if self.one_hot is None else int(self.one_hot[0].sum())

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
        """Check that an observation has the declared shape, and a type that casts to the declared.

        Raises:
            BrokenEnvironmentError: with this leaf, what was returned and what was declared.
        """
        casts = dtype == self.dtype or np.can_cast(dtype, self.dtype, "same_kind")
        if shape != self.shape or not casts:
            raise BrokenEnvironmentError(
                f"{where}: an observation{self.label} has shape {shape} and type {dtype}; "
                f"its space declares {self.shape} and {self.dtype}"
            )

    def select(self, observations: Any) -> Any:
        """Return this leaf's part of nested observations."""
        for key in self.path:
            observations = observations[key]
        return observations


class SameStepVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """N sub-environments of equal spaces with SAME_STEP autoreset; a subclass steps them."""

    def __init__(
        self, num_envs: int, observation_space: gym.Space[Any], action_space: gym.Space[Any]
    ) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)


def autoreset_mode(envs: gym.vector.VectorEnv[Any, Any, Any]) -> Any:
    """Return when a vector environment resets sub-environments whose episode ended."""
    # ALE overwrites the mode in a dict that all classes share; its attribute is right.
    return getattr(envs.unwrapped, "autoreset_mode", envs.metadata.get("autoreset_mode"))


def leaves(space: gym.Space[Any], path: tuple[str | int, ...] = ()) -> Iterator[Leaf]:
    """Yield the leaves of a space in order."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, (*path, key))
    elif isinstance(space, Tuple):
        for number, part in enumerate(space.spaces):
            yield from leaves(part, (*path, number))
    else:
        yield Leaf(path, space)


def nested(space: gym.Space[Any], parts: Iterator[Any]) -> Any:
    """Return parts, one for each leaf in the order of `leaves`, nested like their space."""
    if isinstance(space, Dict):
        return {key: nested(part, parts) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(nested(part, parts) for part in space.spaces)
    return next(parts)


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
        # In gymnasium MultiBinary(4) is not equal to MultiBinary([4]).
        return {"multi_binary": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, Box):
        bounds = {
            # One number for equal bounds: an image has tens of thousands of them.
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
    if "multi_binary" in description:
        return MultiBinary(description["multi_binary"])
    if "dtype" not in description:
        return gym.spaces.Text(1)
    dtype = np.dtype(description["dtype"]).type
    if "box" in description:
        shape = tuple(description["box"])
        low, high = (
            np.broadcast_to(np.array(description.get(key, 0), dtype), shape)
            for key in ("low", "high")
        )
        return Box(low, high, dtype=dtype)
    start = description["start"]
    if "discrete" in description:
        return Discrete(description["discrete"], start=start, dtype=dtype)
    return MultiDiscrete(description["multi_discrete"], start=start, dtype=dtype)

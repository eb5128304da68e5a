"""Register tiny environments whose results are all known in advance."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text
from gymnasium.vector import AutoresetMode, SyncVectorEnv

PLANS = ("3T 4L 6T", "4L 3T 6B", "5B 2L 1T 6L")
"""Lengths and ends of episodes of sub-environments 0, 1 and 2, repeated: `3T` is terminated after 3
steps, `5L` is truncated, `4B` is both."""

ACTIONS = 3


class Moment(NamedTuple):
    """Number of the sub-environment, of the episode, and of the step within the episode."""

    number: int
    episode: int
    t: int

    def image(self) -> np.ndarray:
        """Return an image that encodes it, 3 high, 2 wide, channels last."""
        image = np.zeros((3, 2, 1), np.uint8)
        image[:, 1, 0] = self
        return image

    def mask(self) -> np.ndarray:
        """Return the mask of three actions; one is not allowed."""
        mask = np.ones(ACTIONS, np.int8)
        mask[(self.number + self.episode + self.t) % ACTIONS] = 0
        return mask

    def reward(self, action: int) -> float:
        """Return the reward of the step that led here."""
        return 100.0 * self.number + 10 * self.t + action

    def ending(self) -> tuple[bool, bool]:
        """Return whether the episode is terminated, and whether it is truncated."""
        plan = PLANS[self.number].split()
        part = plan[self.episode % len(plan)]
        ended = self.t == int(part[:-1])
        return ended and part[-1] in "TB", ended and part[-1] in "LB"


class Counter(gym.Env[Any, Any]):
    """Observes its `Moment`. The seed modulo 3 is the number of the sub-environment.

    Args:
        shows: `vector`, `dict` or `image`.
        masks: `none`, `info` or `method`; no action is allowed in a terminal state.
    """

    action_space = Discrete(ACTIONS)

    def __init__(self, shows: str = "vector", masks: str = "none") -> None:
        self.shows, self.masks = shows, masks
        self.number, self.episode, self.t = 0, -1, 0
        vector, image = Box(-np.inf, np.inf, (3,)), Box(0, 255, (3, 2, 1), np.uint8)
        self.observation_space: Any = {
            "vector": vector,
            "image": image,
            "dict": Dict(where=Discrete(3), what=vector, view=image, text=Text(5)),
        }[shows]
        if masks == "method":
            self.action_masks = self.mask

    @property
    def now(self) -> Moment:
        return Moment(self.number, self.episode, self.t)

    def mask(self) -> np.ndarray:
        return self.now.mask() * (not self.now.ending()[0])

    def show(self) -> tuple[Any, dict[str, Any]]:
        vector = np.array(self.now, np.float32)
        parts = {"vector": vector, "image": self.now.image()}
        parts["dict"] = {
            "where": self.number, "what": vector, "view": self.now.image(), "text": "abc",
        }  # fmt: skip
        return parts[self.shows], {"action_mask": self.mask()} if self.masks == "info" else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.number, self.episode = seed % 3, -1
        self.episode, self.t = self.episode + 1, 0
        return self.show()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        observation, info = self.show()
        return observation, self.now.reward(int(action)), *self.now.ending(), info


def native(num_envs: int, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv(
        [partial(Counter, **kwargs)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP
    )


def moments(number: int) -> Iterator[Moment]:
    """Yield the moments of a sub-environment, including those after a reset."""
    episode = 0
    while True:
        moment = Moment(number, episode, 0)
        yield moment
        while not any(moment.ending()):
            moment = moment._replace(t=moment.t + 1)
            yield moment
        episode += 1


def unpicklable() -> Exception:
    class LocalError(Exception):
        pass

    return LocalError("unknown in other processes")


class TwoWordsError(Exception):
    """An exception with two arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Trouble(gym.Env[Any, Any]):
    """Fails in one sub-environment. Episodes have 3 steps.

    Args:
        kind: of failure.
        after: the number of steps before it.
        seed: of the first reset of the sub-environment that fails.
    """

    observation_space = Dict(a=Box(-9, 9, (2,)), d=Discrete(3), m=MultiDiscrete([2, 2]))
    action_space = Discrete(2)

    def __init__(self, kind: str = "none", after: int = 0, seed: int = 1) -> None:
        self.kind, self.after, self.seed = kind, after, seed
        self.steps, self.fails = 0, False

    @property
    def is_due(self) -> bool:
        return self.fails and self.steps > self.after

    def show(self) -> Any:
        shown: dict[str, Any] = {"a": np.zeros(2, np.float32), "d": 1, "m": np.array([0, 1])}
        if self.is_due:
            wrong: dict[str, Any] = {
                "nan": {"a": np.array([0, np.nan], np.float32)},
                "inf": {"a": np.array([0, np.inf], np.float32)},
                "shape": {"a": np.zeros(1, np.float32)},
                "shape of several": {"m": np.array([1])},
                "type": {"a": np.array([1j, 2])},
                "words": {"a": np.array(["x", "y"])},
                "part of a number": {"d": 1.5},
                "number": {"d": 3},
            }
            shown |= wrong.get(self.kind, {})
            if self.kind == "missing":
                del shown["d"]
        return shown

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.fails = seed == self.seed
        if self.is_due and self.kind == "reset":
            raise ValueError("cannot\nreset")
        if self.fails and self.kind == "first reset":
            raise ValueError("cannot\nreset")
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.is_due:
            if self.kind == "step":
                raise RuntimeError("the motor\nburnt out")
            if self.kind == "local exception":
                raise unpicklable()
            if self.kind == "two words":
                raise TwoWordsError("this", "that")
            if self.kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        reward: Any = 1.0
        if self.is_due and self.kind in ("reward", "reward inf"):
            reward = np.nan if self.kind == "reward" else np.inf
        if self.is_due and self.kind == "reward words":
            reward = "much"
        return self.show(), reward, self.steps % 3 == 0, False, {}


class Endless(gym.Env[Any, Any]):
    """Episodes of as many steps as the seed modulo 3, and without end where that is 0."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)
    length, t = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.t = self.length if seed is None else seed % 3, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == self.length, False, {}


for name, entry_point in (("Counter", Counter), ("Trouble", Trouble), ("Endless", Endless)):
    gym.register(f"Small{name}-v0", entry_point=entry_point)
gym.register("SmallNative-v0", entry_point=Counter, vector_entry_point=native)

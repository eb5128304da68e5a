"""What watches a single copy of an environment, in whichever process it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from rlkl.spaces import ACTION_MASK, leaves
from rlkl.validation import BrokenEnvironmentError, one_line


class Guard(gym.Wrapper[Any, Any, Any, Any]):
    """Checks the shape and type of every observation, and puts `action_masks()` into the info.

    Vector environments copy observations into arrays of the declared space, which would broadcast
    or cast some wrong ones in silence. Exceptions of the environment become one of rlkl's own:
    those of a process reach the other end only if they can be pickled and made of one message.

    Args:
        env: one copy; `action_masks` is a method it may have, as in sb3-contrib.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._leaves = [
            leaf
            for leaf in leaves(env.observation_space)
            if isinstance(leaf.space, Box | Discrete | MultiDiscrete | MultiBinary)
        ]
        has_masks = env.has_wrapper_attr("action_masks")
        self._action_masks = env.get_wrapper_attr("action_masks") if has_masks else None

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        with _told():
            observation, info = self.env.reset(**given)
            return self._checked(observation), self._with_mask(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        with _told():
            observation, reward, terminated, truncated, info = self.env.step(action)
            return self._checked(observation), reward, terminated, truncated, self._with_mask(info)

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        if self._action_masks is None:
            return info
        mask = self._action_masks()
        return info | {ACTION_MASK: mask if isinstance(mask, tuple | list) else np.asarray(mask)}

    def _checked(self, observation: Any) -> Any:
        for leaf in self._leaves:
            part = np.asarray(leaf.of(observation))
            leaf.check(part.shape, part.dtype, "the environment")
        return observation


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenEnvironmentError:
        raise
    except Exception as error:
        raise BrokenEnvironmentError(f"{type(error).__name__}: {one_line(error)}") from error

"""What watches a single copy of an environment, in whichever process it runs."""

from typing import Any

import gymnasium as gym
import numpy as np

from rlkl.spaces import ACTION_MASK, FLAT, leaves
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
        declared = [leaf for leaf in leaves(env.observation_space) if isinstance(leaf.space, FLAT)]
        # Each leaf with the types that passed so far: can_cast takes longer than all else here.
        self._leaves = [(leaf, {leaf.dtype}) for leaf in declared]
        # Of an observation that is one array; no array has a shape of None.
        self._shape, self._types = None, set[np.dtype[Any]]()
        if len(declared) == 1 and not declared[0].path:
            self._shape, self._types = declared[0].shape, self._leaves[0][1]
        has_masks = env.has_wrapper_attr("action_masks")
        self._action_masks = env.get_wrapper_attr("action_masks") if has_masks else None

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        try:
            observation, info = self.env.reset(**given)
            self._check(observation)
            return observation, self._with_mask(info)
        except BrokenEnvironmentError:
            raise
        except Exception as error:
            raise _told(error) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            # _check would come to the same, and take twice as long as all else here.
            if (
                type(observation) is not np.ndarray
                or observation.shape != self._shape
                or observation.dtype not in self._types
            ):
                self._check(observation)
            if self._action_masks is not None:
                info = self._with_mask(info)
            return observation, reward, terminated, truncated, info
        except BrokenEnvironmentError:
            raise
        except Exception as error:
            raise _told(error) from error

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        if self._action_masks is None:
            return info
        mask = self._action_masks()
        return info | {ACTION_MASK: mask if isinstance(mask, tuple | list) else np.asarray(mask)}

    def _check(self, observation: Any) -> None:
        for leaf, types in self._leaves:
            part = np.asarray(leaf.of(observation))
            if part.shape != leaf.shape or part.dtype not in types:
                leaf.check(part.shape, part.dtype, "the environment")
                types.add(part.dtype)


def _told(error: Exception) -> BrokenEnvironmentError:
    return BrokenEnvironmentError(f"{type(error).__name__}: {one_line(error)}")

"""Check what a single sub-environment returns, in the process in which it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np

from rlkl.envs.observations import ACTION_MASK
from rlkl.envs.spaces import FLAT, leaves
from rlkl.utils.errors import BrokenEnvironmentError
from rlkl.utils.streams import tell
from rlkl.utils.validation import described

MASK_ALIAS = "action_masks"  # another key of the mask in an info, and sb3-contrib's method
UPGRADE = "wrap it for Gymnasium (the package shimmy does), or upgrade it"


class EnvChecker(gym.Wrapper[Any, Any, Any, Any]):
    """Checks the shape and type of every observation, and puts `action_masks()` into the info.

    Vector environments copy observations into arrays of the declared space, which would silently
    broadcast or cast some wrong ones. Exceptions become `BrokenEnvironmentError`, which can be
    pickled by a worker process. Rewards, terminated and truncated become plain numbers. Set
    `copy_observations` for a caller that keeps observations: many environments change and return
    the same array at each step.
    """

    def __init__(self, env: gym.Env[Any, Any], *, copy_observations: bool = False) -> None:
        super().__init__(env)
        self._copy_observations = copy_observations
        # Each leaf with the types that passed so far: can_cast is slow.
        self._leaves = [
            (leaf, {leaf.dtype}) for leaf in leaves(env.observation_space) if leaf.is_array
        ]
        # Of an observation that is one array; no array has a shape of None.
        self._shape, self._types = None, set[np.dtype[Any]]()
        if isinstance(env.observation_space, FLAT):
            ((leaf, self._types),) = self._leaves
            self._shape = leaf.shape
        self._has_masks = env.has_wrapper_attr(MASK_ALIAS)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        try:
            result: Any = self.env.reset(**kwargs)
            if not (isinstance(result, tuple) and len(result) == 2):
                raise BrokenEnvironmentError(
                    "it returned no pair of an observation and an info; an environment of old Gym "
                    f"returns only the observation: {UPGRADE}"
                )
            observation, info = result
            _check_info(info)
            self._check(observation)
            if self._copy_observations:
                observation = deepcopy(observation)
            return observation, self._with_mask(info)
        except (BrokenEnvironmentError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() too
            raise _as_broken(error) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        try:
            result: Any = self.env.step(action)
            if not (isinstance(result, tuple) and len(result) == 5):
                count = len(result) if isinstance(result, tuple) else 1
                raise BrokenEnvironmentError(
                    f"it returned {count} value{'s' * (count != 1)}; expected 5: observation, "
                    f"reward, terminated, truncated, info; old Gym has 4: {UPGRADE}"
                )
            observation, reward, terminated, truncated, info = result
            # A fast path: _check() would give the same result.
            if (
                type(observation) is not np.ndarray
                or observation.shape != self._shape
                or observation.dtype not in self._types
            ):
                self._check(observation)
            if type(info) is not dict:
                _check_info(info)
            if self._has_masks or MASK_ALIAS in info:
                info = self._with_mask(info)
            if not isinstance(reward, float):
                reward = _number(reward)
            if type(terminated) is not bool:
                terminated = _flag("terminated", terminated)
            if type(truncated) is not bool:
                truncated = _flag("truncated", truncated)
            if self._copy_observations:
                observation = deepcopy(observation)
            return observation, reward, terminated, truncated, info
        except (BrokenEnvironmentError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() too
            raise _as_broken(error) from error

    def close(self) -> None:
        """Close the environment; report an error once."""
        with reported_close(f"env.id={self.spec.id}" if self.spec else str(self.unwrapped)):
            super().close()

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        if self._has_masks:
            mask = self.env.get_wrapper_attr(MASK_ALIAS)
            mask = mask() if callable(mask) else mask
        elif MASK_ALIAS in info:
            mask = info[MASK_ALIAS]
        else:
            return info
        return info | {ACTION_MASK: mask if isinstance(mask, tuple | list) else np.asarray(mask)}

    def _check(self, observation: Any) -> None:
        for leaf, types in self._leaves:
            part = np.asarray(leaf.select(observation))
            if part.shape != leaf.shape or part.dtype not in types:
                leaf.check(part.shape, part.dtype, "the environment")
                types.add(part.dtype)


def _as_broken(error: BaseException) -> BrokenEnvironmentError:
    if isinstance(error, SystemExit):
        return BrokenEnvironmentError(f"it called sys.exit({error.code!r})")
    return BrokenEnvironmentError(described(error))


_reported = set[str]()


@contextmanager
def reported_close(name: str) -> Iterator[None]:
    """Suppress exceptions while environments are closed; report the first of each name."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if name not in _reported:
            _reported.add(name)
            tell(f"{name}: close failed: {described(error)}; the run is not affected")


def _check_info(info: Any) -> None:
    if not isinstance(info, dict):
        raise BrokenEnvironmentError(f"the info is {_shown(info)}; expected a dict")


def _number(reward: Any) -> float:
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        shape = f" of shape {array.shape}" if array.ndim else ""
        raise BrokenEnvironmentError(f"the reward is {_shown(reward)}{shape}; expected a number")
    return float(array.item())


def _flag(name: str, value: Any) -> bool:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biu" or array.item() not in (0, 1):
        raise BrokenEnvironmentError(f"{name} is {_shown(value)}; expected True or False")
    return bool(array.item())


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Gymnasium from printing warnings, and a worker's traceback beside the exception."""
    level = gym.logger.min_level
    gym.logger.min_level = gym.logger.ERROR + 1
    try:
        yield
    finally:
        gym.logger.min_level = level

"""EnvPool's environments in the form of Gymnasium's."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlkl.utils.cpu import usable_cores
from rlkl.utils.validation import ConfigError, nearest


class Pool(gym.vector.VectorEnv[Any, Any, Any]):
    """N environments of EnvPool, which takes seeds when a pool is made: each reset makes one anew.

    Args:
        env_id: as EnvPool names it, `Pong-v5` for one; the prefix `ALE/` is dropped.
        num_envs: N.
        frame_stack: last frames shown together, of Atari games only.
        kwargs: of EnvPool's own configuration; `num_threads` is at most N and the number of cores
            unless it is given.

    Raises:
        ConfigError: EnvPool has no such environment, or cannot stack its observations.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, env_id: str, num_envs: int, frame_stack: int, kwargs: dict[str, Any]
    ) -> None:
        import envpool  # noqa: PLC0415

        name, known = env_id.removeprefix("ALE/"), envpool.list_all_envs()
        if name not in known:
            raise ConfigError(
                f"env.backend=envpool: EnvPool has no {name}{nearest(name, known)}; "
                "use env.backend=auto"
            )
        self.num_envs = num_envs
        self._make = envpool.make
        self._arguments: dict[str, Any] = {
            "task_id": name,
            "env_type": "gymnasium",
            "num_envs": num_envs,
            "num_threads": min(num_envs, usable_cores()),
        }
        if frame_stack > 1:
            self._arguments["stack_num"] = frame_stack
        self._arguments |= kwargs
        self._pool = self._made(0)
        self.single_observation_space = self._pool.observation_space
        self.single_action_space = self._pool.action_space

    def _made(self, seed: Any) -> Any:
        with warnings.catch_warnings():
            # It casts the bounds of some spaces when they are first read.
            warnings.simplefilter("ignore")
            pool = self._make(seed=seed, **self._arguments)
            assert pool.observation_space is not None
            assert pool.action_space is not None
        return pool

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin N episodes, with one seed each."""
        self._pool.close()
        self._pool = self._made(0 if seed is None else seed)
        observations, _ = self._pool.reset()
        return observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        observations, rewards, terminated, truncated, _ = self._pool.step(np.asarray(actions))
        return observations, rewards, terminated.astype(bool), truncated.astype(bool), {}

    def close_extras(self, **kwargs: Any) -> None:
        """Close the pool."""
        self._pool.close()

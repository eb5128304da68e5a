"""Adapt EnvPool to Gymnasium's vector environments."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlkl.utils.cpu import usable_cores
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import nearest


class EnvPoolVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """Steps N environments of EnvPool; each reset makes a new pool, which sets the seeds.

    `kwargs` are EnvPool's own options; `num_threads` is by default the number of cores, at most N.

    Raises:
        ConfigError: EnvPool does not have the environment.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        frame_stack: int,
        kwargs: dict[str, Any],
        info_keys: Sequence[str] = (),
    ) -> None:
        import envpool  # noqa: PLC0415

        name, known = env_id.removeprefix("ALE/"), envpool.list_all_envs()
        if name not in known:
            raise ConfigError(
                f"env.backend=envpool: EnvPool has no {name}{nearest(name, known)}; "
                "use env.backend=auto"
            )
        self.num_envs = num_envs
        self._info_keys = info_keys
        threads = min(num_envs, usable_cores())
        stacks = {"stack_num": frame_stack} if frame_stack > 1 else {}
        options = {"num_envs": num_envs, "num_threads": threads} | stacks | kwargs
        self._make = partial(envpool.make, name, "gymnasium", **options)
        self._pool = self._new_pool(0)
        self.single_observation_space = self._pool.observation_space
        self.single_action_space = self._pool.action_space

    def _new_pool(self, seed: Any) -> Any:
        with warnings.catch_warnings():
            # EnvPool casts the bounds of some spaces when they are first read.
            warnings.simplefilter("ignore")
            pool = self._make(seed=seed)
            assert pool.observation_space is not None
            assert pool.action_space is not None
        return pool

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, with one seed each."""
        self._pool.close()
        self._pool = self._new_pool(0 if seed is None else seed)
        observations, _ = self._pool.reset()
        return observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        observations, rewards, terminated, truncated, infos = self._pool.step(np.asarray(actions))
        shown = {key: infos[key] for key in self._info_keys if key in infos}
        return observations, rewards, terminated.astype(bool), truncated.astype(bool), shown

    def close_extras(self, **kwargs: Any) -> None:
        """Close the pool."""
        self._pool.close()

"""Adapt ALE's vector environment to stable-baselines3, which must be installed."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from rlkl.tools.bench.work import SEED


class AtariVecEnv(VecEnv):
    """The frames that rlkl sees, with rewards clipped to their sign as in `AtariWrapper`."""

    def __init__(self, env_id: str, num_envs: int, **kwargs: Any) -> None:
        self.envs = gym.make_vec(
            env_id,
            num_envs,
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.SAME_STEP,
            **kwargs,
        )
        spaces = self.envs.single_observation_space, self.envs.single_action_space
        super().__init__(num_envs, *spaces)
        self._actions: Any = None

    def reset(self) -> Any:
        """Return the first frames."""
        seeds: Any = np.arange(SEED, SEED + self.num_envs)
        return self.envs.reset(seed=seeds)[0]

    def step_async(self, actions: Any) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step all games; they are never truncated in runs as short as these."""
        frames, rewards, terminated, truncated, _ = self.envs.step(self._actions)
        assert not truncated.any()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return frames, rewards.astype(np.float32), terminated, infos

    def close(self) -> None:
        """Close the games."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return the same attribute for all games."""
        return [getattr(self.envs, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Do nothing: no attribute of a game is needed."""

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Do nothing: no method of a game is needed."""

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return that no game has a wrapper of stable-baselines3."""
        return [False] * self.num_envs

"""A vector environment of tensors with numbers in its infos."""

from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode


class InformedTensors(gym.vector.VectorEnv[Any, Any, Any]):
    """Two sub-environments with episodes of 3 steps; the infos of resets have other numbers."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = observation_space = Box(-1, 1, (1,))
    single_action_space = action_space = Discrete(2)
    num_envs, steps = 2, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return torch.zeros(2, 1), {}

    def step(self, actions: Any) -> Any:
        self.steps = self.steps % 3 + 1
        ended = torch.tensor([self.steps == 3] * 2)
        shown = torch.full((2,), -99.0 if self.steps == 3 else 10.0 * self.steps)
        infos = {
            "speed": shown,
            "final_info": {"speed": torch.full((2,), 30.0), "is_success": torch.ones(2)},
            "final_obs": torch.zeros(2, 1),
        }
        return torch.zeros(2, 1), torch.ones(2), ended, ended & False, infos

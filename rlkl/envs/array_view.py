"""Wrap a vector environment of tensors as one of NumPy arrays, for evaluation."""

from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate
from torch import Tensor

from rlkl.envs.spaces import autoreset_mode
from rlkl.envs.tensor_spaces import actions_like, as_tensor


class ArrayView(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Environments of tensors or arrays with DLPack, with results as NumPy arrays.

    Every step waits for the device, which is that of the actions.
    """

    def __init__(
        self, envs: gym.vector.VectorEnv[Any, Any, Any], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(envs)
        self.device = torch.device(device)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments."""
        observations, _ = self.env.reset(seed=seed, options=options)
        self._actions = actions_like(observations)
        return self._array(observations), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all sub-environments."""
        given = self._actions(torch.as_tensor(actions).to(self.device))
        observations, *results, infos = self.env.step(given)
        rewards, terminated, truncated = (
            self._array(result).reshape(self.num_envs) for result in results
        )
        shown: dict[str, Any] = {}
        if autoreset_mode(self.env) == AutoresetMode.SAME_STEP:
            ended = terminated | truncated
            rows = iterate(self.observation_space, self._array(infos["final_obs"]))
            finals = [row if end else None for row, end in zip(rows, ended, strict=True)]
            shown = {"_final_obs": ended, "final_obs": finals}
        return self._array(observations), rewards, terminated, truncated, shown

    def _array(self, values: Any) -> Any:
        if isinstance(values, dict):
            return {key: self._array(part) for key, part in values.items()}
        if isinstance(values, tuple):
            return tuple(map(self._array, values))
        tensor: Tensor = as_tensor(values, torch.device("cpu"))
        return tensor.numpy().copy()

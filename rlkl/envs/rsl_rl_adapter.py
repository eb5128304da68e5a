"""Environments with rsl_rl's interface: MuJoCo Playground, mjlab, Isaac Lab, ManiSkill."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlkl.envs.spaces import SameStepVectorEnv
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import nearest

FINAL_KEYS = ("final_obs", "final_observation", "terminal_observation")
"""Where extras may have the observations before the reset."""


class RslRlVectorEnv(SameStepVectorEnv):
    """N sub-environments with the interface that rsl_rl takes, as a Gymnasium vector environment.

    The interface has no final observation. Where `extras` has none either, `final_obs` is the
    observation before the step: a time-out is then bootstrapped with V(s_t) instead of V of the
    final observation, as rsl_rl does when it adds γ · V(s_t) to the reward.

    Args:
        env: has `num_envs`, `num_actions`, `device`, `get_observations()` and `step(actions)`,
            which returns observations, rewards, dones and extras with `time_outs`. Observations
            are groups: a dict or TensorDict of tensors `[N, D]`.
        group: the group that the policy and the critic see.
        action_bound: actions are within ± this; infinite for no bounds.

    Raises:
        ConfigError: there is no such group.
    """

    def __init__(self, env: Any, group: str = "policy", action_bound: float = np.inf) -> None:
        self.env, self.group = env, group
        self.device = torch.device(env.device)
        self._seen = self._chosen(env.get_observations())
        box = gym.spaces.Box(-np.inf, np.inf, tuple(self._seen.shape[1:]), np.float32)
        actions = gym.spaces.Box(-action_bound, action_bound, (int(env.num_actions),), np.float32)
        super().__init__(int(env.num_envs), box, actions)

    def _chosen(self, observations: Any) -> Tensor:
        """Return the chosen group; older versions return a pair with extras, or one tensor."""
        if isinstance(observations, tuple):
            observations = observations[0]
        if isinstance(observations, Tensor):
            return observations.float()
        groups = list(observations.keys())
        if self.group not in groups:
            raise ConfigError(
                f"observations have no group {self.group!r}; expected "
                f"{', '.join(map(str, groups))}{nearest(self.group, groups)}"
            )
        chosen: Tensor = observations[self.group]
        return chosen.float()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Reset all sub-environments, with a seed, if the environment has such methods."""
        if seed is not None and callable(getattr(self.env, "seed", None)):
            self.env.seed(seed)
        reset = getattr(self.env, "reset", None)
        shown = reset() if callable(reset) else self.env.get_observations()
        self._seen = self._chosen(shown)
        return self._seen, {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all sub-environments; a time-out is a truncation, and any other end terminates."""
        before = self._seen.clone()  # the environment may change its tensors in place
        observations, rewards, dones, extras = self.env.step(actions.to(self.device))[:4]
        ended = dones.bool().reshape(self.num_envs)
        time_outs = extras.get("time_outs")
        truncated = torch.zeros_like(ended)
        if time_outs is not None:
            truncated = time_outs.bool().reshape(self.num_envs) & ended
        finals = next((extras[key] for key in FINAL_KEYS if extras.get(key) is not None), None)
        final = before if finals is None else self._chosen(finals)
        self._seen = self._chosen(observations)
        return self._seen, rewards, ended & ~truncated, truncated, {"final_obs": final}

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment if it can."""
        getattr(self.env, "close", lambda: None)()

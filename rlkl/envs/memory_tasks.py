"""Small environments that a policy without memory cannot solve."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray


class Recall(gym.Env[NDArray[np.float32], np.int64]):
    """A cue is shown once, and asked for after a delay.

    The observation is (cue, asked): (±1, 0) at first, then (0, 0) for `delay` steps, then (0, 1).
    The action taken there ends the episode, with reward 1 if it is 1 for the cue 1 or 0 for the
    cue -1, else 0. Without memory no policy has an expected return above ½.

    Args:
        delay: steps between the cue and the question.
    """

    def __init__(self, delay: int = 6) -> None:
        self.observation_space = Box(-1, 1, (2,), np.float32)
        self.action_space = Discrete(2)
        self.delay = delay
        self._step = self._cue = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a cue and show it."""
        super().reset(seed=seed)
        self._step, self._cue = 0, int(self.np_random.integers(2))
        return np.array([2 * self._cue - 1, 0], np.float32), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Wait, or answer."""
        answered = self._step == self.delay + 1
        self._step += 1
        asked = self._step == self.delay + 1
        reward = float(answered and action == self._cue)
        return np.array([0, asked], np.float32), reward, answered, False, {}


class HiddenVelocity(gym.ObservationWrapper[NDArray[np.float32], Any, Any]):
    """CartPole that shows the position of the cart and the angle of the pole, and no velocity.

    Args:
        env: CartPole.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        self.observation_space = Box(space.low[::2], space.high[::2], dtype=np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Return position and angle."""
        shown: NDArray[np.float32] = observation[::2]
        return shown


def hidden_velocity_cartpole(**kwargs: Any) -> gym.Env[Any, Any]:
    """Make CartPole without its velocities; arguments are those of CartPole."""
    return HiddenVelocity(CartPoleEnv(**kwargs))


gym.register("rlkl/Recall-v0", "rlkl.envs.memory_tasks:Recall")
gym.register(
    "rlkl/HiddenVelocityCartPole-v1",
    "rlkl.envs.memory_tasks:hidden_velocity_cartpole",
    max_episode_steps=500,
)

"""rlkl's own tasks: two that need a policy with memory, and CartPole with another pole."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rlkl.utils.validation import check_range


class Recall(gym.Env[NDArray[np.float32], np.int64]):
    """Shows a cue once, and asks for it after a delay.

    The observation is (cue, asked): (±1, 0) at first, then (0, 0) for `delay` steps, then (0, 1).
    The next action ends the episode. The reward is 1 for action 1 after cue 1 and for action 0
    after cue -1, else 0. A policy without memory has an expected return of at most ½.
    """

    def __init__(self, delay: int = 6) -> None:
        self.observation_space = Box(-1, 1, (2,), np.float32)
        self.action_space = Discrete(2)
        self.delay = delay
        self._step = self._cue = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw and show a cue."""
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
    """Hides the velocities of CartPole: shows the cart's position and the pole's angle."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        self.observation_space = Box(space.low[::2], space.high[::2], dtype=np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Return position and angle."""
        shown: NDArray[np.float32] = observation[::2]
        return shown

    def get_state(self) -> dict[str, Any]:
        """Return that the wrapper has no state of its own, so that runs can be resumed exactly."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


def hidden_velocity_cartpole(**kwargs: Any) -> gym.Env[Any, Any]:
    """Make CartPole without velocities; the arguments are those of CartPole."""
    return HiddenVelocity(CartPoleEnv(**kwargs))


class PoleCartPole(CartPoleEnv):
    """CartPole with a pole of another length; observations, actions and rewards are the same.

    Args:
        length: half of the pole's length in metres; CartPole's is 0.5.
        **kwargs: of CartPole.
    """

    def __init__(self, length: float = 0.5, **kwargs: Any) -> None:
        check_range("env.kwargs.length", length, above=0)
        super().__init__(**kwargs)
        self.length = length
        self.polemass_length = self.masspole * length


gym.register("rlkl/PoleCartPole-v1", "rlkl.envs.tasks:PoleCartPole", max_episode_steps=500)
gym.register("rlkl/Recall-v0", "rlkl.envs.tasks:Recall")
gym.register(
    "rlkl/HiddenVelocityCartPole-v1",
    "rlkl.envs.tasks:hidden_velocity_cartpole",
    max_episode_steps=500,
)

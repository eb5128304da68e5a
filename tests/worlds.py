"""Environments for tests: a random one, and one with a known right action."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from rlkl.envs.observations import ACTION_MASK
from rlkl.envs.vector_env import VectorEnvironment

MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)


class Wander(gym.Env[NDArray[np.float32], Any]):
    """Observes four random numbers at each step.

    Args:
        number: of this sub-environment.
        plan: lengths and ends of episodes, repeated: `3T 5L 4B` is terminated after 3 steps,
            truncated after 5, both after 4.
        space: of actions.
        masked: whether one or two of the actions are masked at each step.
    """

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)

    def __init__(self, number: int, plan: str, space: gym.Space[Any], masked: bool = False) -> None:
        self.number = number
        self.plan = plan.split()
        self.action_space = space
        self.masked = masked
        self.episode = -1

    def _look(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        rng = np.random.default_rng((self.number, self.episode, self.t))
        self.observation = rng.standard_normal(4).astype(np.float32)
        if not self.masked:
            return self.observation, {}
        mask = np.ones(int(self.action_space.n), np.int8)  # type: ignore[attr-defined]
        mask[rng.integers(len(mask), size=2)] = 0
        return self.observation, {ACTION_MASK: mask}

    def reset(self, **_: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self.episode, self.t = self.episode + 1, 0
        return self._look()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = float(np.sum(action) * np.sign(self.observation[0]))
        self.t += 1
        part = self.plan[self.episode % len(self.plan)]
        ended = self.t == int(part[:-1])
        observation, info = self._look()
        return observation, reward, ended and part[-1] in "TB", ended and part[-1] in "LB", info


PLANS = ("3T 4L 6T", "4L 3T 6B", "5B 2L 6T")
ROWS = {AutoresetMode.SAME_STEP: (10, 8), AutoresetMode.NEXT_STEP: (12, 10)}
"""Rows of two rollouts of PLANS that contain the same transitions in both modes."""


def wander(
    space: gym.Space[Any],
    mode: AutoresetMode = AutoresetMode.SAME_STEP,
    *,
    masked: bool = False,
    plans: tuple[str, ...] = PLANS,
) -> VectorEnvironment:
    """Make one sub-environment for each plan."""
    makers = [partial(Wander, number, plan, space, masked) for number, plan in enumerate(plans)]
    return VectorEnvironment(SyncVectorEnv(makers, autoreset_mode=mode))


ACTIONS: dict[str, gym.Space[Any]] = {
    "discrete": Discrete(3, start=3),
    "masked": Discrete(4),
    "multi_discrete": MultiDiscrete([2, 3]),
    "multi_binary": MultiBinary(3),
    "box": Box(-1, 1, (1,), np.float32),
    "box_of_state": Box(-1, 1, (1,), np.float32),
    "box_tanh": Box(-1, 1, (1,), np.float32),
    "box_beta": Box(-1, 1, (1,), np.float32),
}
ACTION_SETTINGS: dict[str, dict[str, Any]] = {
    "box_of_state": {"state_dependent_std": True},
    "box_tanh": {"box_distribution": "tanh_gaussian"},
    "box_beta": {"box_distribution": "beta"},
}
OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "vector": Box(-1, 1, (2,), np.float32),
    "matrix": Box(-1, 1, (2, 2), np.float32),
    "discrete": Discrete(3, start=-1),
    "multi_discrete": MultiDiscrete([3, 2]),
    "nested": Dict({"noise": Box(-1, 1, (1,)), "pair": Tuple([Discrete(3), MultiBinary(2)])}),
    "image": Box(0, 255, (3, 3), np.uint8),
}


class Cue(gym.vector.VectorEnv[Any, Any, Any]):
    """The first observation shows one of two cues, each half the time; each has a right action.

    Args:
        num_envs: N, even.
        observation: how the cue is shown, one of OBSERVATIONS.
        action: one of ACTIONS. The reward of an episode's last step is 1 for the right action, the
            share of right dimensions for several, and 1 minus the distance for a Box.
        recall: whether the action is due one step later, when the cue is hidden.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, observation: str, action: str, recall: bool = False) -> None:
        self.num_envs = num_envs
        self.kind, self.action = observation, action
        self.length = 2 if recall else 1
        self.single_observation_space = OBSERVATIONS[observation]
        self.single_action_space = ACTIONS[action]

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.rng = np.random.default_rng(seed)
        self.cues = np.arange(self.num_envs) % 2
        self.t = 0
        return self._look()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        none = np.zeros(self.num_envs, np.bool_)
        if self.t == self.length:  # all reset at once
            self.cues, self.t = self.rng.permutation(self.cues), 0
            return *self._step(np.zeros(self.num_envs), none), self._look()[1]
        self.t += 1
        ended = ~none if self.t == self.length else none
        rewards = self._rewards(np.asarray(actions)) * ended
        return *self._step(rewards, ended), self._look()[1]

    def _step(self, rewards: Any, ended: Any) -> tuple[Any, Any, Any, Any]:
        return self._look()[0], rewards, ended, np.zeros_like(ended)

    def _rewards(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        right = self.cues.astype(np.bool_)
        if self.action in ("discrete", "masked"):
            first, second = (3, 5) if self.action == "discrete" else (0, 3)
            return (actions == np.where(right, second, first)).astype(np.float64)
        if self.action.startswith("box"):
            return 1 - np.abs(actions[:, 0] - np.where(right, 0.8, -0.8))
        first, second = (
            ([0, 2], [1, 0]) if self.action == "multi_discrete" else ([0, 1, 0], [1, 0, 1])
        )
        return (actions == np.where(right[:, None], second, first)).mean(1)

    def _look(self) -> tuple[Any, dict[str, Any]]:
        n = self.num_envs
        shown = np.where(self.t == 0, self.cues, 2)  # 2 is no cue
        sign = np.array([-1, 1, 0], np.float32)[shown]
        noise = self.rng.uniform(-1, 1, (n, 2, 2)).astype(np.float32)
        noise[:, 0, 0] = sign
        observation: Any = {
            "vector": lambda: noise[:, 0],
            "matrix": lambda: noise,
            "discrete": lambda: shown - 1,
            "multi_discrete": lambda: np.stack((shown, noise[:, 1, 1] > 0), -1).astype(np.int64),
            "nested": lambda: {
                "noise": noise[:, 1, :1],
                "pair": (shown, np.stack((shown == 1, noise[:, 0, 1] > 0), -1).astype(np.int8)),
            },
            "image": lambda: np.where(
                np.arange(9).reshape(3, 3) % 2 == shown[:, None, None], 255, 0
            ).astype(np.uint8),
        }[self.kind]()
        if self.action != "masked":
            return observation, {}
        masks = np.ones((n, 4), np.int8)
        masks[np.arange(n), self.rng.integers(1, 3, n)] = 0  # never a right action
        return observation, {ACTION_MASK: masks}


def cue(num_envs: int, observation: str, action: str, recall: bool = False) -> VectorEnvironment:
    """Make N environments of `Cue`."""
    envs = Cue(num_envs, observation, action, recall)
    return VectorEnvironment(envs, seeding=lambda seeds: seeds[0])

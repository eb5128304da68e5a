"""Small environments and fixed demonstrations for the tests of cloning."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import rlkl
from rlkl.envs.observations import ACTION_MASK, VECTOR
from rlkl.tools.cloning.demonstrations import Demonstrations
from rlkl.training.learner import Learner

SPACES: dict[str, gym.Space[Any]] = {
    "Discrete": Discrete(3),
    "Shifted": Discrete(3, start=-1),
    "MultiDiscrete": MultiDiscrete([3, 2]),
    "MultiBinary": MultiBinary(2),
    "Box": Box(np.array([-2, 0], np.float32), np.array([2, 1], np.float32)),
}


class States(gym.Env[Any, Any]):
    """Shows state 0 and 1 in turns, for four steps; a reward of 1 at each.

    Args:
        space: of actions, a key of `SPACES`.
        masked: whether the last of three actions is forbidden in state 1.
    """

    observation_space = Discrete(2)

    def __init__(self, space: str = "Discrete", masked: bool = False) -> None:
        self.action_space, self.masked = SPACES[space], masked
        self.t = 0

    def _look(self) -> tuple[int, dict[str, Any]]:
        state = self.t % 2
        mask = np.array([1, 1, 1 - state], np.int8)
        return state, {ACTION_MASK: mask} if self.masked else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._look()

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.t += 1
        state, info = self._look()
        return state, 1.0, self.t == 4, False, info


for name in SPACES:
    gym.register(f"States{name}-v0", partial(States, name))
gym.register("StatesMasked-v0", partial(States, masked=True))


def config_for(env: str = "StatesDiscrete-v0", **settings: Any) -> rlkl.TrainConfig:
    """Return the config of a small run."""
    known: dict[str, Any] = {
        "env": rlkl.EnvConfig(env, num_envs=2, backend="sync"),
        "policy": rlkl.PolicyConfig(actor_hidden_sizes=[8], critic_hidden_sizes=[8]),
        "algo": rlkl.PPOClipConfig(num_minibatches=2),
        "logger": rlkl.LoggerConfig(tensorboard=False, progress="none"),
        "total_env_steps": 64,
        "rollout_steps": 16,
        "eval_episodes": 0,
    }
    return rlkl.TrainConfig(**(known | settings))


def learner_for(env: str = "StatesDiscrete-v0", **settings: Any) -> Learner:
    """Return the learner of a small run; close it."""
    return Learner(config_for(env, **settings))


def demonstrations(
    states: Sequence[int],
    actions: Sequence[Any],
    lengths: Sequence[int] | None = None,
    terminated: bool = True,
    mask: Sequence[Sequence[bool]] | None = None,
) -> Demonstrations:
    """Return episodes of `States`, by default of one transition, with a reward of 1 at each."""
    lengths = [1] * len(states) if lengths is None else lengths
    observations = {VECTOR: np.eye(2, dtype=np.float32)[list(states)]}
    if mask is not None:
        observations[ACTION_MASK] = np.array(mask, np.bool_)
    return Demonstrations(
        observations,
        {VECTOR: np.eye(2, dtype=np.float32)[[0] * len(lengths)]},
        np.array(actions),
        np.ones(len(states)),
        np.array(lengths),
        np.full(len(lengths), terminated),
        np.zeros((len(states), 0), np.float32),
    )

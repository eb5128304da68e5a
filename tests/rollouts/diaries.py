"""Environments that record their actions, and collectors on them."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from learning_loop import small_policy
from torch import Generator

from rlkl.engines.make import make_engine
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.make import make_batch
from rlkl.rollouts.rollout import Rollout

MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)
BOTH_MODES = pytest.mark.parametrize("mode", MODES, ids=["same_step", "next_step"])


class Diary(gym.Env[np.ndarray, Any]):
    """Observes (number, episode, step) / 8 and records its actions.

    Args:
        number: of this sub-environment.
        plan: lengths and ends of episodes, repeated: `3T 5L 4B` is terminated after 3 steps,
            truncated after 5, both after 4.
        action_space: of the environment.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, number: int, plan: str, action_space: gym.Space[Any]) -> None:
        self.number = number
        self.plan = plan.split()
        self.action_space = action_space
        self.episode = -1
        self.received: list[Any] = []

    def observe(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.t], np.float32) / 8

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.received.append(np.array(action))
        self.t += 1
        terminated, truncated = self.ending(self.episode, self.t)
        return self.observe(), reward_of(self.number, self.t, action), terminated, truncated, {}

    def ending(self, episode: int, t: int) -> tuple[bool, bool]:
        part = self.plan[episode % len(self.plan)]
        ended = t == int(part[:-1])
        return ended and part[-1] in "TB", ended and part[-1] in "LB"


def reward_of(number: int, t: int, action: Any) -> float:
    return 10.0 * number + t + float(np.sum(action))


PLANS = ("3T 4L 6T", "4L 3T 6B", "5B 2L 6T")
# Rows of two rollouts that contain the same transitions in both modes.
ROWS = {AutoresetMode.SAME_STEP: (10, 8), AutoresetMode.NEXT_STEP: (12, 10)}


def collector_of(
    mode: AutoresetMode,
    plans: tuple[str, ...] = PLANS,
    *,
    space: gym.Space[Any] | None = None,
    normalizer: ObservationNormalizer | None = None,
    vector: type[SyncVectorEnv] = SyncVectorEnv,
    **policy_settings: Any,
) -> tuple[Collector, list[Diary]]:
    space = Discrete(2) if space is None else space
    diaries = [Diary(number, plan, space) for number, plan in enumerate(plans)]
    envs = vector([partial(lambda diary: diary, d) for d in diaries], autoreset_mode=mode)
    generator, seeds = Generator().manual_seed(0), [0] * len(plans)
    policy = small_policy(3, space, **policy_settings)
    collector = Collector(
        VectorEnvironment(envs), make_engine(policy), 10, generator, seeds, normalizer
    )
    return collector, diaries


def two_rollouts(collector: Collector, rows: tuple[int, int]) -> list[tuple[Rollout, Batch]]:
    found = []
    for collector.rollout_steps in rows:
        rollout = collector.collect()
        found.append((rollout, make_batch(rollout, make_engine(collector.policy), 0.9, 0.8)))
    return found


class NoisyResets(SyncVectorEnv):
    """Returns rewards at autoreset steps, where they mean nothing."""

    def step(self, actions: Any) -> Any:
        resetting = self._autoreset_envs.copy()
        observations, rewards, *rest = super().step(actions)
        return observations, np.where(resetting, 1e3, rewards), *rest

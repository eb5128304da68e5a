"""Small environments that each test one part of learning."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from learning_loop import Loop, as_inputs, config_of
from torch import Tensor

from rlkl.algos.critic import CriticConfig
from rlkl.envs.make import EnvConfig

LEARNERS = pytest.mark.parametrize("name", ["ppo_clip", "trpo"])


class Probe(gym.Env[np.ndarray, Any]):
    """Episodes of one step with reward 1; subclasses change one thing each."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space: Discrete | Box = Discrete(1)

    def observe(self, value: float) -> np.ndarray:
        self.observation = value
        return np.array([value], np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        return self.observe(self.first()), {}

    def first(self) -> float:
        return 0.0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observe(self.observation), self.reward(action), True, False, {}

    def reward(self, action: Any) -> float:
        return 1.0


class Constant(Probe):
    """Reward 1."""


class Sign(Probe):
    """Observation ±1 at random, which is also the reward."""

    def first(self) -> float:
        return float(self.np_random.choice([-1, 1]))

    def reward(self, action: Any) -> float:
        return self.observation


class Delay(Probe):
    """Observation 0, then 1; reward 1 at the end."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        at_end = self.observation == 1
        return self.observe(1.0), float(at_end), at_end, False, {}


class Choice(Probe):
    """Reward 1 for action 1, -1 for action 0."""

    action_space = Discrete(2)

    def reward(self, action: Any) -> float:
        return 1.0 if action == 1 else -1.0


class Match(Sign):
    """Reward 1 if action 1 is taken at observation 1 and action 0 at -1, else -1."""

    action_space = Discrete(2)

    def reward(self, action: Any) -> float:
        return 1.0 if (action == 1) == (self.observation == 1) else -1.0


class Endless(Probe):
    """Reward 1 at every step; only the time limit ends the episode."""

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observe(0.0), 1.0, False, False, {}


class Target(Probe):
    """Reward -(a - 0.3)²."""

    action_space = Box(-1, 1, (1,), np.float32)

    def reward(self, action: Any) -> float:
        return -float((action[0] - 0.3) ** 2)


for probe in (Constant, Sign, Delay, Choice, Match, Target):
    gym.register(f"probe/{probe.__name__}-v0", probe)
gym.register("probe/Endless-v0", Endless, max_episode_steps=7)


def trained(name: str, probe: str, iterations: int) -> Loop:
    algo = config_of(name, learning_rate=1e-2, num_epochs=4, max_kl=0.05)
    critic = CriticConfig(learning_rate=1e-2)
    env = EnvConfig(f"probe/{probe}-v0", num_envs=8)
    loop = Loop(algo, env, rollout_steps=16, gamma=0.9, critic=critic)
    loop.iterate(iterations)
    return loop


@torch.no_grad()
def values_at(loop: Loop, *observations: float) -> list[float]:
    return loop.policy.values(as_inputs(Tensor(observations).unsqueeze(-1))).tolist()


@torch.no_grad()
def probability(loop: Loop, action: int, observation: float) -> float:
    logits = loop.policy.actor(as_inputs(Tensor([[observation]])))
    return logits.softmax(-1)[0, action].item()


def test_constant_reward_teaches_value() -> None:
    assert values_at(trained("ppo_clip", "Constant", 5), 0) == pytest.approx([1], abs=0.05)


def test_reward_equal_to_observation_teaches_state_values() -> None:
    assert values_at(trained("ppo_clip", "Sign", 8), -1, 1) == pytest.approx([-1, 1], abs=0.05)


def test_delayed_reward_teaches_discounting() -> None:
    assert values_at(trained("ppo_clip", "Delay", 12), 0, 1) == pytest.approx([0.9, 1], abs=0.03)


@LEARNERS
def test_reward_for_one_action_teaches_policy(name: str) -> None:
    loop = trained(name, "Choice", 10)
    assert probability(loop, action=1, observation=0) > 0.97
    assert values_at(loop, 0) == pytest.approx([1], abs=0.1)


@LEARNERS
def test_reward_for_matching_action_teaches_state_dependence(name: str) -> None:
    loop = trained(name, "Match", 12)
    assert probability(loop, action=0, observation=-1) > 0.97
    assert probability(loop, action=1, observation=1) > 0.97
    assert values_at(loop, -1, 1) == pytest.approx([1, 1], abs=0.1)


def test_time_limit_does_not_lower_values() -> None:
    assert values_at(trained("ppo_clip", "Endless", 20), 0) == pytest.approx([10], abs=0.1)


@LEARNERS
def test_reward_for_continuous_action_teaches_mean(name: str) -> None:
    loop = trained(name, "Target", 15)
    with torch.no_grad():
        mean, _ = loop.policy.actor(as_inputs(Tensor([[0.0]]))).chunk(2, -1)
    assert mean.item() == pytest.approx(0.3, abs=0.03)

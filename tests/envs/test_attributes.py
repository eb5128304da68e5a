"""Attributes of sub-environments: read, set and called with every backend that can."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlkl.envs.make import EnvConfig, make_training_env, make_vector_env
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError


class Slope(gym.Env[Any, Any]):
    """The reward is its steepness; resets itself to nothing."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.steepness = 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), self.steepness, False, False, {}

    def times(self, factor: float, *, plus: float = 0.0) -> float:
        return self.steepness * factor + plus

    def fail(self) -> None:
        raise ValueError("no way")


def make_envs(backend: str) -> Any:
    envs = make_vector_env(EnvConfig(Slope, 3, backend, wrappers=["RecordEpisodeStatistics"]))
    envs.reset([0, 1, 2])
    return envs


@pytest.mark.parametrize("backend", ["sync", "shared", "async"])
def test_attributes_reach_every_sub_environment(backend: str) -> None:
    envs, actions = make_envs(backend), np.zeros(3, np.int64)
    assert envs.get_attr("steepness") == [1, 1, 1]
    envs.set_attr("steepness", 4.0)
    assert envs.step(actions).rewards.tolist() == [4, 4, 4]
    envs.set_attr("steepness", (3.0, 3.0, 3.0))
    assert envs.step(actions).rewards.tolist() == [3, 3, 3]
    envs.set_attr("steepness", [1.0, 2.0, 3.0])
    assert envs.step(actions).rewards.tolist() == [1, 2, 3]
    assert envs.get_attr("steepness") == [1, 2, 3]
    assert envs.call("times", 10, plus=0.5) == [10.5, 20.5, 30.5]
    assert envs.attributes == {"steepness": [1, 2, 3]}
    for use in (envs.get_attr, envs.call, lambda name: envs.set_attr(name, 1)):
        with pytest.raises(ConfigError, match="sub-environments have no attribute 'steepnes'"):
            use("steepnes")
    assert envs.step(actions).rewards.tolist() == [1, 2, 3]
    with pytest.raises(BrokenEnvironmentError, match=r"call failed: .*no way"):
        envs.call("fail")


def test_impossible_values_are_refused() -> None:
    envs = make_envs("sync")
    with pytest.raises(ConfigError, match="got 2 values for 3 sub-environments"):
        envs.set_attr("steepness", [1, 2])
    with pytest.raises(ConfigError, match=r"got an object of builtins\.object at \[0\]"):
        envs.set_attr("steepness", object())
    assert envs.get_attr("steepness") == [1, 1, 1]
    envs.close()


def test_several_ranks_take_one_value_only() -> None:
    envs = make_envs("sync")
    envs.ranks = 2
    with pytest.raises(ConfigError, match="among 2 ranks; expected one value for all"):
        envs.set_attr("steepness", [1, 2, 3])
    assert envs.get_attr("steepness") == [1, 1, 1]
    envs.set_attr("steepness", 4.0)
    assert envs.attributes == {"steepness": 4.0}
    envs.restore_attributes({"steepness": [5.0, 5.0]})  # of an older checkpoint, of other ranks
    assert envs.get_attr("steepness") == [5, 5, 5]
    with pytest.raises(ConfigError, match="expected one value for all"):
        envs.restore_attributes({"steepness": [5.0, 6.0]})
    envs.close()


@pytest.mark.parametrize("backend", ["native", "tensor"])
def test_backends_without_sub_environments_refuse_attributes(backend: str) -> None:
    envs = make_training_env(EnvConfig("CartPole-v1", 2, backend))
    calls: list[Any] = [envs.get_attr, envs.call, lambda name: envs.set_attr(name, 1)]
    for use in calls:
        with pytest.raises(ConfigError, match=f"env.backend={backend} has no single sub-env"):
            use("gravity")
    envs.close()

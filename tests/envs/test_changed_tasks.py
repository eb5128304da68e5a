"""Known environments with changed physics."""

import gymnasium as gym
import numpy as np
import pytest

import rlkl.tasks  # noqa: F401
from rlkl.utils.errors import ConfigError


def after(env_id: str, **kwargs: float) -> np.ndarray:
    with gym.make(env_id, **kwargs) as env:
        env.reset(seed=3)
        for _ in range(5):
            observation = env.step(1)[0]
    return np.asarray(observation)


def test_default_pole_is_that_of_cartpole() -> None:
    np.testing.assert_array_equal(after("rlkl/PoleCartPole-v1"), after("CartPole-v1"))


def test_longer_pole_falls_more_slowly() -> None:
    speeds = [abs(after("rlkl/PoleCartPole-v1", length=length)[3]) for length in (0.5, 2, 10)]
    assert speeds[0] > 3 * speeds[1] > 9 * speeds[2]


def test_length_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"env.kwargs.length=0: expected a number above 0"):
        gym.make("rlkl/PoleCartPole-v1", length=0)

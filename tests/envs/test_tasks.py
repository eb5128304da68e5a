"""The tasks that need a memory, and CartPole with another pole."""

import gymnasium as gym
import numpy as np
import pytest

import rlkl.tasks  # noqa: F401 (registers the environments)
from rlkl.envs.tasks import Recall
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize("action", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_recall_rewards_the_action_of_the_cue(seed: int, action: int) -> None:
    env = Recall(delay=2)
    first, _ = env.reset(seed=seed)
    shown = [first.tolist()]
    for _ in range(3):
        observation, reward, terminated, truncated, _ = env.step(np.int64(action))
        shown.append(observation.tolist())
        assert (reward, terminated, truncated) == (0.0, False, False)
    assert shown[0] in ([1, 0], [-1, 0])
    assert shown[1:] == [[0, 0], [0, 0], [0, 1]]
    *_, reward, terminated, truncated, _ = env.step(np.int64(action))
    assert (reward, terminated, truncated) == (shown[0] == [2 * action - 1, 0], True, False)


def test_recall_shows_both_cues() -> None:
    env = Recall()
    assert {env.reset(seed=seed)[0][0] for seed in range(8)} == {-1.0, 1.0}


def test_hidden_velocity_shows_position_and_angle() -> None:
    hidden = gym.make("rlkl/HiddenVelocityCartPole-v1", sutton_barto_reward=True)
    whole = gym.make("CartPole-v1", sutton_barto_reward=True)
    seen, expected = hidden.reset(seed=3)[0], whole.reset(seed=3)[0]
    for _ in range(5):
        assert seen.tolist() == [expected[0], expected[2]]
        assert hidden.observation_space.contains(seen)
        (seen, reward, *_), (expected, other, *_) = hidden.step(1), whole.step(1)
        assert reward == other == 0.0


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

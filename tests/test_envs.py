"""Environments behind one door: found, refused with words, stepped alike."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlkl.envs import EnvConfig, VectorEnvironment, admit, make_vector_env
from rlkl.validation import ConfigError


class Fixed(gym.Env):
    """An environment of given spaces that ends never."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def wrapped(observation_space: gym.Space, action_space: gym.Space) -> VectorEnvironment:
    return VectorEnvironment(SyncVectorEnv([lambda: Fixed(observation_space, action_space)]))


FLAT = gym.spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EnvConfig("CartPol-v1"), "did you mean CartPole-v1"),
        (EnvConfig("CartPole-v77"), "no such environment"),
        (EnvConfig("zzzzzzzzz"), "pprint_registry"),
        (EnvConfig("no_such_package:X-v0"), "'no_such_package' cannot be imported"),
        (EnvConfig("Pendulum-v1", backend="native"), "env.backend=sync"),
        (EnvConfig("Pendulum-v1", kwargs={"wind": 1}), "unexpected keyword argument 'wind'"),
        (EnvConfig("FrozenLake-v1"), "FlattenObservation"),
    ],
)
def test_what_cannot_be_made_is_refused_with_words(config: EnvConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_vector_env(config)


@pytest.mark.parametrize(
    "space",
    [gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(2), gym.spaces.Box(0, 3, (2,), int)],
)
def test_an_unsupported_action_space_is_refused(space: gym.Space) -> None:
    with pytest.raises(ConfigError, match="expected Discrete or a Box of floats"):
        wrapped(FLAT, space)


def test_disabled_autoreset_is_refused() -> None:
    envs = SyncVectorEnv(
        [lambda: Fixed(FLAT, gym.spaces.Discrete(2))], autoreset_mode=AutoresetMode.DISABLED
    )
    with pytest.raises(ConfigError, match="expected NEXT_STEP or SAME_STEP"):
        VectorEnvironment(envs)


def test_auto_takes_the_native_form_where_there_is_one() -> None:
    for env_id, backend in (("CartPole-v1", "native"), ("Pendulum-v1", "sync")):
        envs = make_vector_env(EnvConfig(env_id, 2))
        assert envs.backend == backend
        envs.close()


def test_constructor_arguments_reach_the_environment() -> None:
    envs = make_vector_env(EnvConfig("Pendulum-v1", 1, "sync", {"g": 0.0}))
    envs._envs.call("reset")  # type: ignore[attr-defined]
    assert envs._envs.get_attr("g") == (0.0,)  # type: ignore[attr-defined]
    envs.close()


@pytest.mark.parametrize("backend", ["native", "sync", "async"])
def test_the_same_seeds_give_the_same_episodes(backend: str) -> None:
    def trajectory(seeds: list[int]) -> np.ndarray:
        envs = make_vector_env(EnvConfig("CartPole-v1", 2, backend))
        rows = [envs.reset(seeds)]
        rows += [envs.step(np.array([t % 2, 0])).observations for t in range(30)]
        envs.close()
        return np.stack(rows)

    np.testing.assert_array_equal(trajectory([3, 5]), trajectory([3, 5]))
    assert not np.array_equal(trajectory([3, 5]), trajectory([4, 5]))


def test_sync_and_async_give_the_same_episodes() -> None:
    def trajectory(backend: str) -> np.ndarray:
        envs = make_vector_env(EnvConfig("Pendulum-v1", 2, backend))
        rows = [envs.reset([3, 5])]
        rows += [envs.step(np.full((2, 1), 9.0)).observations for _ in range(210)]
        envs.close()
        return np.stack(rows)

    np.testing.assert_array_equal(trajectory("sync"), trajectory("async"))


def test_actions_are_shaped_shifted_and_clipped() -> None:
    box = gym.spaces.Box(np.float32([[-1, -2], [0, 0]]), np.float32([[1, 2], [1, 1]]))
    given = np.array([[5.0, -5.0, 0.25, -1.0]])
    np.testing.assert_array_equal(admit(box, given), [[[1, -2], [0.25, 0]]])
    np.testing.assert_array_equal(
        admit(gym.spaces.Discrete(3, start=-1), np.array([0, 2])), [-1, 1]
    )
    unbounded = gym.spaces.Box(-np.inf, np.inf, (1,))
    np.testing.assert_array_equal(admit(unbounded, np.array([[1e6]])), [[1e6]])

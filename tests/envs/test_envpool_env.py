"""EnvPool behaves like the other backends."""

import importlib.util

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.observations import VECTOR
from rlkl.utils.errors import ConfigError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason="needs the extra envpool"
)


def trajectory(seeds: list[int], steps: int = 25) -> np.ndarray:
    envs = make_vector_env(EnvConfig("CartPole-v1", 3, "envpool"))
    rows = [envs.reset(seeds)[VECTOR]]
    rows += [envs.step(np.array([t % 2, 0, 1])).observations[VECTOR].copy() for t in range(steps)]
    envs.close()
    return np.stack(rows)


def test_seeds_determine_episodes() -> None:
    first, again, other = (trajectory(seeds) for seeds in ([3, 4, 5], [3, 4, 5], [3, 9, 5]))
    np.testing.assert_array_equal(first, again)
    same = [np.array_equal(first[:, i], other[:, i]) for i in range(3)]
    assert same == [True, False, True]
    assert not np.array_equal(first[0, 0], first[0, 1])


def test_second_reset_uses_its_seeds() -> None:
    envs = make_vector_env(EnvConfig("CartPole-v1", 3, "envpool"))
    first = envs.reset([3, 4, 5])[VECTOR].copy()
    for _ in range(15):
        step = envs.step(np.ones(3, np.int64))
    other = envs.reset([6, 7, 8])[VECTOR].copy()
    assert not np.array_equal(first, other)
    # No autoreset is pending.
    step = envs.step(np.ones(3, np.int64))
    assert step.is_transition.all()
    assert not step.begins.any()
    np.testing.assert_array_equal(envs.reset([3, 4, 5])[VECTOR], first)
    envs.close()


def test_fall_terminates_and_autoreset_follows() -> None:
    envs = make_vector_env(EnvConfig("CartPole-v1", 2, "envpool"))
    envs.reset([0, 1])
    ends = np.zeros(2, np.bool_)
    falls = 0
    for _ in range(60):
        before = ends
        step = envs.step(np.array([1, 0]))
        ends = step.terminated | step.truncated
        assert not step.truncated.any()
        assert step.final_envs.tolist() == []
        for i in range(2):
            x, speed, angle, spin = step.observations[VECTOR][i]
            assert step.is_transition[i] == (not before[i])
            assert step.begins[i] == before[i]
            if before[i]:
                assert max(map(abs, (x, speed, angle, spin))) <= 0.05
                assert step.rewards[i] == 0
            else:
                assert ends[i] == (abs(angle) > 12 * np.pi / 180)
                assert step.rewards[i] == 1
            falls += ends[i]
    assert falls > 7
    envs.close()


def test_time_limit_truncates() -> None:
    envs = make_vector_env(EnvConfig("Pendulum-v1", 2, "envpool"))
    envs.reset([0, 1])
    steps = [envs.step(np.zeros((2, 1), np.float32)) for _ in range(203)]
    assert [t for t, step in enumerate(steps, 1) if step.truncated.any()] == [200]
    assert steps[199].truncated.all()
    assert not any(step.terminated.any() for step in steps)
    assert [t for t, step in enumerate(steps, 1) if not step.is_transition.all()] == [201]
    assert [t for t, step in enumerate(steps, 1) if step.begins.any()] == [201]
    assert steps[200].begins.all()
    envs.close()


def test_arguments_reach_envpool() -> None:
    envs = make_vector_env(
        EnvConfig("Pendulum-v1", 2, "envpool", kwargs={"max_episode_steps": 7, "num_threads": 1})
    )
    envs.reset([0, 1])
    ends = [envs.step(np.zeros((2, 1), np.float32)).truncated.tolist() for _ in range(8)]
    assert ends == [[False, False]] * 6 + [[True, True], [False, False]]
    envs.close()
    with pytest.raises(ConfigError, match=r"env.kwargs=\{'no_such_key': 1\} could not be made"):
        make_vector_env(EnvConfig("Pendulum-v1", 2, "envpool", kwargs={"no_such_key": 1}))


def test_unknown_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no CartPol-v1 \(did you mean CartPole-v1"):
        make_vector_env(EnvConfig("CartPol-v1", 2, "envpool"))
    with pytest.raises(ConfigError, match=r"EnvPool has no .*use env\.backend=auto"):
        make_vector_env(EnvConfig("Taxi-v77777", 2, "envpool"))
    with pytest.raises(ConfigError, match="could not be made"):
        make_vector_env(EnvConfig("CartPole-v1", 2, "envpool", frame_stack=4))


def test_vector_env_has_autoreset_mode_and_closes_twice() -> None:
    from rlkl.envs.envpool_env import EnvPoolVectorEnv

    made = EnvPoolVectorEnv("CartPole-v1", 3, 1, {})
    assert made.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert made.num_envs == 3
    observations, info = made.reset()
    assert observations.shape == (3, 4)
    assert info == {}
    *_, info = made.step([0, 1, 0])
    assert info == {}
    made.close()
    made.close()


def test_atari_frames_are_stacked() -> None:
    envs = make_vector_env(EnvConfig("ALE/Pong-v5", 2, "envpool", frame_stack=3))
    assert envs.encoder.images == {"image": (3, 84, 84)}
    seen = envs.reset([0, 1])["image"]
    assert (seen.shape, seen.dtype) == ((2, 3, 84, 84), np.uint8)
    envs.close()

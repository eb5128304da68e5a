"""Shared memory gives the results of one process, and no worker outlives the trainer."""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from small_environments import Counter
from test_sync_env import HAS_MUJOCO, Sampled, assert_episodes_same, assert_same, made

import rlkl.envs.shared_memory_env
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.cpu import usable_cores
from rlkl.utils.errors import BrokenEnvironmentError, ConfigError

pytestmark = pytest.mark.usefixtures("no_hang")


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)


def is_gone(process: int) -> bool:
    """Return whether a process ended; it may be a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (made("CartPole-v1", max_episode_steps=9), None),
        (made("Pendulum-v1", max_episode_steps=9), None),
        # Not the type of the space, so the environment must get float64.
        (made("Pendulum-v1", max_episode_steps=9), np.float64),
        (made("Taxi-v4", max_episode_steps=9), None),
        (made("Blackjack-v1"), None),
        (partial(Counter, "image", "info"), None),
        (lambda: Sampled(Box(-1, 1, (2,)), MultiDiscrete(np.array([[2, 3], [4, 5]]))), None),
        (lambda: Sampled(Box(-1, 1, (2,)), MultiBinary([2, 2])), None),
        pytest.param(
            made("HalfCheetah-v5", max_episode_steps=20), None, marks=HAS_MUJOCO, id="cheetah"
        ),
    ],
)
@pytest.mark.parametrize(
    ("num_envs", "cores"),
    [
        (3, 2),
        (5, 3),
        *(pytest.param(*numbers, marks=pytest.mark.slow) for numbers in ((1, 4), (3, 1), (3, 9))),
    ],
)
def test_episodes_are_equal_on_any_number_of_cores(
    make: Callable[[], gym.Env[Any, Any]], dtype: Any, num_envs: int, cores: int
) -> None:
    found = SharedMemoryVectorEnv([make] * num_envs, cores)
    workers = found.processes
    assert len(workers) == min(num_envs, cores) - 1
    assert_episodes_same(found, SyncVectorEnv([make] * num_envs), 60, dtype)
    found.close()
    assert not any(worker.pid is None or Path(f"/proc/{worker.pid}").exists() for worker in workers)


class Slow(gym.Env[Any, Any]):
    """Is slow in the worker, and has observations larger than the buffer of a pipe."""

    observation_space = Box(-1, 1, (200, 200), np.float64)
    action_space = Discrete(2)
    is_slow = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.is_slow = seed == 1 if seed is not None else self.is_slow
        self.t = 0
        return np.full((200, 200), -1.0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 1 and not self.is_slow:
            raise KeyboardInterrupt
        self.t += 1
        time.sleep(0.02 * self.is_slow)
        return np.full((200, 200), self.t / 9), 0.0, False, self.t == 2, {}


def test_slow_workers_return_large_final_observations() -> None:
    envs = SharedMemoryVectorEnv([Slow] * 2, 2)
    envs.reset(seed=[0, 1])
    for t in range(1, 5):
        observations, _, _, truncated, infos = envs.step(np.zeros(2, np.int64))
        assert truncated.tolist() == [t % 2 == 0] * 2
        if t % 2 == 0:
            assert (observations == -1).all()
            assert all((final == 2 / 9).all() for final in infos["final_obs"])
        else:
            assert (observations == 1 / 9).all()
            assert infos == {}
    envs.close()


def test_interrupted_step_leaves_no_worker() -> None:
    envs = SharedMemoryVectorEnv([Slow] * 2, 2)
    envs.reset(seed=[0, 1])
    (worker,) = envs.processes
    with pytest.raises(KeyboardInterrupt):
        envs.step(np.ones(2, np.int64))
    envs.close()
    assert is_gone(worker.pid or 0)


def test_failed_worker_construction_is_reported() -> None:
    def broken() -> gym.Env[Any, Any]:
        raise ValueError("out of\nplace")

    make = made("CartPole-v1")
    with pytest.raises(BrokenEnvironmentError, match=r"^ValueError: out of place$"):
        SharedMemoryVectorEnv([make, make, broken], 3)
    with pytest.raises(ValueError, match="place"):
        SharedMemoryVectorEnv([broken, make], 2)
    assert not multiprocessing.active_children()


def test_parts_without_arrays_are_none() -> None:
    envs = SharedMemoryVectorEnv([partial(Counter, "dict")] * 3, 2)
    expected = SyncVectorEnv([partial(Counter, "dict")] * 3)
    envs.reset(seed=[0, 1, 2])
    expected.reset(seed=[0, 1, 2])
    actions = np.zeros(3, np.int64)
    for _ in range(7):
        step, other = envs.step(actions), expected.step(actions)
        assert step[0]["text"] is None
        assert other[0]["text"] == ("abc",) * 3
        assert_same({**step[0], "text": other[0]["text"]}, other[0])
    final = step[4]["final_obs"]
    # The third sub-environment belongs to a worker.
    assert [part is None for part in final] == [part is None for part in other[4]["final_obs"]]
    assert final[2]["text"] is None
    assert_same(final[2]["view"], other[4]["final_obs"][2]["view"])
    envs.close()


def test_other_architectures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlkl.envs.shared_memory_env.platform, "machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match=r"needs a Unix system on x86-64.*use env.backend=sync"):
        make_vector_env(EnvConfig("CartPole-v1", 2, "shared"))


def test_all_usable_cores_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(rlkl.envs.shared_memory_env, "usable_cores", lambda: 3)
    envs = SharedMemoryVectorEnv([made("CartPole-v1")] * 7)
    assert len(envs.processes) == 2
    assert [span.stop - span.start for span in envs._spans] == [3, 2, 2]
    envs.close()

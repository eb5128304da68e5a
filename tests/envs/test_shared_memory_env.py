"""Copies in several processes give what copies in one give, and leave no process behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from small_environments import Counter
from test_sync_env import HAS_MUJOCO, Sampled, assert_infos_same, assert_same, made

import rlkl.envs.shared_memory_env
from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.shared_memory_env import SLEEPS, SharedCopies
from rlkl.envs.sync_env import Copies
from rlkl.utils.cpu import usable_cores
from rlkl.utils.validation import BrokenEnvironmentError, ConfigError

DEADLINE = 20.0
"""Seconds after which what should have happened did not."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that waits for an answer that will never come."""

    def ring(*_: Any) -> None:
        raise TimeoutError("hung for a minute")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)


def is_gone(process: int) -> bool:
    """Whether a process ended; one that nobody asked how is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def assert_lives_same(
    found: SharedCopies, expected: Copies, steps: int, dtype: Any = None, pause: float = 0.0
) -> None:
    expected.action_space.seed(0)
    seeds: list[Any] = [list(range(4, 4 + expected.num_envs)), 11]
    for seed in seeds:
        first, infos = found.reset(seed=seed, options={"a": 1})
        other, other_infos = expected.reset(seed=seed, options={"a": 1})
        assert_same(first, other)
        assert_infos_same(infos, other_infos, np.zeros(expected.num_envs, np.bool_))
        kept = []
        for _ in range(steps):
            actions = expected.action_space.sample()
            actions = actions if dtype is None else actions.astype(dtype)
            step, other_step = found.step(actions), expected.step(actions)
            kept.append((step, other_step))
            time.sleep(pause)
        # After all steps: what one of them returned is written by no later one.
        for step, other_step in kept:
            for part, other_part in zip(step[:4], other_step[:4], strict=True):
                assert_same(part, other_part)
            assert_infos_same(step[4], other_step[4], step[2] | step[3])
    found.close()


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (made("CartPole-v1", max_episode_steps=9), None),
        (made("Pendulum-v1", max_episode_steps=9), None),
        # Not of the space's type, which would be another action to the environment.
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
    ("copies", "cores"),
    [
        (3, 2),
        (5, 3),
        *(pytest.param(*numbers, marks=pytest.mark.slow) for numbers in ((1, 4), (3, 1), (3, 9))),
    ],
)
def test_the_same_lives_are_lived_on_any_number_of_cores(
    make: Callable[[], gym.Env[Any, Any]], dtype: Any, copies: int, cores: int
) -> None:
    found = SharedCopies([make] * copies, cores)
    workers = found.processes
    assert len(workers) == min(copies, cores) - 1
    assert_lives_same(found, Copies([make] * copies), 60, dtype)
    assert not any(worker.pid is None or Path(f"/proc/{worker.pid}").exists() for worker in workers)


def test_a_worker_that_has_nothing_to_do_sleeps_and_is_woken() -> None:
    make = made("Pendulum-v1", max_episode_steps=3)
    found = SharedCopies([make] * 2, 2)
    found.reset(seed=1)
    for _ in range(3):
        until(lambda: found._flags[0][SLEEPS] == 1)
        found.step(np.zeros((2, 1), np.float32))
    until(lambda: found._flags[0][SLEEPS] == 1)
    found.get_attr("g")
    # About as long as it looks before it sleeps.
    assert_lives_same(found, Copies([make] * 2), 60, pause=rlkl.envs.shared_memory_env.PATIENCE)


class Slow(gym.Env[Any, Any]):
    """Takes its time in the worker, and ends each step with an observation that no pipe holds."""

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


def test_slow_workers_are_waited_for_and_large_final_observations_come_through() -> None:
    copies = SharedCopies([Slow] * 2, 2)
    copies.reset(seed=[0, 1])
    for t in range(1, 5):
        observations, _, _, truncated, infos = copies.step(np.zeros(2, np.int64))
        assert truncated.tolist() == [t % 2 == 0] * 2
        if t % 2 == 0:
            assert (observations == -1).all()
            assert all((final == 2 / 9).all() for final in infos["final_obs"])
        else:
            assert (observations == 1 / 9).all()
            assert infos == {}
    copies.close()


def test_an_interrupt_in_the_middle_of_a_step_leaves_nothing_behind() -> None:
    copies = SharedCopies([Slow] * 2, 2)
    copies.reset(seed=[0, 1])
    (worker,) = copies.processes
    with pytest.raises(KeyboardInterrupt):
        copies.step(np.ones(2, np.int64))
    copies.close()
    assert is_gone(worker.pid or 0)


def test_workers_end_with_a_trainer_that_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from test_sync_env import made\n"
        "from rlkl.envs.shared_memory_env import SharedCopies\n"
        "copies = SharedCopies([made('CartPole-v1')] * 3, 3)\n"
        "copies.reset()\n"
        "print(*(worker.pid for worker in copies.processes), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | here,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    workers = list(map(int, done.stdout.split()))
    assert len(workers) == 2
    until(lambda: all(map(is_gone, workers)))
    assert done.stderr == ""


def test_a_copy_that_a_worker_cannot_make_is_told_and_none_is_left() -> None:
    def broken() -> gym.Env[Any, Any]:
        raise ValueError("out of\nplace")

    make = made("CartPole-v1")
    with pytest.raises(BrokenEnvironmentError, match=r"^ValueError: out of place$"):
        SharedCopies([make, make, broken], 3)
    with pytest.raises(ValueError, match="place"):
        SharedCopies([broken, make], 2)
    assert not multiprocessing.active_children()


def test_parts_that_no_array_holds_stay_where_they_are() -> None:
    copies = SharedCopies([partial(Counter, "dict")] * 3, 2)
    expected = Copies([partial(Counter, "dict")] * 3)
    copies.reset(seed=[0, 1, 2])
    expected.reset(seed=[0, 1, 2])
    actions = np.zeros(3, np.int64)
    for _ in range(7):
        step, other = copies.step(actions), expected.step(actions)
        assert step[0]["text"] is None
        assert other[0]["text"] == ("abc",) * 3
        assert_same({**step[0], "text": other[0]["text"]}, other[0])
    final = step[4]["final_obs"]
    # The third copy is a worker's own.
    assert [part is None for part in final] == [part is None for part in other[4]["final_obs"]]
    assert final[2]["text"] is None
    assert_same(final[2]["view"], other[4]["final_obs"][2]["view"])
    copies.close()


def test_copies_are_reached_in_every_process() -> None:
    copies = SharedCopies([made("Pendulum-v1", g=0.5)] * 3, 3)
    assert copies.get_attr("g") == (0.5,) * 3
    assert copies.call("has_wrapper_attr", "nothing") == (False,) * 3
    with pytest.raises(ValueError, match="2 seeds for 3 copies"):
        copies.reset(seed=[1, 2])
    copies.close()


def test_other_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlkl.envs.shared_memory_env.platform, "machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match=r"needs a Unix on x86-64.*use env.backend=sync"):
        make_vector_env(EnvConfig("CartPole-v1", 2, "shared"))


def test_as_many_cores_are_used_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(rlkl.envs.shared_memory_env, "usable_cores", lambda: 3)
    copies = SharedCopies([made("CartPole-v1")] * 7)
    assert len(copies.processes) == 2
    assert [span.stop - span.start for span in copies._spans] == [3, 2, 2]
    copies.close()

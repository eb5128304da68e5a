"""The arrays in shared memory, and when workers sleep, fail and end."""

import ctypes
import os
import sys
import time
from multiprocessing import RawArray
from pathlib import Path

import forked_python
import numpy as np
import pytest
from test_shared_memory_env import is_gone, until
from test_sync_env import assert_episodes_same, made

import rlkl.envs.shared_memory_worker
from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv
from rlkl.envs.shared_memory_worker import (
    SLEEPING,
    SPIN_SECONDS,
    Layout,
    arrays_in,
    bytes_of,
    layout_of,
)
from rlkl.envs.sync_env import SyncVectorEnv
from rlkl.utils.errors import BrokenEnvironmentError

pytestmark = pytest.mark.usefixtures("no_hang")


def test_arrays_lie_on_cache_lines_of_their_own() -> None:
    layout: Layout = [((2, 16), np.int64), ((5,), np.bool_), ((3, 17), np.float64), ((0,), np.int8)]
    assert [bytes_of(part) for part in layout] == [256, 64, 448, 0]
    arrays = arrays_in(RawArray(ctypes.c_byte, 64 + 256 + 64 + 448), layout)
    assert [array.shape for array in arrays] == [(2, 16), (5,), (3, 17), (0,)]
    addresses = [array.ctypes.data for array in arrays[:3]]
    assert [address % 64 for address in addresses] == [0, 0, 0]
    assert [address - addresses[0] for address in addresses] == [0, 256, 320]
    for number, array in enumerate(arrays):
        array[...] = number
    assert [int(array.sum()) for array in arrays] == [0, 5, 102, 0]


def test_layout_has_actions_results_and_observations() -> None:
    layout = layout_of(SyncVectorEnv([made("Pendulum-v1")]), 3, 7)
    assert [(shape, np.dtype(kind).name) for shape, kind in layout] == [
        ((3, 16), "int64"),
        ((7, 1), "float32"),
        ((7,), "float64"),
        ((7,), "bool"),
        ((7,), "bool"),
        ((7, 3), "float32"),
    ]


def test_idle_worker_sleeps_and_wakes() -> None:
    make = made("Pendulum-v1", max_episode_steps=3)
    found = SharedMemoryVectorEnv([make] * 2, 2)
    found.reset(seed=[1, 2])
    for _ in range(3):
        until(lambda: found._flags[0][SLEEPING] == 1)
        found.step(np.zeros((2, 1), np.float32))
    until(lambda: found._flags[0][SLEEPING] == 1)
    found.reset(seed=[1, 2])
    # Pauses of about the time before sleep.
    assert_episodes_same(found, SyncVectorEnv([make] * 2), 60, pause=SPIN_SECONDS)
    found.close()


def test_resting_worker_sleeps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlkl.envs.shared_memory_worker, "SPIN_SECONDS", 1e9)  # it never tires
    make = made("Pendulum-v1", max_episode_steps=3)
    found = SharedMemoryVectorEnv([make] * 2, 2)
    found.reset(seed=[1, 2])
    for _ in range(3):
        found.step(np.zeros((2, 1), np.float32))
        time.sleep(0.05)
        assert found._flags[0][SLEEPING] == 0
        found.rest()
        until(lambda: found._flags[0][SLEEPING] == 1)
    assert_episodes_same(found, SyncVectorEnv([make] * 2), 20)
    found.close()


def test_failed_request_is_one_line_and_worker_lives() -> None:
    envs = SharedMemoryVectorEnv([made("Pendulum-v1")] * 3, 2)
    with pytest.raises(BrokenEnvironmentError, match=r"^ValueError: zip\(\)"):
        envs.reset(seed=[0, 1])  # none is left for the worker
    observations, _ = envs.reset(seed=[0, 1, 2])
    assert observations.shape == (3, 3)
    envs.close()


@pytest.mark.slow
def test_workers_end_when_the_trainer_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from test_sync_env import made\n"
        "from rlkl.envs.shared_memory_env import SharedMemoryVectorEnv\n"
        "envs = SharedMemoryVectorEnv([made('CartPole-v1')] * 3, 3)\n"
        "envs.reset()\n"
        "print(*(worker.pid for worker in envs.processes), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))}
    done = forked_python.run(
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

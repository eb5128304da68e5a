"""Failures of environments raise one line, and leave no process behind."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import forked_python
import gymnasium as gym
import numpy as np
import pytest
import small_environments  # noqa: F401 (registers environments)

from rlkl.envs.make import EnvConfig, make_vector_env
from rlkl.envs.vector_env import VectorEnvironment
from rlkl.utils.errors import BrokenEnvironmentError

pytestmark = pytest.mark.usefixtures("two_cores", "no_hang")
PROCESSES = {"sync": 0, "shared": 1, "async": 2}
"""Worker processes for two sub-environments."""

MESSAGES = {
    "nan": r"observation of 'a' of sub-environment 1 is nan at index 1; expected finite numbers",
    "inf": "the observation of 'a' of sub-environment 1 is inf",
    "shape": r"step failed: .* of 'a' has shape \(1,\) and type float32; .* declares \(2,\)",
    "shape of several": r"step failed: .* of 'm' has shape \(1,\)",
    "type": "step failed: .* of 'a' has .* type complex128; .* float32",
    "words": "step failed: .* of 'a' has .* type <U1; .* float32",
    "part of a number": "step failed: .* of 'd' has .* type float64; .* int64",
    "number": r"an observation of 'd' of sub-environment 1 is 3, outside its space Discrete\(3\)",
    "missing": "step failed: KeyError: 'd'",
    "reward": "the reward of sub-environment 1 is nan; expected a finite number",
    "reward inf": "the reward of sub-environment 1 is inf; expected a finite number",
    "reward words": "step failed: .* 'much'",
    "step": "step failed: RuntimeError: the motor burnt out",
    "local exception": "step failed: LocalError: unknown in other processes",
    "two words": "step failed: TwoWordsError: this and that",
    "reset": "step failed: ValueError: cannot reset",
    "first reset": "reset failed: ValueError: cannot reset",
    "killed": "step failed: the process of a sub-environment died",
}
CASES = [
    (kind, backend)
    for kind in MESSAGES
    for backend in PROCESSES
    if (kind, backend) != ("killed", "sync")
]


def failing(kind: str, backend: str, after: int) -> EnvConfig:
    kwargs = {"kind": kind, "after": after}
    return EnvConfig("SmallTrouble-v0", 2, backend, kwargs=kwargs)


def processes_of(envs: VectorEnvironment) -> list[int]:
    return [process.pid for process in getattr(envs._envs.unwrapped, "processes", [])]


def assert_gone(processes: list[int]) -> None:
    assert not any(Path("/proc", str(number)).exists() for number in processes)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("kind", "backend"), CASES)
@pytest.mark.parametrize(
    "after",
    [0, pytest.param(2, marks=pytest.mark.slow), 4],
    ids=["at first", "at an end", "later"],
)
def test_failures_raise_one_line_and_end_processes(
    kind: str, backend: str, after: int, capfd: pytest.CaptureFixture[str]
) -> None:
    envs = make_vector_env(failing(kind, backend, after))
    processes = processes_of(envs)
    assert len(processes) == PROCESSES[backend]
    made = -1
    with pytest.raises(BrokenEnvironmentError, match=MESSAGES[kind]) as caught:
        envs.reset([0, 1])
        for made in range(9):  # noqa: B007
            envs.step(np.zeros(2, np.int64))
    # Episodes have 3 steps, and the next reset fails.
    reset_fails = -1 if kind == "first reset" else {0: 2, 2: 2, 4: 5}[after]
    assert made == (reset_fails if "reset" in kind else after)
    message = str(caught.value)
    assert message.startswith("env.id=SmallTrouble-v0: ")
    assert "\n" not in message
    envs.close()
    envs.close()
    assert_gone(processes)
    assert capfd.readouterr() == ("", "")


def test_environments_exception_is_the_cause() -> None:
    envs = make_vector_env(failing("step", "sync", 0))
    envs.reset([0, 1])
    with pytest.raises(BrokenEnvironmentError) as caught:
        envs.step(np.zeros(2, np.int64))
    causes, error = [], caught.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__
    assert causes[-1] is RuntimeError


@pytest.mark.parametrize(("backend", "number"), [("async", 0), ("async", 1), ("shared", 0)])
@pytest.mark.parametrize("next_call", ["step", "reset", "close"])
def test_process_killed_between_steps_is_noticed(
    next_call: str, backend: str, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    envs = make_vector_env(failing("none", backend, 0))
    processes = processes_of(envs)
    envs.reset([0, 1])
    envs.step(np.zeros(2, np.int64))
    os.kill(processes[number], signal.SIGKILL)
    time.sleep(0.05)
    if next_call != "close":
        given: Any = np.zeros(2, np.int64) if next_call == "step" else [0, 1]
        with pytest.raises(BrokenEnvironmentError, match=f"{next_call} failed: the process of a"):
            getattr(envs, next_call)(given)
        assert_gone(processes)
    envs.close()
    assert_gone(processes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", ["shared", "async"])
def test_close_ends_processes(backend: str) -> None:
    envs = make_vector_env(failing("none", backend, 0))
    processes = processes_of(envs)
    envs.reset([0, 1])
    envs.close()
    assert_gone(processes)


def test_gymnasiums_log_level_is_unchanged() -> None:
    level = gym.logger.min_level
    envs = make_vector_env(failing("step", "sync", 0))
    envs.reset([0, 1])
    assert gym.logger.min_level == level
    with pytest.raises(BrokenEnvironmentError):
        envs.step(np.zeros(2, np.int64))
    assert gym.logger.min_level == level


@pytest.mark.parametrize("backend", ["shared", "async"])
def test_workers_ignore_sigterm(backend: str) -> None:
    envs = make_vector_env(EnvConfig("CartPole-v1", 3, backend))
    try:
        envs.reset([0, 1, 2])
        for process in envs._envs.unwrapped.processes:
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGHUP)
        assert envs.step(np.zeros(3, np.int64)).rewards.tolist() == [1, 1, 1]
    finally:
        envs.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["shared", "async"])
def test_workers_end_with_a_script_without_close(backend: str, tmp_path: Path) -> None:
    code = (
        "from rlkl.envs.make import EnvConfig, make_vector_env\n"
        f"envs = make_vector_env(EnvConfig('CartPole-v1', 3, '{backend}'))\n"
        "envs.reset([0, 1, 2])\n"
    )
    done = forked_python.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


SCRIPT = """
import multiprocessing, sys
import gymnasium as gym, numpy as np
import rlkl
from rlkl.envs.make import EnvConfig, make_vector_env

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

def main():
    gym.register("Mine-v0", Mine)
    envs = make_vector_env(EnvConfig("Mine-v0", 2, sys.argv[2]))
    envs.reset([0, 1])
    print(envs.step(np.zeros(2, np.int64)).rewards.tolist())
    envs.close()

if __name__ == "__main__" or sys.argv[3] == "bare":
    multiprocessing.set_start_method(sys.argv[1], force=True)
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("backend", ["shared", "async"])
def test_spawned_workers_know_the_scripts_environment(
    method: str, backend: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", method, backend]
    given: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    done = forked_python.run([*command, "guarded"], check=False, **given)
    assert (done.stdout, done.returncode) == ("[1.0, 1.0]\n", 0), done.stderr
    bare = forked_python.run([*command, "bare"], check=False, **given)
    assert bare.returncode == 1
    assert 'train below: if __name__ == "__main__":' in bare.stderr.splitlines()[-1]

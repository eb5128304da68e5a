"""Runs on a failing environment end with one line on standard error."""

import csv
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_environments
import torch
from gymnasium.spaces import Box, Discrete

from rlkl.cli import main
from rlkl.envs import checks

pytestmark = pytest.mark.usefixtures("two_cores", "no_hang")
BACKENDS = ("sync", "shared", "async")

OWN = Path(small_environments.__file__).read_text()
TINY = [
    "env.num_envs=2", "rollout_steps=8", "eval_episodes=0", "algo.num_minibatches=1",
    "critic.num_minibatches=1", "total_env_steps=48",
]  # fmt: skip


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module that registers environments, like a user's package."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    name = f"own_{tmp_path.name.replace('-', '_')}"
    text = OWN.replace("Small{name}-v0", "Own{name}-v0").replace("SmallNative", "OwnNative")
    # With the large seeds of a run none would fail.
    text = text.replace("seed == self.seed", "True")
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    before = dict(gym.registry)
    yield name
    sys.modules.pop(name, None)
    gym.registry.clear()
    gym.registry.update(before)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("nan", "sync"),
        ("step", "sync"),
        pytest.param("step", "async", marks=pytest.mark.slow),
        pytest.param("reset", "async", marks=pytest.mark.slow),
        ("killed", "async"),
        pytest.param("step", "shared", marks=pytest.mark.slow),
        ("reset", "shared"),
    ],
)
def test_failing_run_prints_one_line_and_keeps_data(
    kind: str,
    backend: str,
    own_module: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlkl"])
    env_id = f"{own_module}:OwnTrouble-v0"
    given = [f"env.id={env_id}", f"env.kwargs.kind='{kind}'", "env.kwargs.after=19"]
    with pytest.raises(SystemExit) as end:
        main(["train", "run_dir=run", f"env.backend={backend}", *given, *TINY])
    assert end.value.code == 1
    errors = capfd.readouterr().err
    assert errors.startswith(f"rlkl: BrokenEnvironmentError: env.id={env_id}: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert not multiprocessing.active_children()

    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["reason"].startswith(f"BrokenEnvironmentError: env.id={env_id}: ")
    assert summary["env_id"] == env_id
    # Two rollouts of 8 steps precede the 20th step.
    assert summary["iterations"] == 2
    with (run / "metrics.csv").open() as file:
        assert [row["env_steps"] for row in csv.DictReader(file)] == ["16", "32"]
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert state["iterations"] == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "words"),
    [("first reset", "reset failed: ValueError: cannot reset"), ("nan", "environment 0 is nan")],
)
def test_run_that_fails_at_reset_creates_nothing(
    kind: str,
    words: str,
    backend: str,
    own_module: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    env_id = f"{own_module}:OwnTrouble-v0"
    trouble = [f"env.kwargs.kind='{kind}'", "env.kwargs.after=-1"]
    given = [f"env.id={env_id}", *trouble, f"env.backend={backend}"]
    with pytest.raises(SystemExit) as end:
        main(["train", "run_dir=run", *given, *TINY])
    assert end.value.code == 1
    errors = capfd.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_own_environment_gets_its_arguments(own_module: str, tmp_path: Path) -> None:
    arguments = ["run_dir=run", "logger.progress=none", "logger.tensorboard=false", *TINY]
    env_id = f"env.id={own_module}:OwnCounter-v0"
    done = subprocess.run(
        [sys.executable, "-m", "rlkl", "train", env_id, "env.kwargs.shows=image",
         "env.kwargs.masks=method", *arguments],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "own"), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["env_steps"]) == ("finished", 48)


class Leaving(gym.Env[Any, Any]):
    """Fails in close, in its third step or when it is made.

    Args:
        kind: of failure; `close`, `close exit` and `hang` are of close.
    """

    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)

    def __init__(self, kind: str, owner: int = 0) -> None:
        self.kind, self.owner, self.t = kind, owner, 0
        if kind == "init":
            sys.exit(0)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        if self.t == 3:
            if self.kind == "exit":
                sys.exit(0)
            if self.kind == "generator":
                raise GeneratorExit
            if self.kind == "os":
                os._exit(7)
        return np.zeros(1, np.float32), 1.0, self.t % 9 == 0, False, {}

    def close(self) -> None:
        if self.kind == "close":
            raise ValueError("stuck")
        if self.kind == "close exit":
            sys.exit(0)
        if self.kind == "hang" and os.getpid() != self.owner:
            time.sleep(1000)


gym.register("Leaving-v0", Leaving)

ALL_BACKENDS = pytest.mark.parametrize(
    "backend", ["sync", "shared", pytest.param("async", marks=pytest.mark.slow)]
)


def exit_code_of(kind: str, backend: str, tmp_path: Path, **given: Any) -> int:
    """Train, and return the exit code."""
    kwargs = [f"env.kwargs.{key}={value}" for key, value in given.items()]
    settings = ["total_env_steps=64", "rollout_steps=8", "env.num_envs=4", "eval_episodes=2"]
    with pytest.raises(SystemExit) as end:
        main(["train", "env.id=Leaving-v0", f"env.kwargs.kind={kind}", f"env.backend={backend}",
              *kwargs, *settings, "logger=csv", "checkpoint.interval=9",
              f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    assert isinstance(end.value.code, int)
    return end.value.code


def summary_in(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    return found


@ALL_BACKENDS
@pytest.mark.parametrize("kind", ["close", "close exit"])
def test_failing_close_is_only_reported(
    kind: str, backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checks._reported.clear()
    assert exit_code_of(f"'{kind}'", backend, tmp_path) == 0
    assert summary_in(tmp_path)["status"] == "finished"
    errors = capfd.readouterr().err
    assert "rlkl: env.id=Leaving-v0: close failed: " in errors
    assert "Traceback" not in errors
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_hanging_close_is_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checks._reported.clear()
    assert exit_code_of("hang", "async", tmp_path, owner=os.getpid()) == 0
    assert "close failed: TimeoutError: it takes more than" in capfd.readouterr().err
    assert not multiprocessing.active_children()


@ALL_BACKENDS
@pytest.mark.parametrize(
    ("kind", "words"), [("exit", "it called sys.exit(0)"), ("generator", "GeneratorExit")]
)
def test_exit_in_an_environment_fails_the_run(
    kind: str, words: str, backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(kind, backend, tmp_path) == 1
    summary = summary_in(tmp_path)
    assert summary["status"] == "failed"
    assert f"env.id=Leaving-v0: step failed: {words}" in summary["reason"]
    assert words in capfd.readouterr().err


@ALL_BACKENDS
def test_exit_in_a_constructor_is_refused(
    backend: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of("init", backend, tmp_path) == 2
    assert "could not be made: SystemExit: 0" in capfd.readouterr().err


def test_exit_code_of_dead_process_is_reported(tmp_path: Path) -> None:
    assert exit_code_of("os", "async", tmp_path) == 1
    assert "the process of a sub-environment died (exit code 7)" in summary_in(tmp_path)["reason"]

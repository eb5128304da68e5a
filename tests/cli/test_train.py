"""The command line from a user's view: exit codes, one-line errors, folders and files."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked_python
import pytest
import yaml
from commands import exit_code

import rlkl
from rlkl.algos import ALGORITHMS
from rlkl.cli import COMMANDS
from rlkl.cli.schema import GROUPS, OF_AN_EXPERIMENT, options
from rlkl.training.report import TAGS
from rlkl.utils.atomic_files import FolderLock
from rlkl.utils.cpu import usable_cores

TINY = ["total_env_steps=300", "rollout_steps=16", "eval_episodes=2"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlkl"])


def test_invalid_sweep_job_prevents_all_jobs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code("train", "-m", "algo=ppo_clip,trpo", "env.kwargs.gravity=3", *TINY) == 2
    assert exit_code("train", "-m", "gamma=0.9,1.9", *TINY) == 2
    assert exit_code("train", "-m", "seed=0,1", "run_dir=here", *TINY) == 2
    errors = capfd.readouterr().err
    assert "gravity" in errors
    assert "gamma=1.9" in errors
    assert "shared by several jobs" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_writes_all_files(algo: str, tmp_path: Path) -> None:
    assert exit_code("train", f"algo={algo}", "seed=7", *TINY) == 0
    (folder,) = (tmp_path / "runs" / "CartPole-v1" / algo).iterdir()
    assert folder.name.endswith("-seed7")
    names = {path.name.split(".tfevents")[0] for path in folder.iterdir()}
    assert names == {
        "config.yaml", "events.out", "metrics.csv", "episodes.csv", "checkpoints", "summary.json",
        ".lock",
    }  # fmt: skip
    assert yaml.safe_load((folder / "config.yaml").read_text())["algo"]["name"] == algo

    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary) == [
        "status", "reason", "env_steps", "iterations", "episodes", "return_mean", "return_best",
        "eval_return", "wall_seconds", "env_steps_per_second", "seed", "algo", "env_id",
        "versions", "git_revision", "hardware", "exact", "eval_unended", "eval_seconds",
    ]  # fmt: skip
    assert (summary["status"], summary["algo"], summary["seed"]) == ("finished", algo, 7)
    assert set(summary["hardware"]) == {"cpu", "cpus"}

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["env_steps", *TAGS]
    assert len(rows) == summary["iterations"]
    assert int(rows[-1]["env_steps"]) == summary["env_steps"] >= 300
    assert float(rows[-1]["return/eval"]) == summary["eval_return"]

    with (folder / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    assert list(episodes[0]) == ["env_steps", "return", "length"]
    assert len(episodes) == summary["episodes"]
    returns = [float(episode["return"]) for episode in episodes[-100:]]
    assert summary["return_mean"] == pytest.approx(sum(returns) / len(returns))


@pytest.mark.slow
def test_each_sweep_job_has_a_separate_folder(tmp_path: Path) -> None:
    assert exit_code("train", "-m", "algo=ppo_clip,trpo", "seed=range(2)", *TINY) == 0
    (grid,) = (tmp_path / "runs" / "grids").iterdir()
    runs = sorted(path.parent for path in grid.glob("*/summary.json"))
    assert [path.name for path in runs] == [
        "ppo_clip-seed0", "ppo_clip-seed1", "trpo-seed0", "trpo-seed1",
    ]  # fmt: skip


@pytest.mark.slow
def test_failed_sweep_job_does_not_stop_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run-1").mkdir()
    assert exit_code("train", "-m", "seed=range(3)", "run_dir=run-${seed}", *TINY) == 1
    done = sorted(path.parent.name for path in tmp_path.rglob("summary.json"))
    assert done == ["run-0", "run-2"]
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("rlkl: failed: seed=1,")
    assert "run-1 exists already" in errors[0]


def test_run_never_changes_an_existing_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "run_dir=mine", *TINY) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*.*")}
    assert exit_code("train", "run_dir=mine", *TINY) == 2
    assert "exists already" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*.*")} == before


def test_train_help_lists_options_and_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code("train", "--help") == 0
    printed = capsys.readouterr().out
    assert printed.count("\n  rlkl train") == 3
    words = " ".join(printed.split())
    for group in GROUPS:
        assert (f"\n  {group}\n" in printed) == (group not in OF_AN_EXPERIMENT)
        if group in OF_AN_EXPERIMENT:
            continue
        found = options(group)
        assert found, f"no option of {group}"
        for name, description in found.items():
            assert f"    {name}" in printed
            assert description, f"{group}={name} has no description in its first comment"
            assert description in words


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_eighty_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*name.split(), "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []


def test_cfg_job_prints_the_config_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code("train", "--cfg", "job", "algo=trpo", "algo.max_kl=0.5", "env.kwargs.a=1") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["algo"]["max_kl"] == 0.5
    assert config["env"]["kwargs"] == {"a": 1}
    assert list(tmp_path.iterdir()) == []


def test_config_dir_adds_experiments(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\n# Nothing but short.\ntotal_env_steps: 200\nrollout_steps: 8\n"
    )
    assert exit_code("train", "--config-dir", "mine", "experiment=tiny", "run_dir=run") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["env_steps"] < 300


def test_mistyped_command_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("trian") == 2
    assert "did you mean train" in capsys.readouterr().err
    assert exit_code("--help") == 0
    assert "rlkl train --help" in capsys.readouterr().out
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.startswith("rlkl ")


ENVIRONMENT = """
import gymnasium as gym


class Third(gym.Env):
    observation_space = gym.spaces.Box(-1, 1)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, seed_of_run):
        self.breaks, self.steps = seed_of_run == 2, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        if self.breaks and self.steps > 40:
            raise ValueError("the third is lost")
        return self.observation_space.sample(), 1.0, self.steps % 9 == 0, False, {}


gym.register("Third-v0", Third)
"""
"""A user's package with an environment that breaks in the run of seed 2."""


def command(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command in a folder whose modules it can import."""
    root = Path(rlkl.__file__).parents[1]
    return forked_python.Popen(
        [sys.executable, "-m", "rlkl", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{folder}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_sweep_job_that_breaks_while_running_is_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "third.py").write_text(ENVIRONMENT)
    own = ["env.id=third:Third-v0", "env.kwargs.seed_of_run=${seed}", "logger=quiet"]
    process = command(tmp_path, "train", "-m", "seed=0,1,2,3", *own, *TINY)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith("rlkl: ")]
    assert len(lines) == 1
    assert lines[0].startswith("rlkl: failed: seed=2,")
    assert "the third is lost" in lines[0]
    assert "Traceback" not in errors
    ends = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert {end["seed"]: end["status"] for end in ends} == {
        0: "finished", 1: "finished", 2: "failed", 3: "finished",
    }  # fmt: skip
    (lost,) = [end for end in ends if end["status"] == "failed"]
    assert "the third is lost" in lost["reason"]


@pytest.mark.slow
def test_simultaneous_runs_get_separate_folders(tmp_path: Path) -> None:
    both = [command(tmp_path, "train", "logger=quiet", *TINY) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, "")
    folders = [path.parent for path in tmp_path.rglob("summary.json")]
    assert len(folders) == 2
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "finished"
        rows = (folder / "metrics.csv").read_text().splitlines()
        assert len(rows) == 1 + summary["iterations"]


def is_gone(process: int) -> bool:
    """Return whether a process ended; a zombie has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists child processes")
@pytest.mark.parametrize("backend", ["async", "shared"])
def test_environment_processes_end_with_a_killed_trainer(backend: str, tmp_path: Path) -> None:
    environment = [f"env.backend={backend}", "env.num_envs=4", "env=pendulum", "logger=quiet"]
    process = command(tmp_path, "train", "run_dir=run", "total_env_steps=100000000", *environment)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    try:
        while not (metrics.exists() and metrics.read_text().count("\n") > 2):
            assert time.monotonic() < deadline, "no iteration in two minutes"
            assert process.poll() is None, "the trainer ended by itself"
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.kill()
        process.communicate()
    workers = 4 if backend == "async" else min(4, usable_cores()) - 1
    assert len(children) in {workers, workers + 1}  # the critic may have a process of its own
    FolderLock(tmp_path / "run").release()  # the lock of a dead process can be taken
    while not all(is_gone(int(child)) for child in children):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "backend"),
    [
        (signal.SIGINT, "async"),
        pytest.param(signal.SIGINT, "native", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "native", marks=pytest.mark.slow),
    ],
)
def test_stop_signal_writes_a_summary(number: int, backend: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    process = subprocess.Popen(
        [
            sys.executable,
            str(script),
            "run_dir=run",
            "total_env_steps=100000000",
            f"env.backend={backend}",
            "env.num_envs=2",
        ],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONWARNINGS": "default"},
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline, "no iteration in two minutes"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    os.killpg(process.pid, number)  # as a terminal does: to every process of the group
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped: interrupted" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("stopped", "interrupted")
    assert summary["iterations"] == metrics.read_text().count("\n") - 1

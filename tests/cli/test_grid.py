"""Grids on the command line: jobs that fail, are killed, are stopped and resume."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import forked_python
import pytest
import yaml
from commands import exit_code
from same_runs import assert_same_run

import rlkl
from rlkl.cli import grid_launch
from rlkl.cli.grid import _settle_orphaned_jobs
from rlkl.cli.hydra_safety import PLUGINS
from rlkl.cli.schema import register_schemas
from rlkl.tools.grid.call import Status, new_call
from rlkl.tools.grid.display import Job

REPOSITORY = Path(rlkl.__file__).parent.parent
TINY = ["total_env_steps=300", "rollout_steps=16", "eval_episodes=2"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rlkl"])
    register_schemas()


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (True, Status("stopped", "interrupted")),
        (False, Status("failed", "the launcher's worker that waited for it died")),
    ],
)
def test_orphaned_job_is_stopped_only_on_request(
    *, stop: bool, expected: Status, tmp_path: Path
) -> None:
    call = new_call(tmp_path)
    call.write_status("seed0", Status("running"))
    if stop:
        call.request_stop()
    config = rlkl.TrainConfig(run_dir=str(tmp_path / "seed0"))
    (tmp_path / "seed0").mkdir()
    _settle_orphaned_jobs(call, [Job("seed0", ["seed=0"], config)])
    assert call.status("seed0") == expected


def test_missing_tracker_refuses_grid_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name)
    )
    assert exit_code("train", "-m", "logger=csv,wandb", "hydra/launcher=basic", *TINY) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "logger.tracker=wandb needs the package wandb" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_finished_grid_is_kept_and_other_config_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "-m", "seed=0,1", "grid=mine", "hydra.launcher.n_jobs=2", *TINY]
    assert exit_code(*line) == 0
    printed = capfd.readouterr().out
    assert "grid runs/grids/mine: 2 jobs: 0 already finished, 0 to resume, 2 to start" in printed
    assert "  finished  seed1  return " in printed
    assert printed.endswith("grid mine: 2 finished\n")
    log = (tmp_path / "runs/grids/mine/seed0/log.txt").read_text()
    assert "ppo_clip on CartPole-v1" in log
    assert "finished" in log
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert exit_code(*line) == 0
    assert "2 already finished" in capfd.readouterr().out
    assert exit_code(*line, "gamma=0.5") == 2
    error = capfd.readouterr().err
    assert "runs/grids/mine/seed0 was trained with gamma=0.99" in error
    assert "but gamma=0.5 is requested" in error
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


# Slow tests: commands in separate processes.


def start(folder: Path, *arguments: str, python: str = sys.executable) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    return forked_python.Popen(
        [python, "-m", "rlkl", "train", "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=240)
    return process.returncode, printed, errors


def wait_until(what: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "not reached in two minutes"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def iterations(run_dir: Path) -> int:
    metrics = run_dir / "metrics.csv"
    return metrics.read_text().count("\n") - 1 if metrics.exists() else 0


SHORT = ["seed=0,1", "grid=g", "total_env_steps=6000", "eval_episodes=2", "checkpoint.interval=2"]
LONG = ["seed=0,1", "grid=g", "total_env_steps=50000", "eval_episodes=2", "checkpoint.interval=5"]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of LONG, each by a single command."""
    return single_runs(LONG, tmp_path_factory.mktemp("single"))


def single_runs(line: list[str], folder: Path) -> Path:
    overrides = [text for text in line if not text.startswith(("seed", "grid"))]
    for seed in (0, 1):
        forked_python.run(
            [sys.executable, "-m", "rlkl", "train", f"seed={seed}", f"run_dir=seed{seed}",
             *overrides],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True,
            capture_output=True,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of SHORT, each by a single command."""
    return single_runs(SHORT, tmp_path_factory.mktemp("short"))


def assert_same_as_single(grid: Path, single: Path) -> None:
    for seed in (0, 1):
        assert_same_run(grid / f"seed{seed}", single / f"seed{seed}")


@pytest.mark.slow
def test_failed_jobs_stop_no_others_and_run_again(tmp_path: Path) -> None:
    line = [
        "env.id=mortal:Mortal-v0", "env.num_envs=2", "env.backend=sync", "grid=g",
        "env.kwargs.after=0,100", "env.kwargs.ending=error,killed", *TINY,
    ]  # fmt: skip
    code, printed, errors = finish(start(tmp_path, *line, "hydra.launcher.n_jobs=2"))
    assert code == 1
    failures = errors.splitlines()
    assert len(failures) == 2, errors
    for failure, reason in zip(failures, ("the motor burnt out", "killed by SIGKILL"), strict=True):
        assert failure.startswith("rlkl: failed: ")
        assert "env.kwargs.after=100" in failure
        assert reason in failure
    grid = tmp_path / "runs" / "grids" / "g"
    assert "grid g: 2 finished, 2 failed" in printed
    assert "to complete the grid, run the same command again: rlkl train -m" in printed
    log = grid / "env.kwargs.after_100-env.kwargs.ending_error" / "log.txt"
    assert str(log.relative_to(tmp_path)) in failures[0]
    assert "the motor burnt out" in log.read_text()
    finished = {path: path.stat().st_mtime_ns for path in grid.glob("*after_0*/**/*")}
    assert len(finished) > 10

    (tmp_path / "repaired").touch()
    code, printed, errors = finish(start(tmp_path, *line))
    assert (code, errors) == (0, "")
    assert "4 jobs: 2 already finished, 2 to resume, 0 to start" in printed
    assert {path: path.stat().st_mtime_ns for path in grid.glob("*after_0*/**/*")} == finished
    for path in grid.glob("*/summary.json"):
        assert json.loads(path.read_text())["status"] == "finished"
    assert len(list(grid.glob("*/summary.json"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_grid_equals_single_runs(number: int, tmp_path: Path, single: Path) -> None:
    grid = tmp_path / "runs" / "grids" / "g"
    process = start(tmp_path, *LONG, "hydra.launcher.n_jobs=2")
    wait_until(lambda: min(iterations(grid / "seed0"), iterations(grid / "seed1")) > 5, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    code, printed, errors = finish(process)
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert code == 130
        assert "stopping: running jobs finish their iteration and save" in printed
        assert "grid g: 0 finished, 2 stopped" in printed
    wait_until_gone(tmp_path)
    for seed in (0, 1):  # even after SIGKILL of the command
        summary = json.loads((grid / f"seed{seed}" / "summary.json").read_text())
        assert (summary["status"], summary["reason"]) == ("stopped", "interrupted")
        assert 5 < summary["iterations"] < 49

    code, printed, errors = finish(start(tmp_path, *LONG))
    assert (code, errors) == (0, "")
    assert "0 already finished, 2 to resume, 0 to start" in printed
    assert_same_as_single(grid, single)
    assert (grid / "seed0" / "resumed.yaml").exists()


def wait_until_gone(folder: Path) -> None:
    """Wait until no process has a folder as its working directory."""
    deadline = time.monotonic() + 60
    while found := working_in(folder):
        assert time.monotonic() < deadline, f"left behind: {found}"
        time.sleep(0.2)


def working_in(folder: Path) -> list[tuple[int, str]]:
    """Return id and command of the other processes with a folder as their working directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if path.name == str(os.getpid()):
            continue
        try:
            if (path / "cwd").readlink() == folder and (line := (path / "cmdline").read_text()):
                found.append((int(path.name), line.replace("\0", " ")))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_two_commands_run_each_job_once(tmp_path: Path, single: Path) -> None:
    both = [start(tmp_path, *LONG, "hydra.launcher.n_jobs=2") for _ in range(2)]
    ends = [finish(process) for process in both]
    grid = tmp_path / "runs" / "grids" / "g"
    assert_same_as_single(grid, single)
    for seed in (0, 1):
        assert not (grid / f"seed{seed}" / "resumed.yaml").exists()
        log = (grid / f"seed{seed}" / "log.txt").read_text()
        assert log.count("ppo_clip on CartPole-v1 ×") == 1
    taken = [line for _, _, errors in ends for line in errors.splitlines()]
    assert len(taken) == 2
    assert all(
        line.startswith("rlkl: taken: seed=") and "is in use by process" in line for line in taken
    )
    assert sum("2 finished" in printed.splitlines()[-1] for _, printed, _ in ends) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm_rehearsal", "ray_cluster", "basic", "joblib"])
def test_launcher_runs_are_identical_to_single_runs(
    launcher: str, tmp_path: Path, short: Path
) -> None:
    target = PLUGINS["launcher"][grid_launch.RLKL_LAUNCHERS.get(launcher, launcher)]
    if not find_spec(".".join(target.split(".")[:2])):
        pytest.skip(f"the extra of {launcher} is not installed")
    code, printed, errors = finish(start(tmp_path, *SHORT, f"hydra/launcher={launcher}"))
    assert code == 0, errors
    assert printed.endswith("grid g: 2 finished\n")
    assert_same_as_single(tmp_path / "runs" / "grids" / "g", short)
    (call,) = (tmp_path / "runs" / "grids" / "g" / "calls").iterdir()
    record = yaml.safe_load((call / "call.yaml").read_text())
    assert record["command"].endswith(f"hydra/launcher={launcher}")
    assert record["jobs"] == {"seed0": "not started", "seed1": "not started"}
    wait_until_gone(tmp_path)


@pytest.mark.slow
def test_job_interrupted_by_submitit_is_resumed(tmp_path: Path, single: Path) -> None:
    if not find_spec("hydra_plugins.hydra_submitit_launcher"):
        pytest.skip("the extra 'submitit' is not installed")
    grid = tmp_path / "runs" / "grids" / "g"
    process = start(tmp_path, *LONG, "hydra/launcher=slurm_rehearsal")
    wait_until(lambda: min(iterations(grid / "seed0"), iterations(grid / "seed1")) > 5, process)
    workers = [pid for pid, line in working_in(tmp_path) if "submitit.core._submit" in line]
    jobs = [int((grid / f"seed{seed}" / ".lock").read_text()) for seed in (0, 1)]
    for pid in set(workers) - set(jobs):
        os.kill(pid, signal.SIGUSR2)  # what Slurm sends before a job's time limit
    code, printed, errors = finish(process)
    assert code == 0, errors
    assert printed.endswith("grid g: 2 finished\n")
    assert_same_as_single(grid, single)
    for seed in (0, 1):
        (resumed,) = yaml.safe_load((grid / f"seed{seed}" / "resumed.yaml").read_text())
        assert resumed["checkpoint"] == "last.pt"  # saved at the interruption


@pytest.mark.slow
def test_existing_ray_cluster_is_used(tmp_path: Path) -> None:
    if not find_spec("ray"):
        pytest.skip("the extra 'ray' is not installed")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    arguments = ["start", "--head", "--num-cpus=2", "--include-dashboard=false", "--port=0"]
    arguments.append("--disable-usage-stats")
    subprocess.run([*ray, *arguments], capture_output=True, check=True)
    try:
        line = ["hydra/launcher=ray_cluster", "hydra.launcher.ray.init.address=auto"]
        code, printed, errors = finish(start(tmp_path, *SHORT, *line))
        assert code == 0, errors
        assert printed.endswith("grid g: 2 finished\n")
    finally:
        subprocess.run([*ray, "stop", "--force"], capture_output=True, check=False)


@pytest.mark.slow
def test_single_run_imports_no_launcher(tmp_path: Path) -> None:
    code = (
        "import sys; from rlkl.cli import main\n"
        "try: main(['train', 'total_env_steps=300', 'rollout_steps=16', 'logger=quiet'])\n"
        "except SystemExit: print([n for n in ('joblib', 'submitit', 'ray') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"

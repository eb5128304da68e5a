"""One job of a grid: its process, its status, and how a process ended."""

import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

import rlkl
from rlkl.tools.grid.call import Call, Status, new_call
from rlkl.tools.grid.job import JobRunner, describe_exit
from rlkl.utils.atomic_files import FolderLock


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """A call with a job whose run takes two iterations."""
    call = new_call(tmp_path / "grid")
    config = rlkl.TrainConfig(
        run_dir=str(tmp_path / "seed0"), total_env_steps=200, rollout_steps=16, eval_episodes=0
    )
    call.write("seed0", asdict(config))
    return call


def run(call: Call, working_dir: Path) -> Status:
    """Run the job from this process, as the basic launcher does."""
    before = Path.cwd()
    try:
        JobRunner(call, working_dir, os.getpid())(SimpleNamespace(job="seed0"))
    finally:
        os.chdir(before)
    return call.status("seed0")


def test_finished_job_leaves_a_log(call: Call, tmp_path: Path) -> None:
    assert run(call, tmp_path) == Status("finished")
    assert "ppo_clip on CartPole-v1" in (tmp_path / "seed0" / "log.txt").read_text()


@pytest.mark.slow
def test_job_of_another_process_is_taken(call: Call, tmp_path: Path) -> None:
    (tmp_path / "seed0").mkdir()
    lock = FolderLock(tmp_path / "seed0")
    status = run(call, tmp_path)
    lock.release()
    assert status.name == "taken"
    assert f"by process {os.getpid()}" in status.reason


@pytest.mark.slow
def test_folder_of_something_else_fails_the_job(call: Call, tmp_path: Path) -> None:
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / "notes.txt").touch()
    status = run(call, tmp_path)
    assert status.name == "failed"
    assert "is not the folder of a run" in status.reason


def test_no_job_starts_after_a_stop_request(call: Call, tmp_path: Path) -> None:
    call.request_stop()
    assert run(call, tmp_path) == Status("waiting")
    assert not (tmp_path / "seed0").exists()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "its process ended with exit code 3 and no message"),
        (-9, "its process was killed by SIGKILL (out of memory?)"),
        (-11, "its process was killed by SIGSEGV"),
    ],
)
def test_ends_of_processes_are_described(code: int, text: str) -> None:
    assert describe_exit(code) == text

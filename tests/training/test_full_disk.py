"""A disk that is really full, or may not be written to: one line, and what was good stays good."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from same_runs import assert_same_run
from test_resume import broken, config

import rlkl
from rlkl.training.checkpoint import load_checkpoint, numbered

pytestmark = pytest.mark.slow

MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
"""Runs a command that may mount, without being root, what nobody else sees."""

TRAIN = (
    "total_env_steps=3000 rollout_steps=16 eval_episodes=2 checkpoint.interval=2 "
    "checkpoint.keep=40 logger.progress=none"
)


@pytest.fixture(scope="module", autouse=True)
def may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("disk")
    command = [*MOUNTS, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if (
        shutil.which("unshare") is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here: user namespaces are not allowed")


def on_a_disk(folder: Path, room: int, command: str, options: str = "rw") -> tuple[int, str]:
    """Run a command where `folder/disk`, which may have a run, lies on a small disk of its own.

    Args:
        folder: what the command leaves in `disk/run` is copied to `folder/kept`.
        room: that is left on the disk, in KiB.
        command: behind `rlkl`.
        options: the disk is mounted with before the command.

    Returns:
        The exit code, and what was printed to standard error.
    """
    (folder / "disk").mkdir(exist_ok=True)
    script = f"""
        mv disk was
        mkdir disk
        mount -t tmpfs -o size=4m tmpfs disk
        cp -r was/. disk
        free=$(df --output=avail -k disk | tail -n 1)
        head -c $(((free - {room}) * 1024)) /dev/zero > disk/fill
        mount -o remount,{options} disk
        {sys.executable} -m rlkl {command} && code=0 || code=$?
        cp -r disk/run kept
        exit $code
    """
    root = Path(rlkl.__file__).parents[1]
    done = subprocess.run(
        [*MOUNTS, "sh", "-e", "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def check(told: tuple[int, str], reason: str) -> str:
    code, errors = told
    assert code == 1
    assert errors.startswith("rlkl: FolderError: /")
    assert f"/disk/run cannot be written to: {reason}; " in errors
    assert errors.count("\n") == 1
    return errors


@pytest.mark.parametrize(
    # Full at the lock, the config, the events, the first checkpoint, a later one, some row.
    "room",
    [0, 4, 12, 40, 300, 900],
)
def test_training_on_a_full_disk(room: int, tmp_path: Path) -> None:
    errors = check(
        on_a_disk(tmp_path, room, f"train run_dir=disk/run {TRAIN}"), "No space left on device"
    )
    kept = numbered(tmp_path / "kept" / "checkpoints")
    for path in kept:
        load_checkpoint(path)
    assert bool(kept) == (room >= 300) == ("rlkl resume /" in errors)
    if kept:
        assert f"disk/run/checkpoints/{kept[0].name} is complete" in errors
        summary = rlkl.resume(tmp_path / "kept")
        assert summary.status == "finished"
        assert summary.env_steps >= 3000


@pytest.mark.parametrize(
    ("room", "options", "reason"),
    [
        (0, "rw", "No space left on device"),
        (12, "rw", "No space left on device"),
        (60, "rw", "No space left on device"),
        (60, "ro", "Read-only file system"),
    ],
)
def test_resuming_on_a_disk_that_takes_no_more(
    room: int, options: str, reason: str, tmp_path: Path
) -> None:
    more = {"rollout_steps": 64, "total_env_steps": 2000}
    rlkl.train(config(tmp_path / "whole", **more))
    (tmp_path / "disk").mkdir()
    run = broken(config(tmp_path / "disk" / "run", **more), at=6)
    assert numbered(run / "checkpoints")
    errors = check(on_a_disk(tmp_path, room, "resume disk/run", options), reason)
    newest = numbered(tmp_path / "kept" / "checkpoints")[0]
    assert f"{newest.name} is complete" in errors
    rlkl.resume(tmp_path / "kept")
    assert_same_run(tmp_path / "whole", tmp_path / "kept")

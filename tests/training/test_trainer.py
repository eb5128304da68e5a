"""Training and completing runs; tests of resuming are in `test_resume.py`."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from same_runs import assert_same_run
from test_resume import broken, config

import rlkl
from rlkl.training.trainer import complete
from rlkl.utils.atomic_files import FolderLock, FolderTakenError, make_locked_folder


def test_failed_construction_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for changes in ({"device": "cuda:99"}, {"env": rlkl.EnvConfig("CartPole-v77")}):
        with pytest.raises(rlkl.ConfigError):
            rlkl.Trainer(rlkl.TrainConfig(**changes))
    assert list(tmp_path.iterdir()) == []


def written(run_dir: Path, given: rlkl.TrainConfig, **summary: object) -> None:
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(given)))
    if summary:
        (run_dir / "summary.json").write_text(json.dumps(summary))


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_complete_starts_resumes_or_skips_a_run(tmp_path: Path) -> None:
    alone = config(tmp_path / "alone")
    assert rlkl.train(alone).run_dir == tmp_path / "alone"
    assert "run_dir" not in json.loads((tmp_path / "alone" / "summary.json").read_text())
    told: list[Path] = []

    started = config(tmp_path / "started")
    summary = complete(started, claimed=told.append)
    assert told == [tmp_path / "started"]
    assert_same_run(tmp_path / "alone", tmp_path / "started")

    before = content(tmp_path / "started")
    assert complete(started) == summary
    assert content(tmp_path / "started") == before

    lost = config(tmp_path / "lost")
    broken(lost, at=5)
    complete(lost)
    assert_same_run(tmp_path / "alone", tmp_path / "lost")
    assert (tmp_path / "lost" / "resumed.yaml").exists()

    early = config(tmp_path / "early")
    written(tmp_path / "early", early)  # killed before its first checkpoint
    complete(early)
    assert_same_run(tmp_path / "alone", tmp_path / "early")
    assert (tmp_path / "early" / "before-1" / "config.yaml").exists()


@contextmanager
def someone_else_in(folder: Path) -> Iterator[int]:
    """Let another process have the lock of a folder."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lock = FolderLock(folder)  # lives as long as its name
        os.write(writer, b"!" if lock else b"")
        os.close(writer)
        signal.pause()
    os.read(reader, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_complete_refuses_a_locked_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_locked_folder(run)
    told: list[Path] = []
    with (
        someone_else_in(run) as child,
        pytest.raises(FolderTakenError, match=f"in use by process {child}"),
    ):
        complete(config(run), claimed=told.append)
    assert told == []
    assert {path.name for path in run.iterdir()} == {".lock"}

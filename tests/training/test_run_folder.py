"""The folder of a run: its name, and errors of one line."""

import errno
from pathlib import Path

import pytest

import rlkl
from rlkl.training.run_folder import FolderError, check_folder, make_run_dir, writing


def test_runs_of_one_second_get_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {make_run_dir(None, "a:b/C-v0", "trpo", 5) for _ in range(5)}
    assert len(paths) == 5
    assert all(path.parent == Path("runs/b_C-v0/trpo") for path in paths)


def test_chosen_folder_is_made_once(tmp_path: Path) -> None:
    assert make_run_dir("a/run", "C-v0", "trpo", 5, tmp_path) == Path("a/run")
    assert (tmp_path / "a" / "run").is_dir()
    with pytest.raises(rlkl.ConfigError, match=r"^run_dir=a/run exists already and is not over"):
        make_run_dir("a/run", "C-v0", "trpo", 5, tmp_path)


def test_default_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(rlkl.ConfigError, match=r"^run_dir=runs/C-v0/trpo/.* cannot be made: Not a"):
        make_run_dir(None, "C-v0", "trpo", 5, tmp_path)


def test_folders_are_checked_without_making_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check_folder("to", "a/b", tmp_path) == Path("a/b")
    assert check_folder("to", "a/../b", tmp_path) == tmp_path / "b"
    with pytest.raises(
        rlkl.ConfigError, match=r"^to=file/a cannot be made: .*file is not a folder"
    ):
        check_folder("to", "file/a", tmp_path)
    with pytest.raises(rlkl.ConfigError, match=r"^to=' ': expected at least one character"):
        check_folder("to", " ", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_write_error_names_the_last_checkpoint(tmp_path: Path) -> None:
    def fail() -> None:
        with writing(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FolderError, match=r"No space left on device; it has no checkpoint yet$"):
        fail()
    (tmp_path / "checkpoints").mkdir()
    for env_steps in (90, 1000):
        (tmp_path / "checkpoints" / f"step_{env_steps}.pt").touch()
    with pytest.raises(FolderError, match=rf"step_1000\.pt is complete; .* resume {tmp_path}$"):
        fail()

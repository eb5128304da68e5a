"""What is to be on the disk is there, and a folder is one process's at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlkl.durable import FolderLock, sync, write_durably
from rlkl.validation import ConfigError

HOLDS = (
    "import fcntl, sys\n"
    "file = open(sys.argv[1], 'a')\n"
    "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "file.truncate(0)\n"
    "print('7', file=file, flush=True)\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
)
"""Another process that takes the lock of a folder, until nobody writes to it any more."""


def holder(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDS, str(folder / ".lock")]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_all_of_a_file_is_there_when_it_is_put_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
    write_durably(tmp_path / "file", b"x" * 77)
    assert sizes[0] == 77
    assert (tmp_path / "file").read_bytes() == b"x" * 77
    sizes.clear()
    with (tmp_path / "text").open("a") as file:
        file.write("y" * 33)
        sync(file)
    assert sizes == [33]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"before")
    (tmp_path / "file.partial").mkdir()  # where it would be written first
    with pytest.raises(IsADirectoryError):
        write_durably(path, b"after")
    assert path.read_bytes() == b"before"


def test_a_folder_is_one_process_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    _, errors = holder(tmp_path).communicate("")
    assert "BlockingIOError" in errors
    # Not before: a process that closes a file loses its locks of it.
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    other = holder(tmp_path)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    files = open_files()
    with pytest.raises(ConfigError, match=rf"^{tmp_path} is in use by process 7; wait"):
        FolderLock(tmp_path)
    assert open_files() == files
    other.communicate("")
    FolderLock(tmp_path).release()


def test_a_lock_that_cannot_say_whose_it_is_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", full)
        lock = FolderLock(tmp_path)
    _, errors = holder(tmp_path).communicate("")
    assert "BlockingIOError" in errors
    lock.release()

"""What is to be on the disk is there, and a folder is one process's at a time."""

import os
import re
import secrets
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rlkl.utils.atomic_files import (
    FolderLock,
    FolderTakenError,
    open_unlinked,
    remove_partials,
    sync,
    write_durably,
)
from rlkl.utils.validation import ConfigError

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
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match="directory"):
        write_durably(path, b"after")
    assert list(tmp_path.iterdir()) == [path]
    assert [inside.name for inside in path.iterdir()] == ["inside"]


def test_a_writer_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "start-up"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "file").symlink_to(victim)
    (folder / "file.partial").symlink_to(victim)
    write_durably(folder / "file", b"theirs")
    assert victim.read_text() == "mine"
    assert not (folder / "file").is_symlink()
    # Even under the right name nothing is written through a link.
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 16)
    (folder / "file.0000000000000000.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_durably(folder / "file", b"theirs again")
    assert victim.read_text() == "mine"
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(ConfigError, match=r"\.lock is a symbolic link, and rlkl writes to"):
        FolderLock(folder)
    assert victim.read_text() == "mine"
    with pytest.raises(OSError, match="symbolic"):
        open_unlinked(folder / ".lock", os.O_WRONLY | os.O_CREAT, "w")


def test_partial_names_cannot_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: seen.extend(path.name for path in tmp_path.glob("*.partial"))
    )
    for _ in range(2):
        write_durably(tmp_path / "last.pt", b"x")
    assert len(set(seen)) == 2
    assert all(re.fullmatch(r"last\.pt\.[0-9a-f]{16}\.partial", name) for name in seen)


def test_left_overs_of_killed_writers_alone_are_removed(tmp_path: Path) -> None:
    for name in ("last.pt.0123456789abcdef.partial", "mine.partial", "last.pt", "x.partial.pt"):
        (tmp_path / name).touch()
    (tmp_path / f"y.{'f' * 16}.partial").symlink_to(tmp_path / "last.pt")
    remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last.pt",
        "mine.partial",
        "x.partial.pt",
    ]


def test_a_file_keeps_the_permissions_of_its_creator(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_durably(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


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


def test_a_folder_is_one_training_at_a_time_within_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "run", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    lock = FolderLock(folder)
    files = open_files()
    for spelling in (folder, link, Path("run"), Path("run/../link")):
        with pytest.raises(FolderTakenError, match=rf"process {os.getpid()}, which is this one"):
            FolderLock(spelling)
    assert open_files() == files
    # A refused second call does not free it for another process.
    _, errors = holder(folder).communicate("")
    assert "BlockingIOError" in errors
    lock.release()
    again = FolderLock(link)
    lock.release()  # a second time; the folder is not its own any more
    with pytest.raises(FolderTakenError):
        FolderLock(folder)
    del again  # one that was dropped holds nothing up
    FolderLock(folder).release()


def test_a_fork_has_no_lock_of_its_parent(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other tests' threads
        child = os.fork()
    if child == 0:  # nothing of pytest may run in it
        said = "taken"
        try:
            FolderLock(tmp_path)
            said = "held"
        except FolderTakenError as error:
            said = str(error)
        os.write(write, said.encode())
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read().endswith(
            f"in use by process {os.getpid()}; wait for its end, or stop it"
        )
    _, errors = holder(tmp_path).communicate("")
    assert "BlockingIOError" in errors
    lock.release()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"rm -rf\n", b"", b"9" * 5000])
def test_a_lock_of_strange_content_is_of_an_unknown_process(content: bytes, tmp_path: Path) -> None:
    other = holder(tmp_path)
    assert other.stdout is not None
    other.stdout.readline()
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(FolderTakenError, match=r"in use by process (unknown|9{20});"):
        FolderLock(tmp_path)
    other.communicate("")


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

"""Files are written atomically, and one process at a time uses a folder."""

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
    open_nofollow,
    remove_partials,
    sync,
    write_durably,
)
from rlkl.utils.errors import ConfigError

LOCK_UNTIL_EOF = (
    "import fcntl, sys\n"
    "file = open(sys.argv[1], 'a')\n"
    "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "file.truncate(0)\n"
    "print('7', file=file, flush=True)\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
)


def lock_in_another_process(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of a folder until its standard input is closed."""
    command = [sys.executable, "-c", LOCK_UNTIL_EOF, str(folder / ".lock")]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def assert_locked(folder: Path) -> None:
    _, errors = lock_in_another_process(folder).communicate("")
    assert "BlockingIOError" in errors


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_whole_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match="directory"):
        write_durably(path, b"after")
    assert list(tmp_path.iterdir()) == [path]
    assert [inside.name for inside in path.iterdir()] == ["inside"]


def test_writer_follows_no_symbolic_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "start-up"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "file").symlink_to(victim)
    (folder / "file.partial").symlink_to(victim)
    write_durably(folder / "file", b"theirs")
    assert victim.read_text() == "mine"
    assert not (folder / "file").is_symlink()
    # Not even if the temporary name is guessed.
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 16)
    (folder / "file.0000000000000000.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_durably(folder / "file", b"theirs again")
    assert victim.read_text() == "mine"
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(ConfigError, match=r"\.lock is a symbolic link: replace it"):
        FolderLock(folder)
    assert victim.read_text() == "mine"
    with pytest.raises(OSError, match="symbolic"):
        open_nofollow(folder / ".lock", os.O_WRONLY | os.O_CREAT, "w")


def test_partial_names_cannot_be_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: names.extend(path.name for path in tmp_path.glob("*.partial"))
    )
    for _ in range(2):
        write_durably(tmp_path / "last.pt", b"x")
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"last\.pt\.[0-9a-f]{16}\.partial", name) for name in names)


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in ("last.pt.0123456789abcdef.partial", "mine.partial", "last.pt", "x.partial.pt"):
        (tmp_path / name).touch()
    (tmp_path / f"y.{'f' * 16}.partial").symlink_to(tmp_path / "last.pt")
    remove_partials(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["last.pt", "mine.partial", "x.partial.pt"]


def test_written_file_respects_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_durably(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_lock_excludes_other_processes(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert_locked(tmp_path)
    # Read only now: a process that closes a file releases its locks of it.
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    other = lock_in_another_process(tmp_path)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    files = open_files()
    with pytest.raises(ConfigError, match=rf"^{tmp_path} is in use by process 7; wait"):
        FolderLock(tmp_path)
    assert open_files() == files
    other.communicate("")
    FolderLock(tmp_path).release()


def test_lock_excludes_other_trainings_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "run", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    lock = FolderLock(folder)
    files = open_files()
    for spelling in (folder, link, Path("run"), Path("run/../link")):
        with pytest.raises(FolderTakenError, match=rf"by this process \({os.getpid()}\)"):
            FolderLock(spelling)
    assert open_files() == files
    assert_locked(folder)  # also after a rejected second lock
    lock.release()
    again = FolderLock(link)
    lock.release()  # does nothing, because it does not hold the folder any more
    with pytest.raises(FolderTakenError):
        FolderLock(folder)
    del again  # releases the lock
    FolderLock(folder).release()


def test_fork_inherits_no_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests
        child = os.fork()
    if child == 0:  # no code of pytest may run in it
        try:
            FolderLock(tmp_path)
            message = "not locked"
        except FolderTakenError as error:
            message = str(error)
        os.write(write, message.encode())
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert f"in use by process {os.getpid()}; wait until it has ended" in pipe.read()
    assert_locked(tmp_path)
    lock.release()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"rm -rf\n", b"", b"9" * 5000])
def test_lock_with_invalid_content_still_excludes(content: bytes, tmp_path: Path) -> None:
    other = lock_in_another_process(tmp_path)
    assert other.stdout is not None
    other.stdout.readline()
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(FolderTakenError, match=r"in use by process (unknown|9{20});"):
        FolderLock(tmp_path)
    other.communicate("")


def test_lock_holds_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", full)
        lock = FolderLock(tmp_path)
    assert_locked(tmp_path)
    lock.release()

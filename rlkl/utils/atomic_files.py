"""Atomic writes of files that survive a crash, and locks of run folders."""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rlkl.utils.errors import ConfigError

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "rlkl runs on POSIX systems, such as Linux and macOS; on Windows use it within WSL"
    ) from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file atomically: write and sync a temporary file in its folder, then rename it.

    Raises:
        OSError: the file cannot be written; an older version of it is unchanged.
    """
    # The name is random, because in an untrusted folder a known name could be a symbolic link.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with open_nofollow(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb") as file:
            file.write(content)
            sync(file)
        partial.replace(path)
    except OSError:
        with suppress(OSError):  # free the space on a full disk
            partial.unlink()
        raise
    # The rename is an entry of the folder, which needs its own sync.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_plain_path(path: Path, *, folder: bool = False) -> None:
    """Raise ConfigError unless a path to write to is unused, or a regular file (or a real folder).

    In an untrusted folder it could be a link to a file elsewhere, or a pipe that blocks the writer.
    """
    is_link = path.is_symlink()
    if is_link or (path.exists() and not (path.is_dir() if folder else path.is_file())):
        kind = "folder" if folder else "file"
        found = "is a symbolic link" if is_link else f"is not a {kind}"
        raise ConfigError(f"{path} {found}: replace it with a real {kind}, or remove it")


def open_nofollow(path: Path, flags: int, mode: str, **kwargs: Any) -> IO[Any]:
    """Open a file with the flags of `os.open`, and the mode and keywords of `open`.

    Raises:
        OSError: it is a symbolic link, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    return os.fdopen(descriptor, mode, **kwargs)


def unused_name(path: Path, word: str) -> Path:
    """Return the first unused name `NAME.word-1`, `NAME.word-2`, ... beside a file."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.{word}-{number}")):
        number += 1
    return free


def remove_partials(folder: Path) -> None:
    """Remove temporary files of killed writers from a folder that this process owns."""
    for path in folder.glob(f"*.{'[0-9a-f]' * 16}.partial"):  # as `write_durably` names them
        path.unlink(missing_ok=True)


def sync(file: IO[Any]) -> None:
    """Flush a file to the disk, so that it survives a loss of power."""
    file.flush()
    os.fsync(file.fileno())


def make_locked_folder(folder: Path) -> None:
    """Create a folder together with its lock file, unless the folder exists.

    No process ever sees the folder without the file, so every process can tell whose it is.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    (temporary / ".lock").touch()
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        (temporary / ".lock").unlink()
        temporary.rmdir()


class FolderTracker:
    """Finds an existing folder after it was moved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def current_path(self) -> Path | None:
        """Return the path of the folder, or None if it was deleted or the system does not tell."""
        own = os.fstat(self._descriptor)
        with suppress(OSError):
            if os.path.samestat(own, self._folder.stat()):
                return self._folder
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{self._descriptor}").readlink()
            if os.path.samestat(own, moved.stat()):
                return moved
        return None

    def close(self) -> None:
        """Stop tracking."""
        os.close(self._descriptor)


class FolderTakenError(ConfigError):
    """Another process, or another thread of this one, uses the run folder."""


class FolderLock:
    """Locks an existing run folder for one training, at most until the process ends.

    The processes of environments, which may outlive a killed trainer, do not inherit POSIX record
    locks. But such locks do not exclude each other within a process, and closing the file once
    releases them, so each process also keeps a list of its folders.

    Raises:
        FolderTakenError: another process, or another thread of this one, holds the lock.
        ConfigError: the lock is not a regular file.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[Any] | None = None
        self._token = object()  # not self, which _HELD would keep alive
        status = folder.stat()
        self._key = status.st_dev, status.st_ino  # the same for every path to the folder
        if _HELD.setdefault(self._key, self._token) is not self._token:
            raise FolderTakenError(
                f"{folder} is in use by this process ({os.getpid()}); "
                "wait until its other training has ended"
            )
        try:
            self._lock(folder)
        except BaseException:
            self.release()
            raise

    def _lock(self, folder: Path) -> None:
        path = folder / ".lock"
        check_plain_path(path)
        # Unbuffered: on a full disk a buffer would fail a second time on close.
        self._file = open_nofollow(path, os.O_RDWR | os.O_CREAT, "r+b", buffering=0)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            holder = self._file.read(20).decode("ascii", "replace").strip()
            raise FolderTakenError(
                f"{folder} is in use by process {holder if holder.isdecimal() else 'unknown'}; "
                "wait until it has ended, or stop it"
            ) from None
        self._file.truncate(0)
        with suppress(OSError):  # the lock holds without the number
            self._file.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
        if _HELD.get(self._key) is self._token:
            del _HELD[self._key]

    def __del__(self) -> None:
        """Release a lock that was not released explicitly."""
        if hasattr(self, "_key"):
            self.release()


_HELD: dict[tuple[int, int], object] = {}
"""Device and inode of each folder that this process has locked. A fork holds none."""

os.register_at_fork(after_in_child=_HELD.clear)

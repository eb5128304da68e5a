"""Files that are whole at every moment: a crash at any byte leaves what was there before."""

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rlkl.utils.validation import ConfigError

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "rlkl runs on POSIX systems, such as Linux and macOS; on Windows use it within WSL"
    ) from error

PARTIAL = ".partial"
"""Ending of a file that is being written."""

_PARTIAL_NAME = re.compile(r"\.[0-9a-f]{16}\.partial$")


def write_durably(path: Path, content: bytes) -> None:
    """Write a file under another name, put it on the disk, and only then give it its own.

    Args:
        path: of the file; its folder exists.
        content: all of it.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    # In a stranger's folder a name that can be guessed could be a link to a file elsewhere.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        with open_unlinked(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb") as file:
            file.write(content)
            sync(file)
        partial.replace(path)
    except OSError:
        with suppress(OSError):  # a full disk needs the space back
            partial.unlink()
        raise
    # The new name is an entry of the folder, which is written on its own.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_own(path: Path, *, folder: bool = False) -> None:
    """Raise unless a path that is to be written to is free, or a file or folder of its own.

    In a stranger's folder it could be a link, through which a file elsewhere would be written, or
    a pipe, for whose reader a writer would wait.

    Args:
        path: of the file or folder.
        folder: whether it is to be a folder.

    Raises:
        ConfigError: it is something else.
    """
    is_link = path.is_symlink()
    if is_link or (path.exists() and not (path.is_dir() if folder else path.is_file())):
        found = "is a symbolic link" if is_link else "is something else"
        what = "folder" if folder else "file"
        raise ConfigError(
            f"{path} {found}, and rlkl writes to a {what} of its own alone; put the {what} itself "
            "there, or remove it"
        )


def open_unlinked(path: Path, flags: int, mode: str, **given: Any) -> IO[Any]:
    """Open a file that is no symbolic link.

    Args:
        path: of the file.
        flags: as `os.open` takes them.
        mode: as `open` takes it.
        **given: as `open` takes it.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    return os.fdopen(number, mode, **given)


def unused(path: Path, word: str) -> Path:
    """Return a name beside a file that is free, to set the file aside: `NAME.word-1`, ..."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.{word}-{number}")):
        number += 1
    return free


def remove_partials(folder: Path) -> None:
    """Remove what writers that were killed left in a folder that belongs to this process."""
    for path in folder.glob(f"*{PARTIAL}"):
        if _PARTIAL_NAME.search(path.name):
            path.unlink(missing_ok=True)


def sync(file: IO[Any]) -> None:
    """Put what was written to a file on the disk, where a loss of power leaves it."""
    file.flush()
    os.fsync(file.fileno())


def make_locked(folder: Path) -> None:
    """Make a folder that has its lock's file from its first moment, unless it is there already.

    So nobody ever meets one that is empty and cannot tell whose it is.
    """
    unnamed = folder.with_name(f".{folder.name}.{os.getpid()}")
    unnamed.mkdir(parents=True)
    (unnamed / ".lock").touch()
    try:
        unnamed.rename(folder)
    except OSError:  # somebody else was faster
        (unnamed / ".lock").unlink()
        unnamed.rmdir()


class Whereabouts:
    """Finds a folder again that is moved while a run writes to it.

    Args:
        folder: exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def now(self) -> Path | None:
        """Return where the folder is; None if it was deleted, or the system does not say."""
        own = os.fstat(self._number)
        with suppress(OSError):
            if os.path.samestat(own, self._folder.stat()):
                return self._folder
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{self._number}").readlink()
            if os.path.samestat(own, moved.stat()):
                return moved
        return None

    def close(self) -> None:
        """Forget the folder."""
        os.close(self._number)


class FolderTakenError(ConfigError):
    """Another process, or another thread of this one, is at work in a run's folder."""


class FolderLock:
    """Keeps a run's folder for one training; it ends with the process, however that ends.

    Locks of this kind are not inherited by the processes of environments, which may outlive a
    trainer that was killed. But they hold nothing up within a process, and end when it closes the
    file for the first time, so each process also keeps a list of the folders that it has.

    Args:
        folder: exists.

    Raises:
        FolderTakenError: another process has it, or another thread of this one.
        ConfigError: its lock is not a regular file.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[Any] | None = None
        self._token = object()  # not the lock itself, which ends when it is dropped
        there = folder.stat()
        self._key = there.st_dev, there.st_ino  # the same however the folder is spelled
        if _HELD.setdefault(self._key, self._token) is not self._token:
            raise FolderTakenError(
                f"{folder} is in use by process {os.getpid()}, which is this one; "
                "wait for the end of its other training"
            )
        try:
            self._lock(folder)
        except BaseException:
            self.release()
            raise

    def _lock(self, folder: Path) -> None:
        path = folder / ".lock"
        check_own(path)
        # Without a buffer, which on a full disk would fail a second time when it is closed.
        self._file = open_unlinked(path, os.O_RDWR | os.O_CREAT, "r+b", buffering=0)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            holder = self._file.read(20).decode("ascii", "replace").strip()
            raise FolderTakenError(
                f"{folder} is in use by process {holder if holder.isdecimal() else 'unknown'}; "
                "wait for its end, or stop it"
            ) from None
        self._file.truncate(0)
        with suppress(OSError):  # the lock is held, whether or not it says by whom
            self._file.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self._file.close()
        if _HELD.get(self._key) is self._token:
            del _HELD[self._key]

    def __del__(self) -> None:
        """Let others have the folder of a lock that was dropped."""
        if hasattr(self, "_key"):
            self.release()


_HELD: dict[tuple[int, int], object] = {}
"""Device and inode of each folder that this process has. A fork has none of them."""

os.register_at_fork(after_in_child=_HELD.clear)

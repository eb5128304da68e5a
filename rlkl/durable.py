"""Files that are whole at every moment: a crash at any byte leaves what was there before."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rlkl.validation import ConfigError

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "rlkl runs on POSIX systems, such as Linux and macOS; on Windows use it within WSL"
    ) from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file under another name, put it on the disk, and only then give it its own.

    Args:
        path: of the file; its folder exists.
        content: all of it.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            sync(file)
        partial.replace(path)
    except OSError:
        with suppress(OSError):  # a full disk wants the room back
            partial.unlink()
        raise
    # The new name is an entry of the folder, which is written on its own.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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


class FolderTakenError(ConfigError):
    """Another process is at work in a run's folder."""


class FolderLock:
    """Keeps a run's folder for one process; it ends with the process, however that ends.

    Locks of this kind are not inherited by the processes of environments, which may outlive a
    trainer that was killed.

    Args:
        folder: exists.

    Raises:
        FolderTakenError: another process has it.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        # Without a buffer, which on a full disk would fail a second time when it is closed.
        self._file = (folder / ".lock").open("a+b", buffering=0)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().decode().strip() or "unknown"
            self._file.close()
            raise FolderTakenError(
                f"{folder} is in use by process {holder}; wait for its end, or stop it"
            ) from None
        self._file.truncate(0)
        with suppress(OSError):  # the lock is held, whether or not it says by whom
            self._file.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have the folder."""
        self._file.close()

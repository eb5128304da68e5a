"""Files that are whole at every moment, and files of strangers that are read within bounds."""

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

from rlkl.validation import ConfigError, one_line

try:
    import fcntl
except ImportError as error:
    raise ImportError(
        "rlkl runs on POSIX systems, such as Linux and macOS; on Windows use it within WSL"
    ) from error

MOST_BYTES = 2**20
"""Of a YAML or JSON file; those of a run have a few thousand."""

MOST_ENTRIES, MOST_DEPTH, MOST_LETTERS = 20_000, 50, 100_000
"""Of a YAML file: values when aliases are replaced by their content, levels, letters of a value."""


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


class MissingFileError(ConfigError):
    """A file that is to be read is not there."""


def read_bytes(path: Path, *, at_most: int) -> bytes:
    """Read a regular file of bounded size; never wait for a pipe or read from a device.

    Args:
        path: of the file, or of a link to it.
        at_most: bytes.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is another kind of file, too large, or cannot be read.
    """
    try:
        # Before it is opened: to open some devices is to start something.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} cannot be read: expected a regular file")
        # Should a pipe have taken its place since, opening it does not wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{path} cannot be read: expected a regular file")
            content = file.read(at_most + 1)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # NUL in its name
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if len(content) > at_most:
        raise ConfigError(f"{path} cannot be read: it is larger than {at_most:,} bytes")
    return content


def read_text(path: Path, *, at_most: int, errors: str = "strict") -> str:
    """Read a regular file of bounded size as UTF-8.

    Args:
        path: of the file, or of a link to it.
        at_most: bytes.
        errors: what becomes of bytes that are not UTF-8, as `bytes.decode` takes it.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: as of `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, at_most=at_most).decode(errors=errors)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: it is not UTF-8") from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file whose size, depth and aliases are bounded, so that reading it is quick.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: as of `read_text`, it is not YAML, or it exceeds a bound.
    """
    text = read_text(path, at_most=MOST_BYTES)
    try:
        _check_yaml(text)
        return yaml.safe_load(text)
    except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {_yaml_problem(error)}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: as of `read_text`, or it is not JSON.
    """
    text = read_text(path, at_most=MOST_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error


def _check_yaml(text: str) -> None:
    """Raise unless a YAML text stays small and shallow when every alias is replaced by its content.

    Raises:
        ValueError: saying which bound it exceeds.
        yaml.YAMLError: it is not YAML.
    """
    total = 0
    sizes: dict[str, int] = {}
    open_anchors: list[tuple[str, int]] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"alias *{event.anchor} stands for nothing, or contains itself")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MOST_LETTERS:
                raise ValueError(f"a value in it has more than {MOST_LETTERS:,} letters")
            event.value.encode()  # half a surrogate pair is no text
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append((event.anchor or "", total))
            total += 1
            sizes.pop(event.anchor or "", None)  # until it ends
            if len(open_anchors) > MOST_DEPTH:
                raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES:,} entries")


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {one_line(ValueError(error.problem))}"
    return one_line(error)

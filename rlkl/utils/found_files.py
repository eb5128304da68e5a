"""Reads files and walks folders that may come from strangers, within bounds."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from rlkl.utils.validation import ConfigError, one_line

MOST_TABLE_BYTES, MOST_LINE_BYTES = 2**30, 2**17
"""Of a table; of each of its lines. Rows of a run have less than a thousand bytes."""

MOST_BYTES = 2**20
"""Of a YAML or JSON file; those of a run have a few thousand."""

MOST_ENTRIES, MOST_DEPTH, MOST_LETTERS = 20_000, 50, 100_000
"""Of a YAML file: values when aliases are replaced by their content, levels, letters of a value."""

MOST_BEHIND_A_LINK = 10_000
"""Folders that are looked at behind a link, which may lead to all files of a machine."""


SEEN = "it leads to a folder that was seen before"
"""Why a link is not followed that adds nothing."""


def walk(place: Path, passed: dict[Path, str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder at or below a place once, with its folders and its other entries.

    Folders come before links to folders, so that each is found by its own name. The caller may
    remove folders from the list, which are not entered then.

    Args:
        place: where to begin.
        passed: gets the links that were not followed to their end, and why.
    """
    seen: set[tuple[int, int]] = set()
    # Folder, the link that led there, and the folders that the way there has.
    open_folders: list[tuple[Path, Path | None, frozenset[tuple[int, int]]]] = [
        (place, None, frozenset())
    ]
    behind: dict[Path, int] = {}
    while open_folders:
        folder, link, above = open_folders.pop()
        try:
            there = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        key = there.st_dev, there.st_ino
        if key in seen:
            if folder.is_symlink():
                passed[folder] = "it leads to a folder above it" if key in above else SEEN
            continue
        seen.add(key)
        if link is not None:
            behind[link] = behind.get(link, 0) + 1
            if behind[link] > MOST_BEHIND_A_LINK:
                passed[link] = f"it leads to more than {MOST_BEHIND_A_LINK:,} folders"
                continue
        links = {entry.name for entry in entries if entry.is_symlink()}
        inside = [entry.name for entry in entries if _is_folder(entry)]
        yield folder, inside, [entry.name for entry in entries if not _is_folder(entry)]
        # The last is taken first.
        for name in sorted(inside, key=lambda name: (name in links, name), reverse=True):
            led = link or (folder / name if name in links else None)
            open_folders.append((folder / name, led, above | {key}))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_regular(path: Path) -> bool:
    """Return whether a path is a file, or a link to one: no folder, pipe or device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


class MissingFileError(ConfigError):
    """A file that is to be read is not there."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system refuses to show within into one line.

    Raises:
        ConfigError: something could not be looked at.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a regular file, and yield it with its size; never wait for a pipe or start a device.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is another kind of file, or cannot be read.
    """
    try:
        # Before it is opened: to open some devices is to start something.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} cannot be read: expected a regular file")
        # Should a pipe have taken its place since, opening it does not wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            there = os.fstat(file.fileno())
            if not stat.S_ISREG(there.st_mode):
                raise ConfigError(f"{path} cannot be read: expected a regular file")
            yield file, there.st_size
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # NUL in its name
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}") from error


def read_bytes(path: Path, *, at_most: int) -> bytes:
    """Read a regular file of bounded size.

    Args:
        path: of the file, or of a link to it.
        at_most: bytes.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is another kind of file, too large, or cannot be read.
    """
    with _opened(path) as (file, size):
        content = file.read(min(size, at_most) + 1)  # as much is allocated
    if len(content) > at_most:
        raise ConfigError(f"{path} cannot be read: it is larger than {at_most:,} bytes")
    return content


def read_text(path: Path, *, at_most: int, errors: str = "strict") -> str:
    """Read a regular file of bounded size as UTF-8.

    Args:
        path: of the file, or of a link to it.
        at_most: bytes.
        errors: how bytes that are not UTF-8 are handled; see `bytes.decode`.

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


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a table one by one; a last line without an end is left out.

    Args:
        path: of a regular file, or of a link to it.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is another kind of file, or has more bytes, or a longer line, than a table
            of rlkl.
    """
    with _opened(path) as (file, size):
        if size > MOST_TABLE_BYTES:
            raise ConfigError(
                f"{path} cannot be read: it is larger than {MOST_TABLE_BYTES:,} bytes"
            )
        left = size  # of a file that is being written, what there was
        while left > 0 and (line := file.readline(min(MOST_LINE_BYTES, left))):
            left -= len(line)
            if line.endswith(b"\n"):
                yield line.rstrip(b"\r\n")
            elif len(line) == MOST_LINE_BYTES:
                raise ConfigError(
                    f"{path} cannot be read: a line has more than {MOST_LINE_BYTES:,} bytes"
                )

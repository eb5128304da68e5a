"""Reads files and walks folders of untrusted origin, within bounds."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import one_line

MAX_TABLE_BYTES, MAX_LINE_BYTES = 2**30, 2**17
"""Of a CSV table, and of each line, which usually has less than a thousand bytes."""

MAX_BYTES = 2**20
"""Of a YAML or JSON file, which usually has a few thousand."""

MAX_ENTRIES, MAX_DEPTH, MAX_SCALAR_LENGTH = 20_000, 50, 100_000
"""Of a YAML file: values after aliases are expanded, levels, and characters of one value."""

MAX_LINKED_FOLDERS = 10_000
"""Folders to visit behind one symbolic link, which may lead to a whole disk."""

ALREADY_VISITED = "it leads to a folder that was visited before"
"""Reason not to follow a link that adds nothing."""


def walk(root: Path, skipped: dict[Path, str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder at or below the root once, with its subfolders and its other entries.

    Real folders are visited before links to folders, so that each appears under its own name. The
    caller may remove subfolders from the list to skip them. `skipped` gets the links that were not
    followed completely, and why.
    """
    visited: set[tuple[int, int]] = set()
    # Folder, the link that led to it, and its parent folders.
    stack: list[tuple[Path, Path | None, frozenset[tuple[int, int]]]] = [(root, None, frozenset())]
    linked: dict[Path, int] = {}
    while stack:
        folder, link, parents = stack.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        key = status.st_dev, status.st_ino
        if key in visited:
            if folder.is_symlink():
                is_loop = key in parents
                skipped[folder] = "it leads to a folder above it" if is_loop else ALREADY_VISITED
            continue
        visited.add(key)
        if link is not None:
            linked[link] = linked.get(link, 0) + 1
            if linked[link] > MAX_LINKED_FOLDERS:
                skipped[link] = f"it leads to more than {MAX_LINKED_FOLDERS:,} folders"
                continue
        links = {entry.name for entry in entries if entry.is_symlink()}
        subfolders = [entry.name for entry in entries if _is_folder(entry)]
        yield folder, subfolders, [entry.name for entry in entries if not _is_folder(entry)]
        # The stack pops the last one first.
        for name in sorted(subfolders, key=lambda name: (name in links, name), reverse=True):
            via = link or (folder / name if name in links else None)
            stack.append((folder / name, via, parents | {key}))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_regular(path: Path) -> bool:
    """Return whether a path is a regular file or a link to one, not a folder, pipe or device."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises some errors)


class MissingFileError(ConfigError):
    """The file to read does not exist."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a ConfigError of one line."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a regular file and yield it with its size, without blocking on pipes or devices."""
    try:
        # Checked before opening, because opening some devices has side effects.
        _check_regular(path, path.stat())
        # If a pipe has replaced the file since, this does not wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(path, status)
            yield file, status.st_size
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read: {reason}") from error


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} cannot be read: expected a regular file")


def read_bytes(path: Path, *, at_most: int) -> bytes:
    """Read a regular file, or a link to one, of at most so many bytes.

    Raises:
        MissingFileError: the file does not exist.
        ConfigError: it is not a regular file, is too large, or cannot be read.
    """
    with _opened(path) as (file, size):
        content = file.read(min(size, at_most) + 1)  # read() allocates its argument
    if len(content) > at_most:
        raise ConfigError(f"{path} cannot be read: it is larger than {at_most:,} bytes")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size, with the errors of `read_bytes`."""
    return _parsed(path, json.loads)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of bounded size, depth and number of values, as `read_json` does."""
    return _parsed(path, _bounded_yaml)


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    content = read_bytes(path, at_most=MAX_BYTES)
    try:
        return parse(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = one_line(ValueError(error.problem))
        raise ConfigError(f"{path} cannot be read: line {line}: {problem}") from error
    except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error


def _bounded_yaml(text: str) -> Any:
    """Parse a YAML text; raise ValueError if it exceeds a bound when its aliases are expanded."""
    total = 0
    sizes: dict[str, int] = {}
    open_anchors: list[tuple[str, int]] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"alias *{event.anchor} is undefined or contains itself")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_SCALAR_LENGTH:
                raise ValueError(f"a value in it has more than {MAX_SCALAR_LENGTH:,} characters")
            event.value.encode()  # fails for half a surrogate pair
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_anchors.append((event.anchor or "", total))
            total += 1
            sizes.pop(event.anchor or "", None)  # undefined until its end
            if len(open_anchors) > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > MAX_ENTRIES:
            raise ValueError(f"it has more than {MAX_ENTRIES:,} entries")
    return yaml.safe_load(text)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a table of bounded size, without a last line that has no line break."""
    with _opened(path) as (file, size):
        if size > MAX_TABLE_BYTES:
            raise ConfigError(f"{path} cannot be read: it is larger than {MAX_TABLE_BYTES:,} bytes")
        left = size  # ignores lines that are being written now
        while left > 0 and (line := file.readline(min(MAX_LINE_BYTES, left))):
            left -= len(line)
            if line.endswith(b"\n"):
                yield line.rstrip(b"\r\n")
            elif len(line) == MAX_LINE_BYTES:
                raise ConfigError(
                    f"{path} cannot be read: a line has more than {MAX_LINE_BYTES:,} bytes"
                )

"""Walks folders of strangers, and reads their tables, within bounds."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rlkl.durable import MissingFileError
from rlkl.validation import ConfigError

MOST_TABLE_BYTES, MOST_LINE_BYTES = 2**30, 2**17
"""Of a table; of each of its lines. Rows of a run have less than a thousand bytes."""

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


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a table one by one; a last line without an end is left out.

    Args:
        path: of a regular file, or of a link to it.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is another kind of file, or has more bytes, or a longer line, than a table
            of rlkl.
    """
    try:
        if not is_regular(path) and path.exists():
            raise ConfigError(f"{path} cannot be read: expected a regular file")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            there = os.fstat(file.fileno())
            if not stat.S_ISREG(there.st_mode):
                raise ConfigError(f"{path} cannot be read: expected a regular file")
            if there.st_size > MOST_TABLE_BYTES:
                raise ConfigError(
                    f"{path} cannot be read: it is larger than {MOST_TABLE_BYTES:,} bytes"
                )
            left = there.st_size  # of a file that is being written, what there was
            while left > 0 and (line := file.readline(min(MOST_LINE_BYTES, left))):
                left -= len(line)
                if line.endswith(b"\n"):
                    yield line.rstrip(b"\r\n")
                elif len(line) == MOST_LINE_BYTES:
                    raise ConfigError(
                        f"{path} cannot be read: a line has more than {MOST_LINE_BYTES:,} bytes"
                    )
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error

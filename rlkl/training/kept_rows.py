"""What a resumed run keeps of its CSV files: checked against the checkpoint before any is written.

The files hold numbers alone, so nothing in them is quoted: a line is its fields between commas.
"""

import hashlib
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkl.training.loggers import HEADERS, without_returns
from rlkl.training.resource_checks import machine_memory
from rlkl.utils.atomic_files import unused, write_durably
from rlkl.utils.found_files import MissingFileError, read_bytes
from rlkl.utils.validation import ConfigError

COUNTERS = {"metrics.csv": "iterations", "episodes.csv": "episodes"}
"""What a checkpoint calls the number of rows of each file."""


@dataclass(frozen=True)
class KeptRows:
    """What a run's CSV files are to begin with when it is resumed.

    Attributes:
        contents: of each file, and None where it is that already.
        damaged: files that are set aside first.
        kl: KL(π_old ‖ π_θ) of each iteration that is kept, in nats.
        notes: what was not as it should be, a line each.
    """

    contents: dict[Path, bytes | None]
    damaged: list[Path]
    kl: list[float]
    notes: list[str]

    def write(self) -> None:
        """Put it into the files.

        Raises:
            OSError: they cannot be written.
        """
        for path in self.damaged:
            path.rename(unused(path, "damaged"))
        for path, content in self.contents.items():
            if content is not None:
                write_durably(path, content)


def kept_rows(run_dir: Path, state: dict[str, Any], *, exact: bool = True) -> KeptRows:
    """Return the rows from before a checkpoint; those behind it are about to be written again.

    Args:
        run_dir: of a run that is resumed.
        state: the checkpoint.
        exact: whether a file that is not as it was then is refused; else what can be read is kept.

    Raises:
        ConfigError: naming the file, the line, and what to do.
    """
    contents: dict[Path, bytes | None] = {}
    damaged: list[Path] = []
    notes: list[str] = []
    kl: list[float] = []
    for name in HEADERS:
        path = run_dir / name
        try:
            found = read_bytes(path, at_most=machine_memory())
        except MissingFileError:
            found = b""
        try:
            kept = _beginning(name, found, state)
        except ConfigError as error:
            if exact:
                raise ConfigError(
                    f"{path} {error}; put the file back, or keep what can be read of it: "
                    f"rlkl resume {shlex.quote(str(run_dir))} exact=false"
                ) from None
            kept = _readable(name, found, int(state["env_steps"]))
            notes.append(f"{path} {error}: {len(_lines(kept)) - 1} of its rows are kept")
            damaged += [path] if path.exists() else []
        contents[path] = None if kept == found and path not in damaged else kept
        if name == "metrics.csv":
            column = HEADERS[name].index("kl/old_new")
            rows = [line.split(b",") for line in _lines(kept)[1:]]
            kl = [float(row[column] or math.nan) for row in rows]
    return KeptRows(contents, damaged, kl, notes)


def _beginning(name: str, found: bytes, state: dict[str, Any]) -> bytes:
    """Return what a file held when a checkpoint was made.

    Raises:
        ConfigError: it does not hold that now; the message begins behind the file's name.
    """
    mark = state["run"].get("files", {}).get(name)  # none in checkpoints of older versions
    count = int(mark["rows"] if mark else state[COUNTERS[name]])
    lines = _lines(found)
    kept = b"".join(lines[: 1 + count])
    _check_lines(name, lines[: 1 + count])
    if len(lines) < 1 + count and count:
        last = lines[-1].partition(b",")[0].decode() if len(lines) > 1 else 0
        raise ConfigError(
            f"has {max(0, len(lines) - 1)} rows and ends at {last} environment steps, before the "
            f"checkpoint's {count} rows and {state['env_steps']} environment steps"
        )
    if mark and count and hashlib.sha256(without_returns(kept)).hexdigest() != mark["sha256"]:
        raise ConfigError("has other rows than when the checkpoint was made")
    last_step = int(lines[count].partition(b",")[0]) if count else 0
    if not mark and name == "metrics.csv" and last_step != state["env_steps"]:
        raise ConfigError(
            f"ends at {last_step} environment steps, and the checkpoint is of {state['env_steps']}"
        )
    return kept


def _lines(content: bytes) -> list[bytes]:
    """Return the lines of a file; one that is half written, at its end, is none."""
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def _check_lines(name: str, lines: list[bytes]) -> None:
    """Raise unless the first line is the header and all others are numbers that fit.

    Raises:
        ConfigError: naming the line.
    """
    header = ",".join(HEADERS[name])
    if lines and lines[0].decode(errors="replace").rstrip("\r\n") != header:
        raise ConfigError(
            "has other columns than this version of rlkl writes (summary.json says which wrote it)"
        )
    before = 0
    for number, line in enumerate(lines[1:], 2):
        step = _step(name, line)
        if step is None or step < before:
            raise ConfigError(f"is damaged in line {number}")
        before = step


def _step(name: str, line: bytes) -> int | None:
    """Return the environment steps of a row; None if it is none that a run wrote."""
    first, *rest = line.rstrip(b"\r\n").split(b",")
    if not first.isdigit() or len(first) > 18 or len(rest) != len(HEADERS[name]) - 1:
        return None
    try:
        for field in rest:
            float(field or b"nan")
    except ValueError:
        return None
    return int(first)


def _readable(name: str, found: bytes, env_steps: int) -> bytes:
    """Return the header, and those rows up to a moment that can be read and are in order."""
    header = ",".join(HEADERS[name]).encode() + b"\r\n"
    kept, before = [header], 0
    lines = _lines(found)
    if lines and lines[0].rstrip(b"\r\n") != header.rstrip():
        return header
    for line in lines[1:]:
        step = _step(name, line)
        if step is not None and before <= step <= env_steps:
            kept.append(line)
            before = step
    return b"".join(kept)

"""What resuming does in a run's folder: checks, CSV rows up to the checkpoint, and the record."""

import hashlib
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlkl.training.checkpoint import BEST, load_checkpoint
from rlkl.training.config import END_KEYS, TrainConfig
from rlkl.training.loggers import HEADERS, header_of, without_returns
from rlkl.training.resource_checks import machine_memory
from rlkl.training.run_folder import is_finished, read_summary
from rlkl.utils.atomic_files import unused_name, write_durably
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import MissingFileError, read_bytes, read_yaml
from rlkl.version import __version__

COUNTERS = {"metrics.csv": "iterations", "episodes.csv": "episodes"}
"""The key of a checkpoint with the number of rows of each file."""


def changes_end(changed: dict[str, tuple[Any, Any]]) -> bool:
    """Return whether a changed config also changes when the run ends."""
    return not changed.keys().isdisjoint(END_KEYS)


def check_unfinished(
    run_dir: Path, config: TrainConfig, changed: dict[str, tuple[Any, Any]]
) -> list[str]:
    """Check that a run is not finished, and return a note if it has no summary."""
    summary = read_summary(run_dir)
    if summary is None:
        return [
            f"{run_dir} has no summary.json: its process was killed, ran out of memory, or was "
            "ended by its environment (os._exit)"
        ]
    continues = summary.get("reason") and changes_end(changed)
    if is_finished(summary, config.total_env_steps) and not continues:
        budget = 2 * max(summary["env_steps"], config.total_env_steps)
        why = f" ({summary['reason']})" if summary.get("reason") else ""
        raise ConfigError(
            f"{run_dir} is finished, with {summary['env_steps']} environment steps{why}; "
            f"to continue training, use a larger budget: total_env_steps={budget}"
        )
    return []


def rename_newer_best(run_dir: Path, env_steps: int) -> list[str]:
    """Rename `best.pt` if it is newer than the checkpoint, and return a note about it."""
    path = run_dir / "checkpoints" / BEST
    try:
        if int(load_checkpoint(path)["env_steps"]) <= env_steps:
            return []
    except (ConfigError, LookupError, TypeError, ValueError):
        return []
    renamed = unused_name(path, "abandoned")
    path.rename(renamed)
    return [f"{renamed} has the best policy of the steps that are repeated with other settings"]


def record_resume(
    run_dir: Path, path: Path, env_steps: int, changed: dict[str, tuple[Any, Any]], *, exact: bool
) -> list[str]:
    """Add an entry to `resumed.yaml`, and return a note if the file was damaged and renamed."""
    file = run_dir / "resumed.yaml"
    entries, notes = [], []
    try:
        entries = read_yaml(file)
        if not isinstance(entries, list):
            raise ConfigError(f"{file} is not the list that rlkl writes")
    except MissingFileError:
        pass
    except ConfigError as error:
        renamed = unused_name(file, "damaged")
        file.rename(renamed)
        entries, notes = [], [f"{error}; renamed to {renamed.name}, and a new file is started"]
    entry = {
        "env_steps": env_steps,
        "checkpoint": path.name,
        "time": datetime.now().isoformat(timespec="seconds"),
        "rlkl": __version__,
        "exact": exact,
        "changed": {key: {"before": old, "now": new} for key, (old, new) in changed.items()},
    }
    text = yaml.safe_dump([*entries, entry], sort_keys=False, allow_unicode=True)
    write_durably(file, text.encode())
    return notes


@dataclass
class RecoveredRows:
    """The rows of a run's CSV files up to a checkpoint.

    Attributes:
        contents: of each file that changes.
        damaged: files that are renamed first.
        kl: KL(π_old ‖ π_θ) of each iteration in the rows, in nats.
        notes: one line for each damaged file.
    """

    contents: dict[Path, bytes] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write the files, after renaming the damaged ones."""
        for path in self.damaged:
            path.rename(unused_name(path, "damaged"))
        for path, content in self.contents.items():
            write_durably(path, content)


def recover_rows(run_dir: Path, state: dict[str, Any], *, exact: bool) -> RecoveredRows:
    """Return the rows up to a checkpoint; later rows are dropped, and written again by the run.

    A file whose rows have changed is refused if `exact`; otherwise its readable rows are kept.

    Raises:
        ConfigError: a file has changed; the message says where, and what to do.
    """
    recovered = RecoveredRows()
    for name in HEADERS:
        path = run_dir / name
        try:
            found = read_bytes(path, at_most=machine_memory())
        except MissingFileError:
            found = b""
        try:
            content = _rows_of_checkpoint(name, found, state)
        except ConfigError as error:
            if exact:
                raise ConfigError(
                    f"{path} {error}; restore the file, or keep its readable rows: "
                    f"rlkl resume {shlex.quote(str(run_dir))} exact=false"
                ) from None
            content = _readable_rows(name, found, int(state["env_steps"]))
            kept = len(_lines(content)) - 1
            recovered.notes.append(f"{path} {error}: kept {kept} readable rows")
            recovered.damaged += [path] if path.exists() else []
        if content != found or path in recovered.damaged:
            recovered.contents[path] = content
        if name == "metrics.csv":
            column = header_of(name, content).index("kl/old_new")
            rows = [line.split(b",") for line in _lines(content)[1:]]
            recovered.kl = [float(row[column] or math.nan) for row in rows]
    return recovered


def _rows_of_checkpoint(name: str, found: bytes, state: dict[str, Any]) -> bytes:
    """Return the content that a file had when a checkpoint was written, or raise ConfigError."""
    digest = state["run"].get("files", {}).get(name)  # older versions have none
    count = int(digest["rows"] if digest else state[COUNTERS[name]])
    lines = _lines(found)
    content = b"".join(lines[: 1 + count])
    header = header_of(name, content)
    if lines and lines[0].decode(errors="replace").rstrip("\r\n") != ",".join(header):
        raise ConfigError(
            "has other columns than this version of rlkl writes (summary.json says which wrote it)"
        )
    for place in _bad_rows(lines[1 : 1 + count], len(header)):
        raise ConfigError(f"is damaged in line {place + 2}")
    if len(lines) < 1 + count and count:
        last = lines[-1].partition(b",")[0].decode() if len(lines) > 1 else 0
        raise ConfigError(
            f"has {max(0, len(lines) - 1)} rows and ends at {last} environment steps, before the "
            f"checkpoint's {count} rows and {state['env_steps']} environment steps"
        )
    sha256 = hashlib.sha256(without_returns(content)).hexdigest()
    if digest and count and sha256 != digest["sha256"]:
        raise ConfigError("has other rows than when the checkpoint was written")
    last_step = int(lines[count].partition(b",")[0]) if count else 0
    if not digest and name == "metrics.csv" and last_step != state["env_steps"]:
        raise ConfigError(
            f"ends at {last_step} environment steps, but the checkpoint is at {state['env_steps']}"
        )
    return content


def _lines(content: bytes) -> list[bytes]:
    """Return the complete lines of a file, without a partial one at its end."""
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def _bad_rows(rows: list[bytes], columns: int, env_steps: float = math.inf) -> Iterator[int]:
    """Yield the places of rows that are not valid, not in order, or after `env_steps`."""
    before = 0
    for place, row in enumerate(rows):
        step = _step(row, columns)
        if step is None or not before <= step <= env_steps:
            yield place
        else:
            before = step


def _step(line: bytes, columns: int) -> int | None:
    """Return the environment steps of a row; None if it is not a valid row."""
    first, *rest = line.rstrip(b"\r\n").split(b",")
    if not first.isdigit() or len(first) > 18 or len(rest) != columns - 1:
        return None
    try:
        for number in rest:
            float(number or b"nan")
    except ValueError:
        return None
    return int(first)


def _readable_rows(name: str, found: bytes, env_steps: int) -> bytes:
    """Return the header and the valid rows, in order, up to `env_steps`."""
    columns = header_of(name, found)
    header = ",".join(columns).encode() + b"\r\n"
    lines = _lines(found)
    if lines and lines[0].rstrip(b"\r\n") != header.rstrip():
        return header
    bad = set(_bad_rows(lines[1:], len(columns), env_steps))
    return header + b"".join(row for place, row in enumerate(lines[1:]) if place not in bad)

"""Write, find and read the checkpoints of a run."""

import io
import pickle
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlkl.engines.policy_package import is_package
from rlkl.training.archive import read_archive
from rlkl.training.resource_checks import machine_memory
from rlkl.utils.errors import ConfigError
from rlkl.utils.field_types import check_fields, limited
from rlkl.utils.untrusted_files import MissingFileError, read_bytes, reading
from rlkl.utils.validation import check_choice, reading_parts

FORMAT = 3  # version of the format; raised by every change that older code cannot read

LAST = "last.pt"
BEST = "best.pt"
CHECKPOINTS = ("last", "best")
"""Names for the user: the newest checkpoint, and the one with the best return."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written, in addition to those at the start and end of a run.

    Attributes:
        interval: iterations between two checkpoints; null means 50. If the environments cannot be
            restored, they are recreated after each checkpoint, and null means a tenth of the
            budget: 10 to 100 iterations, and at least two of the longest episodes.
        keep: number of checkpoints to keep; older ones are removed.
    """

    interval: int | None = limited(None, at_least=1)
    keep: int = limited(3, at_least=1)

    def __post_init__(self) -> None:
        check_fields(self, "checkpoint.")


def as_bytes(state: dict[str, Any]) -> bytes:
    """Return a state of plain data and tensors as the content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | state, buffer)
    return buffer.getvalue()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from the file.

    Raises:
        ConfigError: the file is missing, damaged, or of another format; the message names a
            readable checkpoint in the same folder, if there is one.
    """
    try:
        return _read(path)
    except ConfigError as error:
        other = next(filter(_is_good, numbered(path.parent)), None)
        if other is None:
            raise
        raise ConfigError(f"{error}; {other} can be read") from error.__cause__


def _is_good(path: Path) -> bool:
    try:
        _read(path)
    except ConfigError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_archive(read_bytes(path, at_most=machine_memory()))
        written = int(state["format"])
    except MissingFileError:
        raise ConfigError(f"{path}: there is no such checkpoint") from None
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is not a checkpoint that can be read: it holds something other than data, "
            "which could be code to run; rlkl never writes such a file, so do not trust it"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} is not a checkpoint that can be read: {reason}") from error
    if written < FORMAT:
        raise ConfigError(
            f"{path} has format {written}, older than {FORMAT}: this rlkl cannot read it; use the "
            "version that wrote it (summary.json says which)"
        )
    if written > FORMAT:
        raise ConfigError(
            f"{path} has format {written}, newer than {FORMAT} of this rlkl; upgrade rlkl"
        )
    return state


def taking_from(path: Path) -> AbstractContextManager[None]:
    """Turn errors of missing or malformed parts of the state at a path into a ConfigError."""
    return reading_parts(f"{path} is not the checkpoint of a run", "use another one")


def numbered(folder: Path) -> list[Path]:
    """Return the regular checkpoints (`step_*.pt`), newest first."""
    found = {
        int(path.stem.removeprefix("step_")): path
        for path in folder.glob("step_*.pt")
        if path.stem.removeprefix("step_").isdecimal()
    }
    return [found[env_steps] for env_steps in sorted(found, reverse=True)]


def newest(
    folder: Path,
    other_run: Callable[[dict[str, Any]], str] = lambda state: "",
    *,
    exact: bool = True,
) -> tuple[Path, dict[str, Any], list[str]]:
    """Find the newest checkpoint from which a run can resume.

    Args:
        folder: of checkpoints.
        other_run: returns how a state differs from this run; empty if it is of this run.
        exact: accept `last.pt` only if the result will equal an uninterrupted run's; otherwise
            whenever it was written between two iterations.

    Returns:
        Its path, its state, and one line for each checkpoint that was skipped.
    """
    found: tuple[Path, dict[str, Any]] | None = None
    notes: list[str] = []
    last_env_steps, last_is_complete = -1, False
    for path in (folder / LAST, *numbered(folder)):
        if not path.exists():
            continue
        try:
            state = _read(path)
            with taking_from(path):
                resumable, env_steps = bool(state["resumable"]), int(state["env_steps"])
                is_complete = bool(resumable or _is_complete(state))
                if difference := other_run(state):
                    raise ConfigError(f"{path} is of another run, with {difference}")
        except ConfigError as error:
            notes.append(str(error))
            continue
        if not resumable and not (is_complete and not exact):
            last_env_steps, last_is_complete = env_steps, is_complete
        elif found is None or env_steps > found[1]["env_steps"]:
            found = path, state
        if found is not None and path.name != LAST:
            break
    if found is None:
        why = f": {notes[0]}" if notes else ""
        raise ConfigError(f"{folder} has no checkpoint from which a run can resume{why}")
    path, state = found
    if (repeated := last_env_steps - state["env_steps"]) > 0:
        command = f"rlkl resume {shlex.quote(str(folder.parent))} exact=false"
        instead = (
            f"; to continue from {LAST}, with other results: {command}" if last_is_complete else ""
        )
        notes.append(
            f"resuming from {path.name}; the last {repeated:,} environment steps will be repeated, "
            f"with the same results{instead}"
        )
    return path, state, notes


def _is_complete(state: dict[str, Any]) -> bool:
    """Return whether a state that is not resumable was saved between two iterations.

    Older versions do not store this; there it is true if the environments cannot be restored.
    """
    return bool(state["whole"] if "whole" in state else state["collector"]["under_way"] is None)


def checkpoint_path(run_dir: str | Path, checkpoint: str = "last") -> Path:
    """Return the path of a run's checkpoint, `last` or `best`; that of a checkpoint as it is."""
    check_choice("checkpoint", checkpoint, CHECKPOINTS)
    folder = Path(run_dir)
    path = folder / "checkpoints" / f"{checkpoint}.pt"
    with reading(folder):
        if folder.suffix == ".pt" and not folder.is_dir():
            return folder
        if path.exists():
            return path
    if not folder.is_dir():
        raise ConfigError(f"{run_dir}: there is no such folder")
    name = path.relative_to(folder)
    if is_package(folder):
        raise ConfigError(f"{run_dir} is a packaged policy, and the folder of a run is needed here")
    if not (folder / "config.yaml").exists():
        raise ConfigError(
            f"{run_dir} is not the folder of a run: it has neither {name} nor config.yaml"
        )
    if checkpoint == "best":
        raise ConfigError(
            f"{run_dir} has no {name}: no episode had ended by its last checkpoint; use the "
            "checkpoint last instead"
        )
    raise ConfigError(
        f"{run_dir} has no {name}: a run writes it when it ends, and this one is not finished, or "
        "was killed"
    )


@contextmanager
def state_of_run(run_dir: str | Path, checkpoint: str = "last") -> Iterator[dict[str, Any]]:
    """Yield the state of a run's checkpoint, with the errors of the functions above."""
    path = checkpoint_path(run_dir, checkpoint)
    state = load_checkpoint(path)
    with taking_from(path):
        yield state


def folder_of(run_dir: str | Path) -> Path:
    """Return the run's folder, given the folder or one of its checkpoints."""
    path = Path(run_dir)
    if path.suffix != ".pt" or path.is_dir():
        return path
    folder = path.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder

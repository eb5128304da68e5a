"""The folder of a run: make it, check it, read its status, and turn write errors into one line."""

import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

from rlkl.training.checkpoint import numbered
from rlkl.training.config import TrainConfig, differences
from rlkl.utils.atomic_files import check_plain_path, remove_partials
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import MissingFileError, read_json, read_yaml
from rlkl.utils.validation import check_text

LOG = "log.txt"  # the output of a run of a grid
FILES_BEFORE_START = (".lock", LOG)  # files that may exist in a folder before its run starts

FOLDERS = ("checkpoints", "bad_updates", "videos", "wandb")
FILES = ("config.yaml", "metrics.csv", "episodes.csv", "summary.json", "resumed.yaml")


class FolderError(Exception):
    """A run's folder cannot be written to; the message names the last good checkpoint."""


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Turn an OSError of the block into a FolderError of one line."""
    try:
        yield
    except OSError as error:
        checkpoints = numbered(run_dir / "checkpoints")
        advice = (
            f"{checkpoints[0]} is complete; once the problem is fixed, continue with: "
            f"rlkl resume {shlex.quote(str(run_dir))}"
            if checkpoints
            else "it has no checkpoint yet"
        )
        reason = error.strerror or str(error)
        raise FolderError(f"{run_dir} cannot be written to: {reason}; {advice}") from error


def make_run_dir(
    run_dir: str | None, env_id: str, algo: str, seed: int, base: Path = Path()
) -> Path:
    """Make a new folder for a run, and return its path as the user typed it.

    Without a `run_dir` it is `runs/<env>/<algo>/<date-time>-seed<seed>`, with a number appended if
    two runs start in the same second. A relative path refers to `base`, even if an environment has
    changed the working directory.

    Raises:
        ConfigError: the folder exists already or cannot be made.
    """
    if run_dir is not None:
        paths: Iterable[Path] = [check_folder("run_dir", run_dir, base)]
    else:
        # Without the module that registers it: `Corridor-v0` for `my_package:Corridor-v0`.
        env = env_id.rpartition(":")[2].replace("/", "_")
        moment = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        first = Path("runs", env, algo, f"{moment}-seed{seed}")
        paths = chain([first], (first.with_name(f"{first.name}-{n}") for n in range(2, 1000)))
    for path in paths:
        name = f"run_dir={run_dir or path}"
        try:
            (base / path).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{name} cannot be made: {error.strerror}") from error
        return path
    raise ConfigError(f"{name} exists already and is not overwritten; choose another")


def run_name(run_dir: Path) -> str:
    """Return the name of a run in a tracker: the last parts of its folder."""
    return "/".join(run_dir.absolute().parts[-3:]).lstrip("/")


def check_folder(key: str, folder: str, base: Path = Path()) -> Path:
    """Return the path of a folder that exists or can be made; a relative one is below `base`."""
    check_text(key, folder)
    path = Path(folder)
    try:
        if ".." in path.parts:
            # Unresolved, mkdir would also make the folders before the `..`.
            path = (base / path).resolve()
        full = base / path
        existing = next(parent for parent in (full, *full.parents) if parent.exists())
    except OSError as error:
        raise ConfigError(f"{key}={folder} cannot be made: {error.strerror}") from error
    if existing != full and not existing.is_dir():
        raise ConfigError(f"{key}={folder} cannot be made: {existing} is not a folder")
    if existing != full and not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder} cannot be made: {existing} is not writable")
    return path


class ForeignFolderError(ConfigError):
    """The folder for a run contains something else."""


class RunStatus(Enum):
    """The status of a run."""

    MISSING = "not started"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


def run_status(run_dir: Path, config: TrainConfig) -> RunStatus:
    """Return the status of a config's run in a folder.

    `env.backend=auto` and the like in the config accept any value of the run.

    Raises:
        ConfigError: the folder contains something else, or the run of another config.
    """
    if not run_dir.exists():
        return RunStatus.MISSING
    saved = read_config(run_dir)
    if saved is None:
        if not (run_dir / ".lock").exists():
            raise ForeignFolderError(
                f"run_dir={run_dir} exists already and is not the folder of a run; choose another"
            )
        return RunStatus.MISSING
    changed = differences(saved, config)
    if changed:
        key, (old, new) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more keys differ)" * (len(changed) > 1)
        raise ConfigError(
            f"{run_dir} was trained with {key}={old}, but {key}={new} is requested{more}; "
            "use another folder: grid=NAME (or run_dir=DIR), or the old values"
        )
    summary = read_summary(run_dir)
    finished = summary is not None and is_finished(summary, config.total_env_steps)
    return RunStatus.FINISHED if finished else RunStatus.UNFINISHED


def check_own_files(run_dir: Path) -> None:
    """Check that the files and folders that a run writes are not links or the like.

    The run's folder itself may be a link.
    """
    files = [run_dir / name for name in (*FILES, *FILES_BEFORE_START)]
    files += run_dir.glob("events.out.tfevents.*")
    for folder in (run_dir / name for name in FOLDERS):
        check_plain_path(folder, folder=True)
        files += folder.glob("*.pt")
    for path in files:
        check_plain_path(path)


def clean_up(run_dir: Path) -> None:
    """Remove the partial files of a killed run; this process must hold the folder's lock."""
    for folder in (run_dir, *(run_dir / name for name in FOLDERS)):
        remove_partials(folder)


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """Return the content of `config.yaml`, or None if the file does not exist."""
    path = run_dir / "config.yaml"
    try:
        saved = read_yaml(path)
    except MissingFileError:
        return None
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not the config of a run; restore it, or remove the folder")
    return saved


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """Return the content of `summary.json`, or None if the file is missing or damaged."""
    try:
        summary = read_json(run_dir / "summary.json")
    except ConfigError:
        return None
    is_complete = (
        isinstance(summary, dict)
        and isinstance(summary.get("status"), str)
        and isinstance(summary.get("env_steps"), int)
    )
    return summary if is_complete else None


def is_finished(summary: dict[str, Any], total_env_steps: int) -> bool:
    """Return whether a run finished: it used the whole budget, or a callback ended it."""
    is_over = summary["env_steps"] >= total_env_steps or bool(summary.get("reason"))
    return bool(summary["status"] == "finished" and is_over)


def move_old_files(run_dir: Path) -> None:
    """Move the files of a run that cannot resume to `before-1`, `before-2`, ... in its folder."""
    old = [
        path
        for path in run_dir.iterdir()
        if path.name not in FILES_BEFORE_START and not path.name.startswith("before-")
    ]
    if old:
        target = run_dir / f"before-{1 + len(list(run_dir.glob('before-*')))}"
        target.mkdir()
        for path in old:
            path.rename(target / path.name)

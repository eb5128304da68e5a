"""Read the status of a run from its folder: missing, unfinished, finished, or of another run."""

from enum import Enum
from pathlib import Path
from typing import Any

from rlkl.training.config import TrainConfig, differences
from rlkl.utils.atomic_files import check_plain_path, remove_partials
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import MissingFileError, read_json, read_yaml

LOG = "log.txt"  # the output of a run of a grid
FILES_BEFORE_START = (".lock", LOG)  # files that may exist in a folder before its run starts

FOLDERS = ("checkpoints", "bad_updates", "videos", "wandb")
FILES = ("config.yaml", "metrics.csv", "episodes.csv", "summary.json", "resumed.yaml")


class ForeignFolderError(ConfigError):
    """The folder for a run contains something else."""


class RunStatus(Enum):
    """The status of a run."""

    MISSING = "not begun"
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

"""Where a run stands, read from its folder: not begun, broken off, finished, or another run's."""

from enum import Enum
from pathlib import Path
from typing import Any

from rlkl.training.config import TrainConfig, differences
from rlkl.utils.atomic_files import check_own, remove_partials
from rlkl.utils.found_files import MissingFileError, read_json, read_yaml
from rlkl.utils.validation import ConfigError

LOG = "log.txt"
"""What a run of a grid prints."""

TRACES = (".lock", LOG)
"""What may lie in a folder in which no run has begun."""


class Standing(Enum):
    """How far a run is."""

    MISSING = "not begun"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


def standing(run_dir: Path, config: TrainConfig) -> Standing:
    """Say where the run of a config stands in its folder.

    Args:
        run_dir: the run's folder, if it is there already.
        config: what is to be run; where it leaves something open, such as `env.backend=auto`,
            whatever the run took is right.

    Raises:
        ConfigError: the folder holds something else, or the run of another config.
    """
    if not run_dir.exists():
        return Standing.MISSING
    saved = read_config(run_dir)
    if saved is None:
        if not (run_dir / TRACES[0]).exists():
            raise ForeignFolderError(
                f"run_dir={run_dir} exists already and is not the folder of a run; choose another"
            )
        return Standing.MISSING
    changed = differences(saved, config)
    if changed:
        key, (old, new) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more keys differ)" * (len(changed) > 1)
        raise ConfigError(
            f"{run_dir} was trained with {key}={old}, and is asked for with {key}={new}{more}; "
            "give these runs another folder: grid=NAME (or run_dir=DIR), or the old values"
        )
    summary = read_summary(run_dir)
    finished = summary is not None and is_finished(summary, config.total_env_steps)
    return Standing.FINISHED if finished else Standing.UNFINISHED


class ForeignFolderError(ConfigError):
    """A folder that a run should be written to holds something else."""


FOLDERS = ("checkpoints", "bad_updates")
FILES = ("config.yaml", "metrics.csv", "episodes.csv", "summary.json", "resumed.yaml", *TRACES)


def check_own_files(run_dir: Path) -> None:
    """Raise unless all that a run writes in its folder are files and folders of its own.

    The run's folder itself may be a link.

    Raises:
        ConfigError: naming what is a link or something else.
    """
    files = [run_dir / name for name in FILES]
    files += run_dir.glob("events.out.tfevents.*")
    for folder in (run_dir / name for name in FOLDERS):
        check_own(folder, folder=True)
        files += folder.glob("*.pt")
    for path in files:
        check_own(path)


def clean_up(run_dir: Path) -> None:
    """Remove what a killed run was just writing; the folder belongs to this process."""
    for folder in (run_dir, *(run_dir / name for name in FOLDERS)):
        remove_partials(folder)


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """Return what `config.yaml` says, or None where a run has not come so far.

    Raises:
        ConfigError: it is there, and cannot be read.
    """
    path = run_dir / "config.yaml"
    try:
        saved = read_yaml(path)
    except MissingFileError:
        return None
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not the config of a run; put it back, or remove the folder")
    return saved


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """Return what `summary.json` says; None where a run was killed before, or it was damaged."""
    try:
        summary = read_json(run_dir / "summary.json")
    except ConfigError:
        return None
    kinds = {"status": str, "env_steps": int}
    is_whole = isinstance(summary, dict) and all(
        isinstance(summary.get(key), kind) for key, kind in kinds.items()
    )
    return summary if is_whole else None


def is_finished(summary: dict[str, Any], total_env_steps: int) -> bool:
    """Say whether a summary is that of a run which used up its budget."""
    return bool(summary["status"] == "finished" and summary["env_steps"] >= total_env_steps)


def set_aside(run_dir: Path) -> None:
    """Move what a run left that cannot go on into `before-1`, `before-2`, ... in its folder."""
    left = [
        path
        for path in run_dir.iterdir()
        if path.name not in TRACES and not path.name.startswith("before-")
    ]
    if left:
        number = 1 + len(list(run_dir.glob("before-*")))
        aside = run_dir / f"before-{number}"
        aside.mkdir()
        for path in left:
            path.rename(aside / path.name)

"""The checks of a run before it resumes, and the record that it did."""

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlkl.training.checkpoint import BEST, load_checkpoint
from rlkl.training.config import END_KEYS, TrainConfig
from rlkl.training.run_status import is_finished, read_summary
from rlkl.utils.atomic_files import unused_name, write_durably
from rlkl.utils.errors import ConfigError
from rlkl.utils.untrusted_files import MissingFileError, read_yaml
from rlkl.version import __version__


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

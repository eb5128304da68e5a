"""Finds the folders of runs, and reads their CSV files, configs and summaries.

Nothing else of a run is looked at, so folders can be copied from other machines, and runs that are
still being written are read as far as they got.
"""

import glob
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from rlkl.validation import ConfigError

Array = NDArray[np.float64]

MARKS = ("metrics.csv", "summary.json", "config.yaml")
"""A folder with any of them is a run's."""

TAGS = (
    "return/train",
    "return/eval",
    "kl/old_new",
    "kl/max",
    "kl/target",
    "ratio/std",
    "ratio/clip_fraction",
    "policy/entropy",
    "policy/entropy_estimate",
    "value/explained_variance",
    "time/env_steps_per_second",
)
"""Columns of `metrics.csv` that are read."""

RUNNING = "unfinished"
"""Status of a run whose end nothing tells of: it goes on, or was killed."""

UNKNOWN = "unknown"
"""Status of a run whose summary.json is there, and cannot be read."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder shows it.

    Attributes:
        folder: where it was found.
        env_id: Gymnasium id, without the module that registers it.
        algo: name of the algorithm.
        seed: of everything random.
        settings: the config, flat, keys as on the command line; empty if it is missing.
        status: `finished`, `stopped`, `failed`, `unfinished`, or `unknown`.
        reason: why it stopped or failed, else empty.
        budget: environment steps that it was to make; 0 if that is not known.
        columns: `env_steps` and `TAGS`, each `[iterations]`; NaN where a field is empty.
        damaged: lines of `metrics.csv` that could not be read; one without an end does not count.
        eval_return: mean return of the evaluation at the end, or NaN.
        versions: of rlkl and of what it stands on.
        revision: of rlkl's checkout, or empty.
        hardware: what it ran on, as far as it was noted down.
    """

    folder: Path
    env_id: str
    algo: str
    seed: int
    settings: dict[str, Any]
    status: str
    reason: str
    budget: int
    columns: dict[str, Array]
    damaged: int
    eval_return: float
    versions: dict[str, str]
    revision: str
    hardware: dict[str, Any]

    @property
    def steps(self) -> Array:
        """Environment steps at the end of each iteration."""
        return self.columns["env_steps"]

    @property
    def env_steps(self) -> int:
        """Environment steps made."""
        return int(self.steps[-1]) if len(self.steps) else 0

    @property
    def seconds(self) -> Array:
        """Wall time at the end of each iteration: of training alone, evaluations not counted."""
        rate = self.columns["time/env_steps_per_second"]
        made = np.diff(self.steps, prepend=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            taken = made / rate
        return np.cumsum(np.where(np.isfinite(taken), taken, 0.0))


def find(paths: Iterable[str]) -> list[Path]:
    """Return the folders of runs at, or below, some paths, each once, in order.

    Args:
        paths: folders of runs, folders that hold such folders, or patterns with `*`.

    Raises:
        ConfigError: nothing is there, or no run.
    """
    found: dict[Path, Path] = {}
    for text in paths:
        for place in _places(text):
            runs = sorted(_below(place))
            if not runs:
                raise ConfigError(
                    f"{place} has no runs in or below it; a run's folder holds metrics.csv, as "
                    "`rlkl train` writes it"
                )
            for run in runs:
                found.setdefault(run.resolve(), run)
    return list(found.values())


def _places(text: str) -> list[Path]:
    try:
        there = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (of whole paths)
        folders = [Path(path) for path in there if Path(path).is_dir()]
    except (OSError, ValueError):  # a name longer than names can be, or with NUL
        there, folders = [], []
    if not there:
        raise ConfigError(f"{text}: there is no such folder; `rlkl train` makes runs below runs/")
    if not folders:
        raise ConfigError(f"{text} is a file; expected a run's folder, or a folder of runs")
    return folders


def _below(place: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(place, followlinks=True):
        if set(MARKS) & set(files):
            inside.clear()
            yield Path(folder)


def read(folder: Path) -> Run | str:
    """Return the run in a folder, or in words why it cannot be compared."""
    config, summary = _config(folder), _summary(folder)
    if not config and not summary:
        return "it has neither a config.yaml nor a summary.json that can be read"
    env_id = config.get("env.id") or summary.get("env_id")
    algo = config.get("algo.name") or summary.get("algo")
    seed = config.get("seed", summary.get("seed"))
    if not isinstance(env_id, str) or not isinstance(algo, str) or not isinstance(seed, int):
        return "its config.yaml does not say which environment, algorithm and seed it had"
    columns, damaged = _metrics(folder / "metrics.csv")
    if not len(columns["env_steps"]):
        return "it has no rows yet: no iteration had ended"
    told = (folder / "summary.json").exists()
    status = str(summary.get("status", UNKNOWN if told else RUNNING))
    if status != UNKNOWN and not columns["env_steps"][-1] <= _number(summary.get("env_steps")):
        status = RUNNING  # it was resumed after the summary was written
    return Run(
        folder=folder,
        env_id=env_id.rpartition(":")[2],
        algo=algo,
        seed=seed,
        settings=config,
        status=status,
        reason=str(summary.get("reason") or "") if status != RUNNING else "",
        budget=_budget(folder, config),
        columns=columns,
        damaged=damaged,
        eval_return=_number(summary.get("eval_return")),
        versions=_table(summary.get("versions")),
        revision=str(summary.get("git_revision") or ""),
        hardware=_table(summary.get("hardware")),
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _table(value: Any) -> dict[str, Any]:
    table = value if isinstance(value, dict) else {}
    return {key: entry for key, entry in table.items() if entry is not None}


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(leaves(content)) if isinstance(content, dict) else {}


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a config, keys as on the command line."""
    for key, value in node.items():
        if isinstance(value, dict) and key != "kwargs":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _summary(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _budget(folder: Path, config: dict[str, Any]) -> int:
    """Return the training budget: that of `config.yaml`, or what the run was resumed to."""
    budget = config.get("total_env_steps", 0)
    try:
        resumed = yaml.safe_load((folder / "resumed.yaml").read_text(encoding="utf-8"))
        for entry in resumed:
            budget = entry["changed"].get("total_env_steps", {}).get("now", budget)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        pass
    return budget if isinstance(budget, int) else 0


def _metrics(path: Path) -> tuple[dict[str, Array], int]:
    """Return the columns, and how many lines are damaged. A last line without an end is left."""
    names = ("env_steps", *TAGS)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    keys = header.split(",")
    # Numbers alone, so that nothing is quoted; what is no number makes a damaged line.
    places = {name: keys.index(name) for name in names if name in keys}
    kept: list[list[float]] = []
    for line in lines if "env_steps" in places else []:
        fields = line.split(",")
        try:
            row = [float(fields[place] or "nan") for place in places.values()]
        except (IndexError, ValueError):
            continue
        # Environment steps grow; where they do not, the line is not one that a run wrote.
        if len(fields) == len(keys) and (kept[-1][0] if kept else 0) < row[0] < math.inf:
            kept.append(row)
    table = np.array(kept, float).reshape(len(kept), len(places))
    columns = {name: np.full(len(kept), np.nan) for name in names}
    columns |= dict(zip(places, table.T, strict=True))
    return columns, len(lines) - len(kept)

"""Finds the folders of runs, and reads their CSV files, configs and summaries.

Nothing else of a run is looked at, so folders can be copied from other machines, and runs that are
still being written are read as far as they got.
"""

import glob
import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rlkl.utils.found_files import MissingFileError, read_json, read_lines, read_yaml, walk
from rlkl.utils.safe_text import LONGEST, for_terminal
from rlkl.utils.saved_keys import config_as_meant
from rlkl.utils.validation import ConfigError, one_line

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

ENDS = ("finished", "stopped", "failed")

MOST_KEYS, MOST_NAME, MOST_TABLE = 1000, 120, 20
"""Keys of a config; characters of the name of an environment or an algorithm; versions."""

MOST_ROWS, MOST_DAMAGED, MOST_COLUMNS, MOST_FIELD = 2_000_000, 10_000, 1000, 100
"""Of `metrics.csv`: rows, lines that cannot be read, columns, bytes of a field."""

LARGEST = 3.5e38
"""A finite value beyond what float32 has is none that a run wrote."""

WHOLE = 2**63
"""Above all whole numbers of a run."""


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
    def shown(self) -> str:
        """The folder as text that is safe to show."""
        return for_terminal(str(self.folder))

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


def find(paths: Iterable[str], passed: dict[Path, str] | None = None) -> list[Path]:
    """Return the folders of runs at, or below, some paths, each once, in order.

    Args:
        paths: folders of runs, folders that hold such folders, or patterns with `*`.
        passed: gets the links that were not followed to their end, and why.

    Raises:
        ConfigError: nothing is there, or no run.
    """
    found: dict[Path, Path] = {}
    passed = {} if passed is None else passed
    for text in paths:
        for place in _places(text):
            runs = sorted(_below(place, passed))
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
        there = [text] if Path(text).exists() else _matches(text)
        folders = [Path(path) for path in there if Path(path).is_dir()]
    except (OSError, ValueError):  # a name longer than names can be, or with NUL
        there, folders = [], []
    if not there:
        raise ConfigError(f"{text}: there is no such folder; `rlkl train` makes runs below runs/")
    if not folders:
        raise ConfigError(f"{text} is a file; expected a run's folder, or a folder of runs")
    return folders


def _matches(pattern: str) -> list[str]:
    if "**" not in pattern:
        return sorted(glob.glob(pattern))  # noqa: PTH207 (of whole paths)
    # It follows no links, two of which to a folder above would have no end.
    path = Path(pattern)
    return sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))


def _below(place: Path, passed: dict[Path, str]) -> Iterator[Path]:
    for folder, inside, others in walk(place, passed):
        if set(MARKS) & set(others):
            inside.clear()
            yield folder


def read(folder: Path) -> Run | str:
    """Return the run in a folder, or in words why it cannot be compared."""
    try:
        return _read(folder)
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        return f"its files cannot be read: {type(error).__name__}: {one_line(error)}"


def _read(folder: Path) -> Run | str:
    config, summary = _config(folder), _summary(folder)
    if not config and not summary:
        return "it has neither a config.yaml nor a summary.json that can be read"
    if len(config) > MOST_KEYS:
        return f"its config.yaml has more than {MOST_KEYS:,} keys"
    env_id = config.get("env.id") or summary.get("env_id")
    algo = config.get("algo.name") or summary.get("algo")
    seed = config.get("seed", summary.get("seed"))
    if not isinstance(env_id, str) or not isinstance(algo, str) or not _is_whole(seed):
        return "its config.yaml does not say which environment, algorithm and seed it had"
    if max(len(env_id), len(algo)) > MOST_NAME:
        return f"the name of its environment or algorithm has more than {MOST_NAME} characters"
    try:
        columns, damaged = _metrics(folder / "metrics.csv")
    except ConfigError as error:
        return one_line(error)
    if not len(columns["env_steps"]):
        return "it has no rows yet: no iteration had ended"
    told = (folder / "summary.json").exists()
    status = str(summary.get("status", UNKNOWN)) if told else RUNNING
    status = status if status in (*ENDS, RUNNING) else UNKNOWN
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


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < WHOLE


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < LARGEST else math.nan


def _table(value: Any) -> dict[str, Any]:
    table = value if isinstance(value, dict) else {}
    told = [(key, entry) for key, entry in table.items() if isinstance(entry, str | int | float)]
    return dict(told[:MOST_TABLE])


def _plain(value: Any) -> Any:
    """Return what was read, with texts that are safe to show and numbers that can be computed."""
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | float) or _is_small(value):
        return value
    text = str(value)
    if len(text) <= LONGEST:
        return for_terminal(text)
    # What was cut off still tells texts apart.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return for_terminal(text[:LONGEST]) + f"... ({len(text):,} characters, digest {digest})"


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and -WHOLE < value < WHOLE


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = read_yaml(folder / "config.yaml")
    except ConfigError:
        return {}
    return dict(leaves(_plain(config_as_meant(content)))) if isinstance(content, dict) else {}


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a config, keys as on the command line."""
    for key, value in node.items():
        if isinstance(value, dict) and key != "kwargs":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _summary(folder: Path) -> dict[str, Any]:
    try:
        content = read_json(folder / "summary.json")
    except ConfigError:
        return {}
    return _plain(content) if isinstance(content, dict) else {}


def _budget(folder: Path, config: dict[str, Any]) -> int:
    """Return the training budget: that of `config.yaml`, or what the run was resumed to."""
    budget = config.get("total_env_steps", 0)
    try:
        for entry in read_yaml(folder / "resumed.yaml"):
            budget = entry["changed"].get("total_env_steps", {}).get("now", budget)
    except (ConfigError, TypeError, KeyError, AttributeError):
        pass
    return budget if _is_whole(budget) else 0


def _metrics(path: Path) -> tuple[dict[str, Array], int]:
    """Return the columns, and how many lines are damaged. A last line without an end is left.

    Raises:
        ConfigError: it is none that a run wrote, or exceeds a bound.
    """
    names = ("env_steps", *TAGS)
    try:
        lines = read_lines(path)
        keys = next(lines, b"").decode(errors="replace").split(",")
    except MissingFileError:
        lines, keys = iter(()), []
    if len(keys) > MOST_COLUMNS:
        raise ConfigError(f"its metrics.csv has more than {MOST_COLUMNS:,} columns")
    # Numbers alone, so that nothing is quoted; what is no number makes a damaged line.
    places = {name: keys.index(name) for name in names if name in keys}
    numbers = array("d")
    damaged, before = 0, 0.0
    for line in lines if "env_steps" in places else ():
        row = _row(line, len(keys), list(places.values()))
        # Environment steps grow; where they do not, the line is not one that a run wrote.
        if row and before < row[0] < WHOLE:
            numbers.extend(row)
            before = row[0]
        else:
            damaged += 1
        if damaged > MOST_DAMAGED or len(numbers) > MOST_ROWS * len(places):
            most = (
                f"{MOST_DAMAGED:,} damaged lines"
                if damaged > MOST_DAMAGED
                else f"{MOST_ROWS:,} rows"
            )
            raise ConfigError(f"its metrics.csv has more than {most}")
    table = np.array(numbers).reshape(-1, max(1, len(places)))
    columns = {name: np.full(len(table), np.nan) for name in names}
    columns |= dict(zip(places, table.T.copy(), strict=False))
    return columns, damaged


def _row(line: bytes, count: int, places: list[int]) -> list[float]:
    """Return the fields at some places; nothing if the line is damaged."""
    fields = line.split(b",")
    wanted = [fields[place] for place in places] if len(fields) == count else []
    try:
        row = [float(field[: MOST_FIELD + 1] or b"nan") for field in wanted]
    except ValueError:
        return []
    is_sound = all(len(field) <= MOST_FIELD for field in wanted) and all(
        abs(x) < LARGEST or not math.isfinite(x) for x in row
    )
    return row if is_sound else []

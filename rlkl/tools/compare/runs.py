"""Finds run folders, and reads their CSV files, configs and summaries, and no other files."""

import glob
import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rlkl.utils.config_upgrades import upgrade_config
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import MAX_LENGTH, for_terminal
from rlkl.utils.untrusted_files import MissingFileError, read_json, read_lines, read_yaml, walk
from rlkl.utils.validation import one_line

Array = NDArray[np.float64]

RUN_FILES = {"metrics.csv", "summary.json", "config.yaml"}

TAGS = (
    "return/train", "return/eval", "kl/old_new", "kl/max", "kl/target", "ratio/std",
    "ratio/clip_fraction", "policy/entropy", "policy/entropy_estimate", "value/explained_variance",
    "time/env_steps_per_second", "time/update",
)  # fmt: skip
"""Columns of `metrics.csv` that are read."""

UNFINISHED, UNKNOWN = "unfinished", "unknown"
"""Status of a run that is still running or was killed, or whose summary.json cannot be read."""

STATUSES = ("finished", "stopped", "failed", UNFINISHED)

MAX_KEYS, MAX_NAME, MAX_SCALARS = 1000, 120, 20
"""Keys of a config; characters of the name of an environment or an algorithm; versions."""

MAX_ROWS, MAX_DAMAGED, MAX_COLUMNS, MAX_FIELD = 2_000_000, 10_000, 1000, 100
"""Of `metrics.csv`: rows, unreadable lines, columns, bytes of a field."""

MAX_FLOAT, MAX_INT = 3.5e38, 2**63
"""Finite numbers beyond float32, and integers beyond 64 bits, were not written by a run."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run, read from its folder.

    Attributes:
        env_id: Gymnasium id, without the module that registers it.
        settings: the flat config, keys as on the command line; empty if the config is missing.
        status: one of `STATUSES`, or `UNKNOWN`.
        reason: why it stopped or failed, or empty.
        budget: environment steps that it was to make; 0 if unknown.
        columns: `env_steps` and `TAGS`, each `[iterations]`; NaN for an empty field.
        damaged: unreadable lines of `metrics.csv`, not counting an incomplete last line.
        eval_return: mean return of the final evaluation, or NaN.
        provenance: versions, revision, hardware and device as text; empty if not recorded.
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
    provenance: dict[str, str]

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
        """Wall time of training at the end of each iteration, without evaluations."""
        rate = self.columns["time/env_steps_per_second"]
        made = np.diff(self.steps, prepend=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            taken = made / rate
        return np.cumsum(np.where(np.isfinite(taken), taken, 0.0))


def find(paths: Iterable[str], skipped_links: dict[Path, str] | None = None) -> list[Path]:
    """Return the run folders at or below some paths, each once, in order.

    Args:
        paths: run folders, folders that contain run folders, or patterns with `*`.
        skipped_links: gets the links that were not followed completely, and why.

    Raises:
        ConfigError: a path does not exist, or has no run.
    """
    found: dict[Path, Path] = {}
    skipped_links = {} if skipped_links is None else skipped_links
    for text in paths:
        for place in _folders(text):
            runs = []
            for folder, subfolders, others in walk(place, skipped_links):
                if not RUN_FILES.isdisjoint(others):
                    subfolders.clear()
                    runs.append(folder)
            if not runs:
                raise ConfigError(
                    f"{place} has no runs in or below it; a run folder contains metrics.csv, as "
                    "`rlkl train` writes it"
                )
            for run in sorted(runs):
                found.setdefault(run.resolve(), run)
    return list(found.values())


def _folders(text: str) -> list[Path]:
    try:
        paths = [text] if Path(text).exists() else _matches(text)
        folders = [Path(path) for path in paths if Path(path).is_dir()]
    except (OSError, ValueError):  # a name that is too long, or contains NUL
        paths, folders = [], []
    if not paths:
        raise ConfigError(f"{text}: there is no such folder; `rlkl train` writes runs to runs/")
    if not folders:
        raise ConfigError(f"{text} is a file; expected a run folder, or a folder of runs")
    return folders


def _matches(pattern: str) -> list[str]:
    if "**" not in pattern:
        return sorted(glob.glob(pattern))  # noqa: PTH207 (of whole paths)
    # Unlike glob.glob, Path.glob does not follow links, which may be circular.
    path = Path(pattern)
    return sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))


def read(folder: Path) -> Run | str:
    """Return the run in a folder, or the reason why it cannot be compared."""
    try:
        return _read(folder)
    except ConfigError as error:
        return one_line(error)
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        return f"its files cannot be read: {type(error).__name__}: {one_line(error)}"


def _read(folder: Path) -> Run:
    summary = _sanitized(_read_dict(read_json, folder / "summary.json"))
    if "clone" in summary:
        raise ConfigError(
            "`rlkl clone` made it, so it has no training to compare; compare runs that start from "
            "it: rlkl train init_from=FOLDER"
        )
    saved = upgrade_config(_read_dict(read_yaml, folder / "config.yaml"))
    config = dict(flatten(_sanitized(saved)))
    if not config and not summary:
        raise ConfigError("it has neither a readable config.yaml nor a readable summary.json")
    if len(config) > MAX_KEYS:
        raise ConfigError(f"its config.yaml has more than {MAX_KEYS:,} keys")
    env_id = config.get("env.id") or summary.get("env_id")
    algo = config.get("algo.name") or summary.get("algo")
    seed = config.get("seed", summary.get("seed"))
    if not isinstance(env_id, str) or not isinstance(algo, str) or not _is_count(seed):
        raise ConfigError(
            "its config.yaml does not say which environment, algorithm and seed it had"
        )
    if max(len(env_id), len(algo)) > MAX_NAME:
        raise ConfigError(
            f"the name of its environment or algorithm has more than {MAX_NAME} characters"
        )
    columns, damaged = _read_metrics(folder / "metrics.csv")
    if not len(columns["env_steps"]):
        raise ConfigError("it has no rows yet: no iteration had ended")
    status = UNFINISHED
    if (folder / "summary.json").exists():
        status = str(summary.get("status"))
        if status not in STATUSES:
            status = UNKNOWN
        elif not columns["env_steps"][-1] <= _number(summary.get("env_steps")):
            status = UNFINISHED  # it was resumed after the summary was written
    device = [config[key] for key in ("device", "threads") if key in config]
    return Run(
        folder=folder,
        env_id=env_id.rpartition(":")[2],
        algo=algo,
        seed=seed,
        settings=config,
        status=status,
        reason=str(summary.get("reason") or "") if status != UNFINISHED else "",
        budget=_read_budget(folder, config),
        columns=columns,
        damaged=damaged,
        eval_return=_number(summary.get("eval_return")),
        provenance={
            "versions": ", ".join(" ".join(map(str, v)) for v in _scalars(summary, "versions")),
            "revision": str(summary.get("git_revision") or "")[:12],
            "hardware": ", ".join(str(value) for _, value in _scalars(summary, "hardware")),
            "device": " ".join(map(str, device)) + " thread(s)" if device else "",
        },
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_INT


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < MAX_FLOAT else math.nan


def _scalars(summary: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    table = summary.get(key)
    items = table.items() if isinstance(table, dict) else ()
    return [item for item in items if isinstance(item[1], str | int | float)][:MAX_SCALARS]


def _sanitized(value: Any) -> Any:
    """Return file content with texts that are safe to show, and numbers of bounded size."""
    if isinstance(value, dict):
        return {_sanitized(str(key)): _sanitized(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [_sanitized(entry) for entry in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -MAX_INT < value < MAX_INT:
        return value
    text = str(value)
    if len(text) <= MAX_LENGTH:
        return for_terminal(text)
    # The digest distinguishes texts that begin alike.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return for_terminal(text[:MAX_LENGTH]) + f"... ({len(text):,} characters, digest {digest})"


def _read_dict(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """Return the content of a file; empty if it cannot be read or is something else."""
    try:
        content = read(path)
    except ConfigError:
        return {}
    return content if isinstance(content, dict) else {}


def flatten(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a config, keys as on the command line; `kwargs` stay dicts."""
    for key, value in node.items():
        if isinstance(value, dict) and key != "kwargs":
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_budget(folder: Path, config: dict[str, Any]) -> int:
    """Return the budget of `config.yaml`, or the one that the run was resumed with."""
    budget = config.get("total_env_steps", 0)
    try:
        for entry in read_yaml(folder / "resumed.yaml"):
            budget = entry["changed"].get("total_env_steps", {}).get("now", budget)
    except (ConfigError, TypeError, KeyError, AttributeError):
        pass
    return budget if _is_count(budget) else 0


def _read_metrics(path: Path) -> tuple[dict[str, Array], int]:
    """Return the columns, and the number of damaged lines. An incomplete last line is ignored."""
    names = ("env_steps", *TAGS)
    try:
        lines = read_lines(path)
        keys = next(lines, b"").decode(errors="replace").split(",")
    except MissingFileError:
        lines, keys = iter(()), []
    if len(keys) > MAX_COLUMNS:
        raise ConfigError(f"its metrics.csv has more than {MAX_COLUMNS:,} columns")
    # All fields are numbers, so none is quoted; a line with anything else is damaged.
    places = {name: keys.index(name) for name in names if name in keys}
    numbers = array("d")
    damaged, before = 0, 0.0
    for line in lines if "env_steps" in places else ():
        row = _parse_row(line, len(keys), list(places.values()))
        # Environment steps always grow in the file of a run.
        if row and before < row[0] < MAX_INT:
            numbers.extend(row)
            before = row[0]
        else:
            damaged += 1
        if damaged > MAX_DAMAGED:
            raise ConfigError(f"its metrics.csv has more than {MAX_DAMAGED:,} damaged lines")
        if len(numbers) > MAX_ROWS * len(places):
            raise ConfigError(f"its metrics.csv has more than {MAX_ROWS:,} rows")
    table = np.array(numbers).reshape(-1, max(1, len(places)))
    columns = {name: np.full(len(table), np.nan) for name in names}
    columns |= dict(zip(places, table.T.copy(), strict=False))
    return columns, damaged


def _parse_row(line: bytes, count: int, places: list[int]) -> list[float]:
    """Return the fields at some places; nothing if the line is damaged."""
    fields = line.split(b",")
    if len(fields) != count or max(len(fields[place]) for place in places) > MAX_FIELD:
        return []
    try:
        row = [float(fields[place] or b"nan") for place in places]
    except ValueError:
        return []
    return row if all(abs(x) < MAX_FLOAT or not math.isfinite(x) for x in row) else []

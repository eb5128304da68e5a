"""Groups runs that differ only in their seed, and names groups after what distinguishes them."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.runs import Run, flatten
from rlkl.tools.rows import Rows
from rlkl.training.config import TrainConfig

NOT_COMPARED = (
    "seed", "run_dir", "logger", "checkpoint", "device", "threads", "max_bad_updates",
    "eval_episodes", "eval_max_episode_steps", "eval_interval", "total_env_steps", "algo.name",
    "env.id", "env.kwargs", "env.backend", "policy.engine",
)  # fmt: skip
"""Parts of a config that do not split a group: where and how a run is computed, logged and stored,
and what a comparison reports separately."""

MAX_SHOWN_KEYS = 3
"""Keys that all labels show. If more are needed, labels leave out the most common values."""

MAX_SEARCHED_KEYS = 30
"""Keys among which the smallest subset is searched; of more keys, all are used."""

MAX_TEXT, MAX_ENV, MAX_LABEL = 200, 120, 300
"""Characters of a setting, of an environment and of a label; a digest replaces the rest."""

Texts = dict[str, str]
"""Settings as they are typed, by key."""


@dataclass(frozen=True, eq=False)
class Member:
    """A run, the environment it is compared in, and the label of its group."""

    run: Run
    env: str
    label: str


def group_runs(runs: Sequence[Run]) -> list[Member]:
    """Return the runs with their groups, sorted by environment, label and seed.

    A label is the algorithm's name, and the fewest settings that distinguish the groups of each
    environment: settings of the algorithm if runs of that algorithm differ in them, and common
    settings if any runs do. Defaults are left out for a setting that does not vary in every
    environment. If more than `MAX_SHOWN_KEYS` settings are needed, the most common values are left
    out. The name of an environment includes its arguments if its runs differ in them.
    """
    # An older config that lacks a key has the default.
    candidates = [
        _Candidate(run, _env_name(run, runs), _defaults(run.algo) | _texts(run.settings))
        for run in runs
    ]
    common = _LabelKeys(candidates, own=False)
    own = {
        algo: _LabelKeys([c for c in candidates if c.run.algo == algo], own=True)
        for algo in {run.algo for run in runs}
    }
    is_brief = len(common.keys) + max(len(keys.keys) for keys in own.values()) > MAX_SHOWN_KEYS
    members = []
    for candidate in candidates:
        algo = candidate.run.algo
        shown = [*own[algo].shown(candidate, is_brief), *common.shown(candidate, is_brief)]
        label = _shorten(" ".join([algo, *shown]), MAX_LABEL)
        members.append(Member(candidate.run, candidate.env, label))
    return sorted(members, key=lambda m: (m.env, *_sort_key(m), m.run.seed))


class _Candidate(NamedTuple):
    run: Run
    env: str
    texts: Texts


class _LabelKeys:
    """The fewest keys, of the algorithm or common ones, that distinguish the runs of each env."""

    def __init__(self, candidates: Sequence[_Candidate], *, own: bool) -> None:
        envs = dict.fromkeys(c.env for c in candidates)
        tables = [[c.texts for c in candidates if c.env == env] for env in envs]
        keys = [
            key
            for key in _compared_keys(c.run for c in candidates)
            if key.startswith("algo.") == own and any(_varies(key, table) for table in tables)
        ]
        self.keys = _fewest(tables, keys)
        self._everywhere = {key for key in self.keys if all(_varies(key, t) for t in tables)}
        groups = {tuple(texts.get(key) for key in self.keys) for t in tables for texts in t}
        columns = zip(*groups, strict=True)
        self._counts = dict(zip(self.keys, map(Counter, columns), strict=False))

    def shown(self, candidate: _Candidate, is_brief: bool) -> list[str]:
        """Return `key=value` of each key that the label of a run shows.

        A brief label leaves out the most common value among the groups; of two equally common
        values, the default, or else the first in order.
        """
        defaults = _defaults(candidate.run.algo)
        shown = []
        for key in self.keys:
            value, implied = candidate.texts.get(key), defaults.get(key)
            if key in self._everywhere:
                counts = self._counts[key]
                usual = min(counts, key=lambda v: (-counts[v], v != implied, str(v)))
                implied = usual if is_brief else None
            if value != implied:
                shown.append(f"{_short(key, self.keys)}={'–' if value is None else value}")
        return shown


@cache
def _defaults(algo: str) -> Texts:
    config = TrainConfig(algo=ALGORITHMS[algo].config()) if algo in ALGORITHMS else TrainConfig()
    return _texts(dict(flatten(asdict(config))))


def _texts(settings: dict[str, Any]) -> Texts:
    return {key: setting_text(value) for key, value in settings.items()}


def labels_of(members: Iterable[Member]) -> list[str]:
    """Return the labels by the algorithm's place in the registry, unknown algorithms last."""
    return list(dict.fromkeys(member.label for member in sorted(members, key=_sort_key)))


def _sort_key(member: Member) -> tuple[int, list[str | float]]:
    """Return the place of the algorithm, and the label with its numbers as numbers."""
    algo, known = member.run.algo, list(ALGORITHMS)
    place = known.index(algo) if algo in known else len(known)
    # Text and numbers alternate, so texts are compared with texts and numbers with numbers.
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", member.label)
    return place, [float(part) if turn % 2 else part for turn, part in enumerate(parts)]


def _env_name(run: Run, runs: Sequence[Run]) -> str:
    """Return an environment's name, with its arguments if they differ between its runs."""
    own = _arguments(run)
    if not own or all(_arguments(other) == own for other in runs if other.env_id == run.env_id):
        return run.env_id
    shown = ", ".join(f"{key}={setting_text(own[key])}" for key in sorted(own))
    return _shorten(f"{run.env_id} ({shown})", MAX_ENV)


def _arguments(run: Run) -> dict[str, Any]:
    arguments = run.settings.get("env.kwargs")
    return arguments if isinstance(arguments, dict) else {}


def _compared_keys(runs: Iterable[Run]) -> list[str]:
    """Return all keys that may distinguish groups, keys of the algorithm first."""
    values = {key: value for run in runs for key, value in run.settings.items()}
    compared = filter(is_compared, values)
    return sorted(compared, key=lambda k: (not k.startswith("algo."), isinstance(values[k], list)))


def is_compared(key: str) -> bool:
    """Return whether a key may distinguish groups."""
    return not any(f"{key}.".startswith(f"{part}.") for part in NOT_COMPARED)


def _varies(key: str, settings: Iterable[Texts]) -> bool:
    return len({some[key] for some in settings if key in some}) > 1


def _fewest(tables: Sequence[Sequence[Texts]], keys: Sequence[str]) -> list[str]:
    """Return the fewest keys that distinguish as many groups in each environment as all keys."""

    def group_counts(some: Sequence[str]) -> list[int]:
        return [len({tuple(texts.get(key) for key in some) for texts in t}) for t in tables]

    wanted = group_counts(keys)
    most = MAX_SHOWN_KEYS if len(keys) <= MAX_SEARCHED_KEYS else 0
    subsets = (some for count in range(1, most + 1) for some in combinations(keys, count))
    return list(next((some for some in subsets if group_counts(some) == wanted), keys))


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key, unless another key ends with the same part."""
    name = key.rpartition(".")[2]
    alike = [other for other in keys if other.rpartition(".")[2] == name]
    return name if len(alike) == 1 and key.startswith(("algo.", "policy.")) else key


def setting_text(value: Any) -> str:
    """Return a setting as it is typed on the command line."""
    if isinstance(value, dict):
        return _shorten(str(value))
    if isinstance(value, list):
        return _shorten(f"[{','.join(map(setting_text, value))}]")
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else _shorten(str(value))


def _shorten(text: str, longest: int = MAX_TEXT) -> str:
    """Return a text of bounded length; a digest distinguishes texts that begin alike."""
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: longest - 20]}... ({digest})"


def differences(members: Sequence[Member]) -> Rows:
    """Return the keys that differ between runs of one environment, with a column for each group.

    Commas separate several values of a group; a dash means that the group does not have the key.
    Environments with the same values share a row.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    labels = labels_of(members)
    for env in dict.fromkeys(member.env for member in members):
        here = [member for member in members if member.env == env]
        settings = [(member.label, _texts(member.run.settings)) for member in here]
        for key in [*_compared_keys(m.run for m in here), "total_env_steps", "device", "threads"]:
            # Older configs may lack a key.
            if not _varies(key, (texts for _, texts in settings)):
                continue
            values = (
                ", ".join(dict.fromkeys(t[key] for own, t in settings if own == label and key in t))
                for label in labels
            )
            rows.setdefault((key, *(value or "–" for value in values)), []).append(env)
    return [
        {"key": key, "environments": ", ".join(envs), **dict(zip(labels, values, strict=True))}
        for (key, *values), envs in rows.items()
    ]

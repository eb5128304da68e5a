"""Sorts runs into groups that differ in their seed alone, and names what tells groups apart."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.runs import Run, leaves
from rlkl.training.config import TrainConfig

NOT_COMPARED = (
    "seed",
    "run_dir",
    "logger",
    "checkpoint",
    "device",
    "threads",
    "max_bad_updates",
    "eval_episodes",
    "eval_max_episode_steps",
    "eval_interval",
    "total_env_steps",
    "algo.name",
    "env.id",
    "env.kwargs",
    "env.backend",
    "policy.differentiation",
)
"""Parts of a config that do not make another group: where and how a run is kept, shown and
computed, and what a comparison says in words of its own."""

MOST_KEYS = 3
"""Keys that all labels show; where more are needed, each shows those that set its group apart."""

MOST_VARYING = 30
"""Keys among which the fewest are looked for; of more, all are taken."""

MOST_TEXT, MOST_ENV, MOST_LABEL = 200, 120, 300
"""Characters of a setting, of an environment and of a label; a digest stands for the rest."""

Texts = dict[str, str]
"""Settings as they are typed, by key."""


@dataclass(frozen=True, eq=False)
class Member:
    """A run in its place.

    Attributes:
        run: as it was read.
        env: the environment it is compared in.
        label: the group it belongs to.
    """

    run: Run
    env: str
    label: str


def sort(runs: Sequence[Run]) -> list[Member]:
    """Return the runs with their places: by environment, then label, then seed.

    A label is the algorithm's name, and the fewest settings that tell groups of one environment
    apart: those of the algorithm where runs of that algorithm differ in them, and those that all
    algorithms share where any runs do. Where a setting varies in some environments only, its
    default goes without saying, so that plain runs elsewhere belong to the plain group; where more
    than `MOST_KEYS` are needed, so does what is most usual among the groups. An environment's name
    has its arguments behind it where runs of it differ in them.

    Args:
        runs: all of them.
    """
    known: dict[str, list[Any]] = {}
    for run in runs:
        known.setdefault(run.env_id, []).append(_arguments(run))
    # An older config that lacks a key has the default.
    places = [
        _Place(run, _env(run, known[run.env_id]), _texts(_defaults(run.algo) | run.settings))
        for run in runs
    ]
    shared = _Telling(places, lambda key: not key.startswith("algo."))
    by_algo: dict[str, list[_Place]] = {}
    for place in places:
        by_algo.setdefault(place.run.algo, []).append(place)
    own = {algo: _Telling(of, lambda key: key.startswith("algo.")) for algo, of in by_algo.items()}
    brief = len(shared.keys) + max(len(telling.keys) for telling in own.values()) > MOST_KEYS
    members = []
    for place in places:
        algo = place.run.algo
        told = [*own[algo].shown(place, brief=brief), *shared.shown(place, brief=brief)]
        members.append(Member(place.run, place.env, _cut(" ".join([algo, *told]), MOST_LABEL)))
    return sorted(members, key=lambda m: (m.env, *order(m.run.algo, m.label), m.run.seed))


class _Place(NamedTuple):
    run: Run
    env: str
    texts: Texts


class _Telling:
    """The fewest keys that tell the runs of each environment apart.

    Args:
        places: of the runs among which keys are looked for.
        admits: which keys may be shown.
    """

    def __init__(self, places: Sequence[_Place], admits: Callable[[str], bool]) -> None:
        by_env: dict[str, list[Texts]] = {}
        for place in places:
            by_env.setdefault(place.env, []).append(place.texts)
        tables = list(by_env.values())
        keys = [key for key in _keys(place.run for place in places) if admits(key)]
        keys = [key for key in keys if any(_varies(key, table) for table in tables)]
        self.keys = _fewest(tables, keys)
        self.everywhere = {key for key in self.keys if all(_varies(key, t) for t in tables)}
        groups = {tuple(texts.get(key) for key in self.keys) for t in tables for texts in t}
        self._counts = {
            key: Counter(values[number] for values in groups)
            for number, key in enumerate(self.keys)
        }

    def shown(self, place: _Place, *, brief: bool) -> list[str]:
        """Return `key=value` of each key that is worth saying of a run.

        Args:
            place: of the run.
            brief: leave out what is most usual among the groups; of two equally usual values, the
                default, or else the one that is sorted first.
        """
        defaults = _texts(_defaults(place.run.algo))
        told = []
        for key in self.keys:
            value, unsaid = place.texts.get(key), defaults.get(key)
            if key in self.everywhere:
                counts = self._counts[key]
                usual = min(counts, key=lambda v: (-counts[v], v != unsaid, str(v)))
                unsaid = usual if brief else None
            if value != unsaid:
                told.append(f"{_short(key, self.keys)}={'–' if value is None else value}")
        return told


@cache
def _defaults(algo: str) -> dict[str, Any]:
    config = TrainConfig()
    if algo in ALGORITHMS:
        config = TrainConfig(algo=ALGORITHMS[algo].config())
    return dict(leaves(asdict(config)))


def _texts(settings: dict[str, Any]) -> Texts:
    return {key: text(value) for key, value in settings.items()}


def order(algo: str, label: str) -> tuple[int, list[str | float]]:
    """Return what a group is sorted by: its algorithm's place in the registry, then its label.

    Algorithms that the registry lacks come last. Numbers in labels are sorted as numbers.
    """
    known = list(ALGORITHMS)
    place = known.index(algo) if algo in known else len(known)
    # Text and numbers take turns, so that like is compared with like.
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", label)
    return place, [float(part) if turn % 2 else part for turn, part in enumerate(parts)]


def _env(run: Run, arguments: Sequence[Any]) -> str:
    """Return an environment's name, with its arguments if those of other runs of it differ."""
    own = _arguments(run)
    if not own or all(other == own for other in arguments):
        return run.env_id
    told = ", ".join(f"{key}={text(own[key])}" for key in sorted(own))
    return _cut(f"{run.env_id} ({told})", MOST_ENV)


def _arguments(run: Run) -> dict[str, Any]:
    arguments = run.settings.get("env.kwargs")
    return arguments if isinstance(arguments, dict) else {}


def _keys(runs: Iterable[Run]) -> list[str]:
    """Return all keys that may tell groups apart, the most telling first."""
    values = {key: value for run in runs for key, value in run.settings.items()}
    compared = [
        key for key in values if not any(f"{key}.".startswith(f"{part}.") for part in NOT_COMPARED)
    ]
    return sorted(compared, key=lambda k: (not k.startswith("algo."), isinstance(values[k], list)))


def _varies(key: str, settings: Iterable[Texts]) -> bool:
    return len({some[key] for some in settings if key in some}) > 1


def _fewest(tables: Sequence[Sequence[Texts]], keys: Sequence[str]) -> list[str]:
    """Return the fewest keys that tell apart, in each environment, what all of them do."""

    def kinds(some: Sequence[str]) -> list[int]:
        return [len({tuple(texts.get(key) for key in some) for texts in t}) for t in tables]

    if len(keys) > MOST_VARYING:
        return list(keys)
    wanted = kinds(keys)
    for count in range(min(MOST_KEYS, len(keys))):
        for some in combinations(keys, count + 1):
            if kinds(some) == wanted:
                return list(some)
    return list(keys)


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key, unless another one shown ends alike."""
    name = key.rpartition(".")[2]
    alike = [other for other in keys if other.rpartition(".")[2] == name]
    return name if len(alike) == 1 and key.startswith(("algo.", "policy.")) else key


def text(value: Any) -> str:
    """Return a setting as it is typed on the command line."""
    if isinstance(value, list | dict):
        return _cut(str(value) if isinstance(value, dict) else f"[{','.join(map(text, value))}]")
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else _cut(str(value))


def _cut(shown: str, longest: int = MOST_TEXT) -> str:
    """Return a text of bounded length, from which others of the same beginning differ."""
    if len(shown) <= longest:
        return shown
    digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
    return f"{shown[: longest - 20]}... ({digest})"


def differences(members: Sequence[Member]) -> list[dict[str, str]]:
    """Return the keys that differ between runs of one environment, and each group's values.

    Args:
        members: all of them.

    Returns:
        Rows of `key`, `environments`, and a column for each group, where values of one group are
        listed with commas and a dash stands for a key that it does not have. Environments where
        all of that is alike share a row.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    algos = {member.label: member.run.algo for member in members}
    labels = sorted(algos, key=lambda label: order(algos[label], label))
    for env in dict.fromkeys(member.env for member in members):
        here = [member for member in members if member.env == env]
        everywhere = [_texts(member.run.settings) for member in here]
        for key in [*_keys(member.run for member in here), "total_env_steps", "device", "threads"]:
            # A config that lacks a key is older, and says nothing.
            if not _varies(key, everywhere):
                continue
            values = [
                ", ".join(
                    dict.fromkeys(
                        text(member.run.settings[key])
                        for member in here
                        if member.label == label and key in member.run.settings
                    )
                )
                for label in labels
            ]
            rows.setdefault((key, *(value or "–" for value in values)), []).append(env)
    return [
        {"key": key, "environments": ", ".join(envs), **dict(zip(labels, values, strict=True))}
        for (key, *values), envs in rows.items()
    ]

"""Scores of runs, of groups, of pairs of groups, and over all environments, as rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from rlkl.numerics import significance, statistics
from rlkl.numerics.statistics import Floats, Statistic, pooled
from rlkl.tools.compare.groups import Member, labels_of
from rlkl.tools.compare.runs import Array
from rlkl.tools.compare.settings import CompareConfig, Reference
from rlkl.tools.rows import Row, Rows

Strata = Sequence[Floats]

CENTERS: dict[str, Statistic] = {
    "iqm": pooled(statistics.interquartile_mean),
    "mean": pooled(statistics.mean),
}
"""Center over seeds, by `statistic=`."""

PROFILE_POINTS = 101

MIN_SEEDS = 5
"""Seeds of a group in an environment below which no difference is claimed."""

SIGNIFICANCE = 0.05
"""Largest corrected p-value that is called a difference."""


@dataclass(frozen=True, eq=False)
class Entry(Member):
    """A run with its group and its score.

    Attributes:
        last: index of the iteration at the horizon, or of the run's last one before it.
        score: return at the horizon, or NaN.
        left_out: reason why it has no score, or empty.
    """

    last: int
    score: float
    left_out: str

    def until(self, values: Array) -> Array:
        """Return a column up to the horizon."""
        return values[: self.last + 1]


@dataclass(frozen=True, eq=False)
class Environment:
    """All runs of one environment.

    Attributes:
        horizon: environment steps at which runs are compared.
        reference: the scale of normalized scores, or None.
    """

    name: str
    horizon: int
    entries: list[Entry]
    reference: Reference | None

    @property
    def labels(self) -> list[str]:
        """Groups that have a run here."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    def scored(self, label: str) -> list[Entry]:
        """Return the runs of a group that have a score."""
        return [entry for entry in self.entries if entry.label == label and not entry.left_out]

    @property
    def groups(self) -> dict[str, list[Entry]]:
        """The runs that have a score by group."""
        return {label: scored for label in self.labels if (scored := self.scored(label))}

    def scores(self, label: str) -> Array:
        """Return the returns of a group, `[N]`."""
        return np.array([entry.score for entry in self.scored(label)])

    def normalized(self, label: str) -> Array:
        """Return the normalized scores of a group, `[N]`; the environment has a reference."""
        assert self.reference is not None
        return np.asarray(self.reference.normalized(self.scores(label)))


def environments(members: Sequence[Member], config: CompareConfig) -> list[Environment]:
    """Return every environment with the scores of its runs.

    A run's score is its return at the end of the first rollout that reaches the horizon.
    """
    envs = []
    for name in dict.fromkeys(member.env for member in members):
        here = [member for member in members if member.env == name]
        runs = [member.run for member in _unique(here)]
        # Budgets, not rows, so that a finished run with lost rows does not shorten the others.
        finished = [run.budget or run.env_steps for run in runs if run.status == "finished"]
        horizon = config.steps or min(finished or [run.env_steps for run in runs])
        unique = _unique(here, horizon)
        entries = [_entry(member, horizon, member not in unique, config) for member in here]
        scores = [entry.score for entry in entries if not entry.left_out]
        envs.append(Environment(name, horizon, entries, config.reference_of(name, scores)))
    return envs


def all_labels(envs: Sequence[Environment]) -> list[str]:
    """Return the labels of all groups, in the order of the registry of algorithms."""
    return labels_of(entry for env in envs for entry in env.entries)


def _unique(members: Sequence[Member], horizon: int | None = None) -> set[Member]:
    """Return one member for each group and seed.

    A finished run whose budget is the horizon is preferred, because its schedules ended there;
    then the longest run, then the first.
    """

    def preference(member: Member) -> tuple[bool, int]:
        run = member.run
        return run.status == "finished" and run.budget == horizon, run.env_steps

    alike: dict[tuple[str, int], list[Member]] = {}
    for member in members:
        alike.setdefault((member.label, member.run.seed), []).append(member)
    return {max(some, key=preference) for some in alike.values()}


def _entry(member: Member, horizon: int, is_duplicate: bool, config: CompareConfig) -> Entry:
    run = member.run
    reached = int(np.searchsorted(run.steps, horizon))
    last = min(reached, len(run.steps) - 1)
    column = run.columns[f"return/{config.score}"][: last + 1]
    finite = column[np.isfinite(column)]
    score, left_out = math.nan, ""
    if is_duplicate:
        left_out = f"another run of seed {run.seed} counts instead"
    elif reached > last and run.status == "finished":
        left_out = f"its metrics.csv ends at {run.env_steps:,} of {horizon:,} environment steps"
    elif reached > last:
        left_out = f"it made {run.env_steps:,} of {horizon:,} environment steps"
    elif not len(finite):
        left_out = "no episode had ended" if config.score == "train" else "it was not evaluated"
    else:
        score = float(finite[-1])
    return Entry(run, member.env, member.label, last, score, left_out)


def _estimated(key: str, strata: Strata, statistic: Statistic, config: CompareConfig) -> Row:
    """Return a statistic of strata, `[..., N_k]`, and `low` and `high`, its 95% interval.

    The ends are NaN if no stratum has a second run. All intervals use the same seed, so none
    depends on what else is compared.
    """
    low = high = math.nan
    if any(scores.shape[-1] > 1 for scores in strata):
        generator = np.random.default_rng(config.seed)
        low, high = statistics.bootstrap_interval(
            strata, statistic, generator, resamples=config.resamples
        )
    return {key: statistic(strata), "low": low, "high": high}


def band_rows(
    names: tuple[str, str], grid: Array, strata: Strata, statistic: Statistic, config: CompareConfig
) -> Rows:
    """Return a row for each point of a grid, `[M]`: a statistic, `[M]`, and its 95% interval."""
    columns = {names[0]: grid} | _estimated(names[1], strata, statistic, config)
    points = np.transpose(np.broadcast_arrays(*columns.values())).tolist()
    return [dict(zip(columns, point, strict=True)) for point in points]


def by_group(
    rows_of: Callable[[Environment, list[Entry], CompareConfig], Rows],
) -> Callable[[Sequence[Environment], CompareConfig], Rows]:
    """Turn a function of the scored runs of one group into one of all groups and environments."""

    def all_rows(envs: Sequence[Environment], config: CompareConfig) -> Rows:
        return [
            {"environment": env.name, "group": label, **row}
            for env in envs
            for label, entries in env.groups.items()
            for row in rows_of(env, entries, config)
        ]

    return all_rows


def run_rows(envs: Sequence[Environment]) -> Rows:
    """Return a row for each run."""
    return [
        {
            "environment": env.name,
            "group": entry.label,
            "seed": entry.run.seed,
            "status": entry.run.status,
            "env_steps": entry.run.env_steps,
            "return": entry.score,
            "normalized": env.reference.normalized(entry.score) if env.reference else math.nan,
            "evaluation": entry.run.eval_return,
            "wall_seconds": float(entry.run.seconds[entry.last]),
            "left_out": entry.left_out,
            "folder": entry.run.shown,
        }
        for env in envs
        for entry in env.entries
    ]


@by_group
def result_rows(env: Environment, entries: list[Entry], config: CompareConfig) -> Rows:
    """Return one row: the returns at the horizon."""
    scores = np.array([entry.score for entry in entries])
    evaluated = [x for x in (entry.run.eval_return for entry in entries) if math.isfinite(x)]
    row = {
        "seeds": len(entries),
        **_estimated(config.statistic, [scores], CENTERS[config.statistic], config),
        "mean": float(scores.mean()),
        "std": float(scores.std(ddof=1)) if len(scores) > 1 else math.nan,
        "min": float(scores.min()),
        "max": float(scores.max()),
        "evaluation": float(np.mean(evaluated)) if evaluated else math.nan,
        "wall_seconds": float(np.median([entry.run.seconds[entry.last] for entry in entries])),
    }
    return [row]


def common(envs: Sequence[Environment]) -> tuple[list[Environment], list[str]]:
    """Return the environments with normalized scores of all groups, and the groups with scores."""
    labels = [label for label in all_labels(envs) if any(env.scored(label) for env in envs)]
    shared = [env for env in envs if env.reference and all(map(env.scored, labels))]
    return shared, labels


AGGREGATES: dict[str, Statistic] = {
    "mean": statistics.mean_of_means,
    "median": statistics.median_of_means,
    "iqm": pooled(statistics.interquartile_mean),
    "optimality_gap": statistics.optimality_gap,
}


def aggregate_rows(envs: Sequence[Environment], config: CompareConfig) -> Rows:
    """Return a row for each group and aggregate of its normalized scores over environments."""
    shared, labels = common(envs)
    rows = []
    for label in labels if shared else []:
        strata = [env.normalized(label) for env in shared]
        counts = {"environments": len(shared), "runs": sum(map(len, strata))}
        for name, statistic in AGGREGATES.items():
            estimate = _estimated("value", strata, statistic, config)
            rows.append({"group": label, "aggregate": name} | estimate | counts)
    return rows


def profile_rows(envs: Sequence[Environment], config: CompareConfig) -> Rows:
    """Return for each group the share of its runs above each normalized score."""
    shared, labels = common(envs)
    if not shared:
        return []
    scores = np.concatenate([env.normalized(label) for env in shared for label in labels])
    thresholds = np.linspace(min(0.0, scores.min()), max(1.0, scores.max()), PROFILE_POINTS)
    profile = partial(statistics.performance_profile, thresholds=thresholds)
    rows = []
    for label in labels:
        strata = [env.normalized(label) for env in shared]
        band = band_rows(("score", "share"), thresholds, strata, profile, config)
        rows += [{"group": label, **row} for row in band]
    return rows


def pair_rows(envs: Sequence[Environment], config: CompareConfig) -> Rows:
    """Return for each pair of groups how likely a run of the first beats one of the second.

    `p_value` is NaN for a pair that is not tested, because a group has fewer than `MIN_SEEDS`
    seeds in an environment. `corrected` is Holm's correction for the number of `tested` pairs.
    """
    rows: Rows = []
    for first, second in combinations(all_labels(envs), 2):
        shared = [env for env in envs if env.scored(first) and env.scored(second)]
        if not shared:
            continue
        strata = [env.scores(label) for label in (first, second) for env in shared]

        def probability(drawn: Strata, count: int = len(shared)) -> Any:
            return statistics.probability_of_improvement(drawn[:count], drawn[count:])

        estimate = _estimated("probability", strata, probability, config)
        seeds = min(len(scores) for scores in strata)
        p_value, count = math.nan, len(shared)
        if seeds >= MIN_SEEDS:
            p_value = significance.improvement_p_value(strata[:count], strata[count:])
        rows.append(
            {
                "first": first,
                "second": second,
                **estimate,
                "p_value": p_value,
                "corrected": math.nan,
                "told_apart": False,
                "seeds": seeds,
                "environments": count,
            }
        )
    tested = [row for row in rows if row["seeds"] >= MIN_SEEDS]
    corrected = significance.holm([row["p_value"] for row in tested])
    for row, value in zip(tested, corrected, strict=True):
        row |= {"corrected": value, "told_apart": value < SIGNIFICANCE}
    return [row | {"tested": len(tested)} for row in rows]


def pair_rows_by_environment(envs: Sequence[Environment], config: CompareConfig) -> Rows:
    """Return `pair_rows` of each environment, corrected for the pairs of that environment."""
    return [{"environment": env.name, **row} for env in envs for row in pair_rows([env], config)]

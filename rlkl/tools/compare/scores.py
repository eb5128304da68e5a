"""The score of each run, and what scores say of a group, of a pair of groups, and of all together.

Everything here is rows: what is drawn and printed is made from them alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rlkl.numerics.statistics import (
    Floats,
    Statistic,
    bootstrap_interval,
    interquartile_mean,
    mean,
    mean_of_means,
    median_of_means,
    optimality_gap,
    performance_profile,
    pooled,
    probability_of_improvement,
)
from rlkl.tools.compare.groups import Member, order
from rlkl.tools.compare.references import Reference, reference
from rlkl.tools.compare.rows import Rows
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.settings import CompareConfig

STATISTICS: dict[str, Any] = {"iqm": interquartile_mean, "mean": mean}
PROFILE_POINTS = 101

FEW = 5
"""Seeds of a group in an environment; nothing is said to differ of groups with fewer."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A run that is compared.

    Attributes:
        member: the run in its place.
        at: index of the iteration that the comparison is made at; its last if it got no further.
        score: its return there; NaN if it did not get there, or no episode had ended.
        left_out: in words, why it has no score; empty if it has one.
    """

    member: Member
    at: int
    score: float
    left_out: str

    @property
    def run(self) -> Run:
        """The run."""
        return self.member.run

    def until(self, values: Array) -> Array:
        """Return what there is of a column up to the comparison."""
        return values[: self.at + 1]


@dataclass(frozen=True, eq=False)
class Field:
    """All runs of one environment.

    Attributes:
        env: its name.
        horizon: environment steps that the comparison is made at.
        entries: every run.
        reference: the ends of the normalised score, or None.
    """

    env: str
    horizon: int
    entries: list[Entry]
    reference: Reference | None

    @property
    def labels(self) -> list[str]:
        """Groups that have a run here."""
        return list(dict.fromkeys(entry.member.label for entry in self.entries))

    def of(self, label: str) -> list[Entry]:
        """Return the runs of a group that have a score."""
        found = [entry for entry in self.entries if entry.member.label == label]
        return [entry for entry in found if not entry.left_out]

    def scores(self, label: str) -> Array:
        """Return the returns of a group, `[N]`."""
        return np.array([entry.score for entry in self.of(label)])

    def normalized(self, label: str) -> Array:
        """Return the normalised scores of a group, `[N]`; the environment has a reference."""
        assert self.reference is not None
        return np.array([self.reference.normalized(x) for x in self.scores(label)])


def fields(members: Sequence[Member], config: CompareConfig) -> list[Field]:
    """Return every environment with the score of each of its runs.

    A run's score is its return at the end of the first rollout that reaches the horizon: the rule
    by which a run of that budget ends.

    Args:
        members: all runs.
        config: settings.
    """
    found = []
    for env in dict.fromkeys(member.env for member in members):
        here = [member for member in members if member.env == env]
        copies = _copies(here)
        alone = [member.run for member in here if id(member) not in copies]
        horizon = config.steps or _horizon(alone)
        copies = _copies(here, horizon)
        entries = [_entry(member, horizon, copies, config) for member in here]
        scores = [entry.score for entry in entries if not entry.left_out]
        found.append(Field(env, horizon, entries, reference(env, scores, config)))
    return found


def groups(found: Sequence[Field]) -> list[str]:
    """Return the labels of all groups, in the order of the registry of algorithms."""
    algos = {entry.member.label: entry.run.algo for field in found for entry in field.entries}
    return sorted(algos, key=lambda label: order(algos[label], label))


def _horizon(runs: Sequence[Run]) -> int:
    # Budgets, not rows: a finished run whose rows were lost cuts nothing off from the others.
    finished = [run.budget or run.env_steps for run in runs if run.status == "finished"]
    return min(finished or [run.env_steps for run in runs])


def _copies(members: Sequence[Member], horizon: int | None = None) -> set[int]:
    """Return the runs that another one of their group and seed stands for.

    One that was to end at the horizon stands for those whose schedules were to go on, and else the
    one that got on.
    """

    def worth(run: Run) -> tuple[bool, int]:
        return run.status == "finished" and run.budget == horizon, run.env_steps

    best: dict[tuple[str, int], Member] = {}
    copies = set()
    for member in members:
        key = (member.label, member.run.seed)
        other = best.setdefault(key, member)
        if other is not member:
            ahead = worth(member.run) > worth(other.run)
            copies.add(id(other if ahead else member))
            best[key] = member if ahead else other
    return copies


def _entry(member: Member, horizon: int, copies: set[int], config: CompareConfig) -> Entry:
    run = member.run
    reached = int(np.searchsorted(run.steps, horizon))
    at = min(reached, len(run.steps) - 1)
    column = run.columns["return/train" if config.score == "train" else "return/eval"]
    finite = np.flatnonzero(np.isfinite(column[: at + 1]))
    score = float(column[finite[-1]]) if len(finite) else math.nan
    if id(member) in copies:
        left_out = f"another run of seed {run.seed} stands for it"
    elif reached > at and run.status == "finished":
        left_out = f"its metrics.csv ends at {run.env_steps:,} of {horizon:,} environment steps"
    elif reached > at:
        left_out = f"it made {run.env_steps:,} of {horizon:,} environment steps"
    elif not len(finite):
        left_out = "no episode had ended" if config.score == "train" else "it was not evaluated"
    else:
        left_out = ""
    return Entry(member, at, math.nan if left_out else score, left_out)


def interval(
    strata: Sequence[Floats], statistic: Statistic, config: CompareConfig
) -> tuple[Any, Any]:
    """Return a 95% interval; NaN at both ends where no stratum has a second run.

    Each begins with the same chance, so that no interval hangs on what else is compared.

    Args:
        strata: `[..., N_k]` each.
        statistic: of them.
        config: settings of the bootstrap.
    """
    if all(scores.shape[-1] < 2 for scores in strata):
        return math.nan, math.nan
    generator = np.random.default_rng(config.seed)
    return bootstrap_interval(strata, statistic, generator, resamples=config.resamples)


def run_rows(found: Sequence[Field]) -> Rows:
    """Return a row for each run: what it is, its score, and why it has none."""
    return [
        {
            "environment": field.env,
            "group": entry.member.label,
            "seed": entry.run.seed,
            "status": entry.run.status,
            "env_steps": entry.run.env_steps,
            "return": entry.score,
            "normalized": field.reference.normalized(entry.score) if field.reference else math.nan,
            "evaluation": entry.run.eval_return,
            "wall_seconds": float(entry.run.seconds[entry.at]),
            "left_out": entry.left_out,
            "folder": entry.run.shown,
        }
        for field in found
        for entry in field.entries
    ]


def result_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return a row for each group of each environment: its returns at the horizon."""
    rows = []
    for field in found:
        for label in field.labels:
            scores, entries = field.scores(label), field.of(label)
            if not len(scores):
                continue
            center = pooled(STATISTICS[config.statistic])
            low, high = interval([scores], center, config)
            ends = np.array([entry.run.seconds[entry.at] for entry in entries])
            evaluations = [entry.run.eval_return for entry in entries]
            evaluated = [x for x in evaluations if math.isfinite(x)]
            rows.append(
                {
                    "environment": field.env,
                    "group": label,
                    "seeds": len(scores),
                    config.statistic: float(center([scores])),
                    "low": float(low),
                    "high": float(high),
                    "mean": float(scores.mean()),
                    "std": float(scores.std(ddof=1)) if len(scores) > 1 else math.nan,
                    "min": float(scores.min()),
                    "max": float(scores.max()),
                    "evaluation": float(np.mean(evaluated)) if evaluated else math.nan,
                    "wall_seconds": float(np.median(ends)),
                }
            )
    return rows


def common(found: Sequence[Field]) -> tuple[list[Field], list[str]]:
    """Return the environments where every group has a score, and all groups that have one.

    Only there can scores of all groups be put together; environments without a scale are not.
    """
    labels = [x for x in groups(found) if any(field.of(x) for field in found)]
    shared = [
        field
        for field in found
        if field.reference is not None and all(field.of(label) for label in labels)
    ]
    return shared, labels


AGGREGATES: dict[str, Statistic] = {
    "mean": mean_of_means,
    "median": median_of_means,
    "iqm": pooled(interquartile_mean),
    "optimality_gap": optimality_gap,
}


def aggregate_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return a row for each group and aggregate of its normalised scores over environments."""
    shared, labels = common(found)
    rows = []
    for label in labels if shared else []:
        strata = [field.normalized(label) for field in shared]
        for name, statistic in AGGREGATES.items():
            low, high = interval(strata, statistic, config)
            rows.append(
                {
                    "group": label,
                    "aggregate": name,
                    "value": float(statistic(strata)),
                    "low": float(low),
                    "high": float(high),
                    "environments": len(shared),
                    "runs": sum(map(len, strata)),
                }
            )
    return rows


def profile_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return for each group the share of its runs above each normalised score."""
    shared, labels = common(found)
    if not shared:
        return []
    every = np.concatenate([field.normalized(label) for field in shared for label in labels])
    ends = min(0.0, every.min()), max(1.0, every.max())
    thresholds = np.linspace(ends[0], ends[1], PROFILE_POINTS)
    rows = []
    for label in labels:
        strata = [field.normalized(label) for field in shared]

        def profile(drawn: Sequence[Floats]) -> Any:
            return performance_profile(drawn, thresholds)

        low, high = interval(strata, profile, config)
        columns = np.broadcast_arrays(thresholds, profile(strata), low, high)
        rows += [
            dict(zip(("group", "score", "share", "low", "high"), (label, *point), strict=True))
            for point in np.transpose(columns).tolist()
        ]
    return rows


def pair_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return for each two groups how likely a run of the one beats a run of the other."""
    rows = []
    for first, second in combinations(groups(found), 2):
        shared = [field for field in found if field.of(first) and field.of(second)]
        if not shared:
            continue
        strata = [field.scores(first) for field in shared]
        strata += [field.scores(second) for field in shared]

        def chance(drawn: Sequence[Floats], count: int = len(shared)) -> Any:
            return probability_of_improvement(drawn[:count], drawn[count:])

        low, high = interval(strata, chance, config)
        # Intervals from few runs are too narrow to say anything by.
        seeds = min(len(scores) for scores in strata)
        told_apart = seeds >= FEW and bool(low > 0.5 or high < 0.5)
        rows.append(
            {
                "first": first,
                "second": second,
                "probability": float(chance(strata)),
                "low": float(low),
                "high": float(high),
                "told_apart": told_apart,
                "seeds": seeds,
                "environments": len(shared),
            }
        )
    return rows

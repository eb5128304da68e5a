"""How soon a run solves its task, how far it falls back, and whether its KL kept its bound."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.references import Reference, threshold
from rlkl.tools.compare.rows import Row, Rows
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.scores import Entry, Field
from rlkl.tools.compare.settings import CompareConfig

SLACK = 1e-3
"""Of a bound, relative: the line search evaluates the network in float32, the report in float64."""


def steps_to(run: Run, goal: float) -> float:
    """Return environment steps until the training return first reaches a goal; inf if never.

    Args:
        run: whose.
        goal: for the mean return of the last 100 training episodes.
    """
    with np.errstate(invalid="ignore"):
        reached = np.flatnonzero(run.columns["return/train"] >= goal)
    return float(run.steps[reached[0]]) if len(reached) else math.inf


def worst_drop(values: Array) -> float:
    """Return the largest fall from a running best: max over s < t of y_s - y_t; never below 0.

    Args:
        values: y, `[T]`; NaN counts as no value.
    """
    there = values[np.isfinite(values)]
    if not len(there):
        return math.nan
    return float(np.max(np.maximum.accumulate(there) - there))


def kl_bounds(run: Run) -> Array:
    """Return up to where the KL of each update should lie, in nats; NaN where nothing bounds it.

    That is the column `kl/target`, which follows its schedule, times what the algorithm takes for
    broken: 1 for TRPO's and NPG's δ, 1.5 where an adaptive β doubles or an early stop comes.

    Args:
        run: whose.
    """
    return run.columns["kl/target"] * _multiple(run)


def _multiple(run: Run) -> float:
    if run.algo not in ALGORITHMS:
        return 1.0
    prefix = "algo."
    own = {key[len(prefix) :]: v for key, v in run.settings.items() if key.startswith(prefix)}
    try:
        config = ALGORITHMS[run.algo].config(**own)
    except (TypeError, ValueError):  # of another version of rlkl
        config = ALGORITHMS[run.algo].config()
    return config.kl_bounds[1]


def threshold_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return for each group how many runs reached the threshold within the horizon, and when.

    The median is over all runs, where one that did not reach it counts as later than any other: it
    is infinite unless more than half of them did.

    Args:
        found: environments; those without a threshold are left out.
        config: settings.
    """
    rows: Rows = []
    for field in found:
        goal = threshold(field.env, config)
        if goal is None:
            continue
        for label in field.labels:
            taken = reached_at(field.of(label), goal[0])
            if not len(taken):
                continue
            in_time = taken[np.isfinite(taken)]
            rows.append(
                {
                    "environment": field.env,
                    "group": label,
                    "threshold": goal[0],
                    "source": goal[1],
                    "seeds": len(taken),
                    "reached": len(in_time),
                    "median_steps": float(np.median(taken)),
                    "first_steps": float(in_time.min()) if len(in_time) else math.inf,
                    "last_steps": float(taken.max()),
                }
            )
    return rows


def reached_at(entries: Sequence[Entry], goal: float) -> Array:
    """Return the steps to a goal of each run that is compared, inf for those beyond the horizon."""
    taken = np.array([steps_to(entry.run, goal) for entry in entries])
    ends = np.array([entry.run.steps[entry.at] for entry in entries])
    return np.where(taken <= ends, taken, math.inf) if len(entries) else taken


def stability_rows(found: Sequence[Field]) -> Rows:
    """Return for each group its falls from a running best, and how its updates kept their KL bound.

    Args:
        found: environments.
    """
    return [
        {"environment": field.env, "group": label, **_stability(field.of(label), field.reference)}
        for field in found
        for label in field.labels
        if field.of(label)
    ]


def _stability(entries: Sequence[Entry], reference: Reference | None) -> Row:
    drops = [worst_drop(entry.until(entry.run.columns["return/train"])) for entry in entries]
    kl, largest = (
        np.concatenate([entry.until(entry.run.columns[tag]) for entry in entries])
        for tag in ("kl/old_new", "kl/max")
    )
    bounds = np.concatenate([entry.until(kl_bounds(entry.run)) for entry in entries])
    # NaN is an update that was taken back, which cannot have kept a bound; infinity broke it.
    bounded = np.isfinite(bounds) & ~np.isnan(kl)
    broken = kl[bounded] > bounds[bounded] * (1 + SLACK)
    # Between runs that end nearly alike, any fall on the way would look huge.
    scale = math.nan if reference is None or reference.relative else reference.range
    return {
        "seeds": len(entries),
        "least_drop": min(drops),
        "median_drop": float(np.median(drops)),
        "worst_drop": max(drops),
        "worst_drop_normalized": max(drops) / scale,
        "updates": len(kl),
        "over_bound": float(broken.mean()) if bounded.any() else math.nan,
        "median_kl": _of_numbers(np.median, kl),
        "largest_kl": _of_numbers(np.max, kl),
        "largest_kl_of_a_state": _of_numbers(np.max, largest),
        "not_finite": int((~np.isfinite(kl)).sum()),
    }


def _of_numbers(statistic: Callable[[Array], Any], values: Array) -> float:
    """Return a statistic of what is not NaN; NaN if nothing is."""
    there = values[~np.isnan(values)]
    return float(statistic(there)) if len(there) else math.nan

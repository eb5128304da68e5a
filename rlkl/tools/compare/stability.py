"""Steps to the threshold, drops of the return, and updates that exceeded their KL bound."""

import math
from collections.abc import Sequence

import numpy as np

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.references import threshold
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.scores import Entry, Environment, by_group
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.rows import Rows

TOLERANCE = 1e-3
"""Of a bound, relative: the line search and the report evaluate float32 networks separately."""


def worst_drop(values: Array) -> float:
    """Return the largest drop from the best so far: max over s ≤ t of y_s - y_t, without NaNs."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan
    return float(np.max(np.maximum.accumulate(finite) - finite))


def kl_bounds(run: Run) -> Array:
    """Return the upper bound of the KL of each update, in nats; NaN if there is none.

    It is the column `kl/target`, which follows its schedule, times the algorithm's upper factor in
    `kl_bounds`, such as 1 for the δ of TRPO and NPG, and 1.5 by default for an adaptive β.
    """
    targets = run.columns["kl/target"]
    if run.algo not in ALGORITHMS:
        return targets
    settings = run.settings.items()
    own = {key.removeprefix("algo."): value for key, value in settings if key.startswith("algo.")}
    try:
        config = ALGORITHMS[run.algo].config(**own)
    except (TypeError, ValueError):  # of another version of rlkl
        config = ALGORITHMS[run.algo].config()
    return targets * config.kl_bounds[1]


@by_group
def threshold_rows(env: Environment, entries: list[Entry], config: CompareConfig) -> Rows:
    """Return one row: how many runs reached the threshold within the horizon, and when.

    The median counts runs that did not reach it as infinite. Without a threshold there is no row.
    """
    goal = threshold(env.name, config)
    if goal is None:
        return []
    steps = reached_at(entries, goal[0])
    row = {
        "threshold": goal[0],
        "source": goal[1],
        "seeds": len(steps),
        "reached": int(np.isfinite(steps).sum()),
        "median_steps": float(np.median(steps)),
        "first_steps": float(steps.min()),
        "last_steps": float(steps.max()),
    }
    return [row]


def reached_at(entries: Sequence[Entry], goal: float) -> Array:
    """Return the steps of each run until its training return first reaches a goal, `[N]`.

    They are infinite if it does not within the horizon.
    """
    first = []
    for entry in entries:
        reached = np.flatnonzero(entry.until(entry.run.columns["return/train"]) >= goal)
        first.append(entry.run.steps[reached[0]] if len(reached) else math.inf)
    return np.array(first)


@by_group
def stability_rows(env: Environment, entries: list[Entry], config: CompareConfig) -> Rows:
    """Return one row: the drops of the returns, and the updates beyond their KL bound."""
    drops = [worst_drop(entry.until(entry.run.columns["return/train"])) for entry in entries]
    kl, largest = (
        np.concatenate([entry.until(entry.run.columns[tag]) for entry in entries])
        for tag in ("kl/old_new", "kl/max")
    )
    bounds = np.concatenate([entry.until(kl_bounds(entry.run)) for entry in entries])
    # NaN is an update that was rolled back; it does not count. Infinity exceeds every bound.
    bounded = np.isfinite(bounds) & ~np.isnan(kl)
    exceeds = kl[bounded] > bounds[bounded] * (1 + TOLERANCE)
    # On the scale of runs that end nearly alike, any drop would look huge.
    scale = env.reference.range if env.reference and not env.reference.relative else math.nan
    row = {
        "seeds": len(entries),
        "least_drop": min(drops),
        "median_drop": float(np.median(drops)),
        "worst_drop": max(drops),
        "worst_drop_normalized": max(drops) / scale,
        "updates": len(kl),
        "over_bound": float(exceeds.mean()) if bounded.any() else math.nan,
        "median_kl": float(np.median(_known(kl))),
        "largest_kl": float(np.max(_known(kl))),
        "largest_kl_of_a_state": float(np.max(_known(largest))),
        "not_finite": int((~np.isfinite(kl)).sum()),
    }
    return [row]


def _known(values: Array) -> Array:
    """Return the values that are not NaN, or one NaN."""
    known = values[~np.isnan(values)]
    return known if len(known) else np.array([math.nan])

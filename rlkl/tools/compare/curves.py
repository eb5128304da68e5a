"""Rows about the course of training: curves, steps to the threshold, drops, KL bounds."""

import math
from collections.abc import Sequence

import numpy as np

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.scores import CENTERS, Entry, Environment, band_rows, by_group, common
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.rows import Rows

POINTS = 101
"""Points of a curve, however many iterations a run made."""

BINS = 40
"""Equal parts of the steps, in each of which diagnostics of updates are averaged."""

UPDATES = {
    "kl/old_new": ("KL", "KL(π_old ‖ π_θ), nats"),
    "ratio/std": ("ratio", "its standard deviation"),
    "policy/entropy": ("entropy", "entropy, nats"),
    "value/explained_variance": ("critic", "explained variance"),
}
"""Diagnostics of updates by tag: title and axis label of their charts."""

TOLERANCE = 1e-3
"""Of a bound, relative: the line search and the report evaluate float32 networks separately."""


def training_curve(run: Run, axis: str, length: int | None = None) -> tuple[Array, Array]:
    """Return the `steps` or `seconds`, and the training returns, of iterations with a return."""
    x = (run.steps if axis == "steps" else run.seconds)[:length]
    returns = run.columns["return/train"][:length]
    finite = np.isfinite(returns)
    return x[finite], returns[finite]


def seed_curve(run: Run, axis: str) -> tuple[list[float], list[float]]:
    """Return the whole training curve of a run, reduced to at most `POINTS` points."""
    x, returns = training_curve(run, axis)
    if len(x) > POINTS:
        kept = np.linspace(0, len(x) - 1, POINTS).round().astype(int)
        x, returns = x[kept], returns[kept]
    return x.tolist(), returns.tolist()


@by_group
def curve_rows(env: Environment, entries: list[Entry], config: CompareConfig) -> Rows:
    """Return the training return along steps and along wall time, with its band.

    A curve starts where all runs of the group have ended an episode, and ends where the first of
    them ends, so that every point includes all runs.
    """
    rows = []
    for axis in ("steps", "seconds"):
        lines = [line for line in _until_horizon(entries, axis) if len(line[0])]
        start = max((float(x[0]) for x, _ in lines), default=0.0)
        end = min((float(x[-1]) for x, _ in lines), default=0.0)
        if start < end:
            grid = np.linspace(start, end, POINTS)
            returns = np.stack([np.interp(grid, x, y) for x, y in lines], axis=-1)
            rows += [{"axis": axis, **row} for row in _center_rows(grid, [returns], config)]
    return rows


def together_rows(envs: Sequence[Environment], config: CompareConfig) -> Rows:
    """Return each group's normalized score along steps, over all environments, with its band.

    This is the sample-efficiency curve of Agarwal et al. 2021 (section 4.3). It starts where every
    run has ended an episode. If environments are compared at different steps, the axis is the share
    of them.
    """
    shared, labels = common(envs)
    if len(shared) < 2:
        return []
    start = max(
        x[0] / env.horizon if len(x) else 1.0
        for env in shared
        for label in labels
        for x, _ in _until_horizon(env.scored(label), "steps")
    )
    if not start < 1:
        return []
    horizons = {env.horizon for env in shared}
    grid, rows = np.linspace(start, 1, POINTS), []
    length = horizons.pop() if len(horizons) == 1 else 1
    for label in labels:
        strata = []
        for env in shared:
            assert env.reference is not None
            lines = _until_horizon(env.scored(label), "steps")
            returns = np.stack([np.interp(grid * env.horizon, x, y) for x, y in lines], axis=-1)
            strata.append(env.reference.normalized(returns))
        rows += [{"group": label, **row} for row in _center_rows(grid * length, strata, config)]
    return rows


def _until_horizon(entries: Sequence[Entry], axis: str) -> list[tuple[Array, Array]]:
    return [training_curve(entry.run, axis, entry.last + 1) for entry in entries]


@by_group
def update_rows(env: Environment, entries: list[Entry], config: CompareConfig) -> Rows:
    """Return the diagnostics of updates along steps, averaged in each of `BINS` parts, with bands.

    Values that are not finite, such as an infinite KL, are left out; `stability_rows` counts them.
    """
    edges = np.linspace(0, env.horizon, BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    rows = []
    for tag in UPDATES:
        values = np.stack([_binned(entry, tag, edges) for entry in entries], axis=-1)
        finite = np.isfinite(values).all(-1)
        if finite.any():
            bands = _center_rows(middles[finite], [values[finite]], config)
            rows += [{"tag": tag, **row} for row in bands]
    return rows


def _binned(entry: Entry, tag: str, edges: Array) -> Array:
    """Return the mean of a column in each bin; empty bins between others are interpolated."""
    columns = entry.run.columns
    column = columns[tag]
    if np.isnan(column).all():  # without a closed form there is a Monte Carlo estimate
        column = columns.get(f"{tag}_estimate", column)
    steps, values = entry.until(entry.run.steps), entry.until(column)
    finite = np.isfinite(values)
    # An update counts for the steps before it; the last one may lie beyond the horizon.
    places = np.clip(np.searchsorted(edges, steps[finite]) - 1, 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, values[finite], minlength=BINS)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return np.full(BINS, np.nan)
    return np.interp(
        np.arange(BINS), filled, sums[filled] / counts[filled], left=np.nan, right=np.nan
    )


def _center_rows(grid: Array, strata: Sequence[Array], config: CompareConfig) -> Rows:
    return band_rows(("x", "value"), grid, strata, CENTERS[config.statistic], config)


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
    goal = config.threshold_of(env.name)
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
    """Return the steps until each training return reaches a goal, `[N]`; infinite if never."""
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

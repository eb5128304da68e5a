"""Curves along training: returns by steps and by wall time, and what the updates did meanwhile."""

from collections.abc import Sequence

import numpy as np

from rlkl.numerics.statistics import pooled
from rlkl.tools.compare.rows import Row, Rows
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.scores import STATISTICS, Entry, Field, common, interval
from rlkl.tools.compare.settings import CompareConfig

POINTS = 101
"""Of a curve: enough for a figure of this size, however many iterations a run made."""

BINS = 40
"""Of what updates did, which differs from one to the next: their mean in each stretch is drawn."""

UPDATES = ("kl/old_new", "ratio/std", "policy/entropy", "value/explained_variance")
"""What is drawn of updates, side by side."""


def tag_of(run: Run, tag: str) -> Array:
    """Return a column, or the estimate that stands for it where it has no closed form."""
    column = run.columns[tag]
    estimate = run.columns.get(f"{tag}_estimate")
    return estimate if estimate is not None and np.isnan(column).all() else column


def thin(run: Run, axis: str) -> tuple[Array, Array]:
    """Return a run's training return along steps or seconds, at no more points than are drawn."""
    values = run.columns["return/train"]
    x = run.steps if axis == "steps" else run.seconds
    there = np.flatnonzero(np.isfinite(values))
    if len(there) > POINTS:
        there = there[np.linspace(0, len(there) - 1, POINTS).round().astype(int)]
    return x[there], values[there]


def curve_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return the training return of each group along steps and along wall time, with its band.

    A curve begins where each of its runs has ended an episode and ends where the first of them
    ends, so that every point is made from all runs: none drops out on the way.

    Args:
        found: environments.
        config: settings.
    """
    rows: Rows = []
    for field in found:
        for label in field.labels:
            for axis in ("steps", "seconds"):
                lines = [_line(entry, axis) for entry in field.of(label)]
                lines = [line for line in lines if len(line[0])]
                if not lines:
                    continue
                start = max(float(x[0]) for x, _ in lines)
                end = min(float(x[-1]) for x, _ in lines)
                if not start < end:
                    continue
                grid = np.linspace(start, end, POINTS)
                values = np.stack([np.interp(grid, x, y) for x, y in lines], axis=-1)
                here: Row = {"environment": field.env, "group": label, "axis": axis}
                rows += _banded(here, grid, [values], config)
    return rows


def together_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return each group's normalised score along steps, over all environments, with its band.

    It is the sample-efficiency curve of Agarwal et al. 2021 (section 4.3): at each point the
    statistic of all runs. It begins where every run has ended an episode. Where environments are
    compared at different steps, the axis is the share of them.

    Args:
        found: environments.
        config: settings.
    """
    shared, labels = common(found)
    if len(shared) < 2:
        return []
    horizons = {field.horizon for field in shared}
    length = horizons.pop() if len(horizons) == 1 else 1
    lines = {(f, x): [_line(e, "steps") for e in field.of(x)]
             for f, field in enumerate(shared) for x in labels}  # fmt: skip
    start = max(
        x[0] / shared[f].horizon if len(x) else 1.0 for (f, _), of in lines.items() for x, _ in of
    )
    if not start < 1:
        return []
    grid, rows = np.linspace(start, 1, POINTS), []
    for label in labels:
        strata = []
        for f, field in enumerate(shared):
            assert field.reference is not None
            returns = [np.interp(grid * field.horizon, x, y) for x, y in lines[f, label]]
            low, span = field.reference.low, field.reference.range
            strata.append((np.stack(returns, axis=-1) - low) / span)
        rows += _banded({"group": label}, grid * length, strata, config)
    return rows


def _line(entry: Entry, axis: str) -> tuple[Array, Array]:
    run = entry.run
    x = entry.until(run.steps if axis == "steps" else run.seconds)
    values = entry.until(run.columns["return/train"])
    there = np.isfinite(values)
    return x[there], values[there]


def update_rows(found: Sequence[Field], config: CompareConfig) -> Rows:
    """Return what updates did along steps, in the mean of each of `BINS` stretches, with bands.

    Values that are not finite, such as the KL of a policy that left out what π_old did, are left
    out here; `stability_rows` counts them.

    Args:
        found: environments.
        config: settings.
    """
    rows: Rows = []
    for field in found:
        edges = np.linspace(0, field.horizon, BINS + 1)
        for label in field.labels:
            for tag in UPDATES:
                lines = [_binned(entry, tag, edges) for entry in field.of(label)]
                if not lines:
                    continue
                values = np.stack(lines, axis=-1)
                there = np.isfinite(values).all(-1)
                if there.any():
                    here: Row = {"environment": field.env, "group": label, "tag": tag}
                    middles = (edges[:-1] + edges[1:]) / 2
                    rows += _banded(here, middles[there], [values[there]], config)
    return rows


def _binned(entry: Entry, tag: str, edges: Array) -> Array:
    """Return the mean of a column in each bin; between bins that have updates, along a line."""
    steps, values = entry.until(entry.run.steps), entry.until(tag_of(entry.run, tag))
    finite = np.isfinite(values)
    # An update belongs to the steps before it; the last may lie behind the horizon.
    places = np.clip(np.searchsorted(edges, steps[finite]) - 1, 0, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, values[finite], minlength=BINS)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return np.full(BINS, np.nan)
    return np.interp(
        np.arange(BINS), filled, sums[filled] / counts[filled], left=np.nan, right=np.nan
    )


def _banded(here: Row, grid: Array, strata: Sequence[Array], config: CompareConfig) -> Rows:
    """Return a row for each point of a grid: center and band over runs, `[M, N_k]` each."""
    center = pooled(STATISTICS[config.statistic])
    low, high = interval(strata, center, config)
    columns = np.broadcast_arrays(grid, center(strata), low, high)
    return [
        here | dict(zip(("x", "value", "low", "high"), point, strict=True))
        for point in np.transpose(columns).tolist()
    ]

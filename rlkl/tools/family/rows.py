"""Reads the runs of `experiment=trust_region_family` into rows, and rows into tables."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from rlkl.algos.knobs import FACTORS, KNOBS, knob_settings, knob_value
from rlkl.tools.compare import runs
from rlkl.tools.compare.references import reference
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.compare.stability import TOLERANCE, kl_bounds
from rlkl.tools.compare.text import number, share
from rlkl.tools.rows import Row, Rows, column, distinct, select
from rlkl.utils.errors import ConfigError

NEAR = 0.1
"""A score this close to the best of the environment belongs to the plateau of a knob."""

SEEDS, ENVIRONMENTS = 5, 2
"""Of the whole comparison."""


def position(run: Run) -> str | None:
    """Return the position of `FACTORS` that a run has, or None if it is not of the comparison."""
    for at in FACTORS if run.algo in KNOBS else ():
        settings = knob_settings(run.algo, at).items()
        if all(run.settings.get(f"algo.{key}") == value for key, value in settings):
            return at
    return None


def collect(paths: Iterable[str]) -> list[Run]:
    """Return the finished runs of the comparison below some folders.

    Raises:
        ConfigError: there is none, or runs of an environment have different budgets.
    """
    found: dict[tuple[str, str, str, int], Run] = {}
    for folder in runs.find(paths):
        run = runs.read(folder)
        if isinstance(run, Run) and run.status == "finished" and (at := position(run)):
            found[run.env_id, run.algo, at, run.seed] = run
    if not found:
        raise ConfigError(
            f"{' '.join(paths)}: no finished run of experiment=trust_region_family; see "
            "docs/trust_region_family.md"
        )
    for env in {run.env_id for run in found.values()}:
        budgets = sorted({run.budget for run in found.values() if run.env_id == env})
        if len(budgets) > 1:
            raise ConfigError(
                f"{env}: runs of {' and '.join(f'{b:,}' for b in budgets)} environment steps; "
                "expected one budget, so name the folder of one grid"
            )
    order = {name: place for place, name in enumerate((*KNOBS, *FACTORS))}
    keys = sorted(found, key=lambda key: (key[0], order[key[1]], order[key[2]], key[3]))
    return [found[key] for key in keys]


def run_row(run: Run) -> Row:
    """Return the numbers of a run; updates that were rolled back do not count.

    `kl_asked` is NaN for an algorithm without a target. `beyond` and `state_beyond` are the shares
    of updates whose KL, mean over states or largest of a state, is above the bound.
    """
    at = position(run)
    assert at is not None
    kl, largest = run.columns["kl/old_new"], run.columns["kl/max"]
    made = ~np.isnan(kl)
    bounds = kl_bounds(run)[made] * (1 + TOLERANCE)
    bounded = bool(np.isfinite(bounds).any())
    returns = run.columns["return/train"][np.isfinite(run.columns["return/train"])]
    last = float(returns[-1]) if len(returns) else math.nan
    outside = run.columns["ratio/clip_fraction"][made]
    scale = reference(run.env_id, [], CompareConfig())
    return {
        "environment": run.env_id,
        "algorithm": run.algo,
        "knob": KNOBS[run.algo][0],
        "position": at,
        "value": knob_value(run.algo, at),
        "seed": run.seed,
        "env_steps": run.env_steps,
        "updates": int(made.sum()),
        "return": last,
        "score": math.nan if scale is None else scale.normalized(last),
        "kl_asked": _median(run.columns["kl/target"]),
        "kl_mean": _median(kl[made]),
        "kl_mean_95": _quantile(kl[made], 0.95),
        "kl_state": _median(largest[made]),
        "kl_state_largest": _quantile(largest[made], 1.0),
        "beyond": float((kl[made] > bounds).mean()) if bounded else math.nan,
        "state_beyond": float((largest[made] > bounds).mean()) if bounded else math.nan,
        "outside_ratio": float(np.mean(outside)),
        "update_seconds": _median(run.columns["time/update"]),
    }


def update_rows(found: Sequence[Run]) -> Rows:
    """Return the KL of each update at the default of the knob, median over seeds."""
    rows: Rows = []
    defaults = [run for run in found if position(run) == "default"]
    for env, algo in dict.fromkeys((run.env_id, run.algo) for run in defaults):
        seeds = [run for run in defaults if (run.env_id, run.algo) == (env, algo)]
        count = min(len(run.steps) for run in seeds)
        tables = {
            "kl_mean": [run.columns["kl/old_new"][:count] for run in seeds],
            "kl_state": [run.columns["kl/max"][:count] for run in seeds],
            "kl_bound": [kl_bounds(run)[:count] for run in seeds],
        }
        for update in range(count):
            row: Row = {"environment": env, "algorithm": algo}
            row["env_steps"] = int(seeds[0].steps[update])
            for name, values in tables.items():
                middle = _median(np.array([array[update] for array in values]))
                row[name] = float(f"{middle:.4g}")
            rows.append(row)
    return rows


def _median(values: Array) -> float:
    return _quantile(values, 0.5)


def _quantile(values: Array, share: float) -> float:
    """Return a quantile without NaNs, the higher of two neighbours; NaN if there is no number."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share, method="higher")) if len(known) else math.nan


def median(rows: Rows, key: str) -> float:
    """Return the median of a column over runs, without NaNs."""
    return _median(np.array(column(rows, key)))


def mean(rows: Rows, key: str) -> float:
    """Return the mean of a column over runs."""
    return float(np.mean(column(rows, key))) if rows else math.nan


def plateau(rows: Rows) -> tuple[float, float] | None:
    """Return the smallest and largest value of a knob's plateau, or None if it has none.

    The plateau consists of the neighbouring values around the best one of the algorithm whose mean
    score is at most `NEAR` below the best mean score of any algorithm and value.

    Args:
        rows: of one environment and one algorithm, with the column `best`.
    """
    values = sorted(distinct(rows, "value"))
    scores = [mean(select(rows, value=value), "score") for value in values]
    near = [score >= rows[0]["best"] - NEAR for score in scores]
    top = int(np.argmax(scores))
    if not near[top]:
        return None
    low = high = top
    while low > 0 and near[low - 1]:
        low -= 1
    while high + 1 < len(values) and near[high + 1]:
        high += 1
    return values[low], values[high]


def add_best(rows: Rows) -> Rows:
    """Add to each row the best mean score of its environment."""
    best: dict[str, float] = {}
    for env in distinct(rows, "environment"):
        of_env = select(rows, environment=env)
        settings = {(row["algorithm"], row["position"]) for row in of_env}
        best[env] = max(
            mean(select(of_env, algorithm=algo, position=at), "score") for algo, at in settings
        )
    return [row | {"best": best[row["environment"]]} for row in rows]


def _groups(rows: Rows) -> list[tuple[str, str, Rows]]:
    keys = dict.fromkeys((row["environment"], row["algorithm"]) for row in rows)
    return [(env, algo, select(rows, environment=env, algorithm=algo)) for env, algo in keys]


def bound_table(rows: Rows) -> Rows:
    """Return what each algorithm asks for and makes at its default, a row per environment."""
    table: Rows = []
    for env, algo, group in _groups(select(rows, position="default")):
        row = {"environment": env, "algorithm": algo, "seeds": str(len(group))}
        row["asked"] = number(median(group, "kl_asked"))
        row["mean KL"] = number(median(group, "kl_mean"))
        row["95%"] = number(median(group, "kl_mean_95"))
        row["largest of a state"] = number(median(group, "kl_state"))
        row["largest of all"] = number(max(column(group, "kl_state_largest")))
        row["mean beyond"] = share(mean(group, "beyond"))
        row["state beyond"] = share(mean(group, "state_beyond"))
        row["ratios outside"] = share(mean(group, "outside_ratio"))
        returns = column(group, "return")
        ends = f" ({min(returns):.0f} to {max(returns):.0f})" if len(returns) > 1 else ""
        row["return"] = f"{mean(group, 'return'):.0f}{ends}"
        row["ms"] = f"{1000 * min(column(group, 'update_seconds')):.0f}"
        table.append(row)
    return table


def knob_table(rows: Rows) -> Rows:
    """Return the mean return of each value of a knob, and its plateau, a row per environment."""
    table: Rows = []
    for env, algo, group in _groups(add_best(rows)):
        row = {"environment": env, "algorithm": algo, "knob": f"`{group[0]['knob']}`"}
        for at in FACTORS:
            found = select(group, position=at)
            value = f"{found[0]['value']:g}: " if found else ""
            row[at] = f"{value}{mean(found, 'return'):.0f}" if found else "–"
        ends = plateau(group)
        row["plateau"] = f"{ends[0]:g} to {ends[1]:g}" if ends else "none"
        row["decades"] = f"{math.log10(ends[1] / ends[0]):.1f}" if ends else "–"
        if len(distinct(group, "value")) == 1:
            row["plateau"] = row["decades"] = "–"
        table.append(row)
    return table


def asked_table(rows: Rows) -> Rows:
    """Return KL asked → made, and the share of updates beyond the bound, for each value."""
    table: Rows = []
    for env, algo, group in _groups([row for row in rows if not math.isnan(row["kl_asked"])]):
        row = {"environment": env, "algorithm": algo}
        for at in FACTORS:
            found = select(group, position=at)
            asked, made = median(found, "kl_asked"), median(found, "kl_mean")
            shares = f"{share(mean(found, 'beyond'))}, {share(mean(found, 'state_beyond'))}"
            row[at] = f"{number(asked)} → {number(made)} ({shares})" if found else "–"
        table.append(row)
    return table


def extent(rows: Rows) -> str:
    """Return one sentence on how much of the whole comparison the rows are."""
    whole = len(KNOBS) * len(FACTORS) * ENVIRONMENTS * SEEDS
    settings: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row["environment"], row["algorithm"], row["position"])
        settings[key] = settings.get(key, 0) + 1
    steps = " and ".join(
        f"{max(column(select(rows, environment=env), 'env_steps')):,.0f} ({env})"
        for env in distinct(rows, "environment")
    )
    seeds = sorted(set(settings.values()))
    each = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"These are {len(rows)} of {whole} runs: {len(settings)} settings with {each} seeds each. "
        f"Environment steps of a run: {steps}."
    )

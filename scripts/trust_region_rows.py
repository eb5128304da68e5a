"""Reads the runs of `experiment=trust_region_family` into rows, and rows into tables."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from rlkl.algos.knobs import FACTORS, KNOBS, knob_settings, knob_value
from rlkl.tools.compare import runs
from rlkl.tools.compare.curves import TOLERANCE, kl_bounds
from rlkl.tools.compare.runs import Array, Run
from rlkl.tools.compare.settings import CompareConfig
from rlkl.tools.compare.text import number, share
from rlkl.tools.rows import Row, Rows, column, grouped, select
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
        ConfigError: there is none.
    """
    read = map(runs.read, runs.find(paths))
    finished = [run for run in read if isinstance(run, Run) and run.status == "finished"]
    found = [run for run in finished if position(run)]
    if not found:
        raise ConfigError(
            f"{' '.join(paths)}: no finished run of experiment=trust_region_family; see "
            "docs/trust_region_family.md"
        )
    return found


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
    scale = CompareConfig().reference_of(run.env_id, [])
    return {
        "environment": run.env_id,
        "algorithm": run.algo,
        "knob": KNOBS[run.algo][0],
        "position": at,
        "value": knob_value(run.algo, at),
        "seed": run.seed,
        "budget": run.budget,
        "env_steps": run.env_steps,
        "updates": int(made.sum()),
        "return": last,
        "score": math.nan if scale is None else scale.normalized(last),
        "kl_asked": quantile(run.columns["kl/target"]),
        "kl_mean": quantile(kl[made]),
        "kl_mean_95": quantile(kl[made], 0.95),
        "kl_state": quantile(largest[made]),
        "kl_state_largest": quantile(largest[made], 1.0),
        "beyond": float((kl[made] > bounds).mean()) if bounded else math.nan,
        "state_beyond": float((largest[made] > bounds).mean()) if bounded else math.nan,
        "outside_ratio": float(np.mean(run.columns["ratio/clip_fraction"][made])),
        "update_seconds": quantile(run.columns["time/update"]),
    }


def update_rows(found: Sequence[Run]) -> Rows:
    """Return the KL of each update at the default of the knob."""
    rows: Rows = []
    for run in found:
        if position(run) == "default":
            curves = {
                "kl_mean": run.columns["kl/old_new"],
                "kl_state": run.columns["kl/max"],
                "kl_bound": kl_bounds(run),
            }
            for update, step in enumerate(run.steps.tolist()):
                row = {"environment": run.env_id, "algorithm": run.algo, "seed": run.seed}
                row |= {"update": update, "env_steps": int(step)}
                kls = {key: float(f"{kl[update]:.4g}") for key, kl in curves.items()}
                rows.append(row | kls)
    return rows


def quantile(values: Array, share: float = 0.5) -> float:
    """Return a quantile without NaNs, the higher of two neighbours; NaN if there is no number."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share, method="higher")) if len(known) else math.nan


def median(rows: Rows, key: str) -> float:
    """Return the median of a column over runs, without NaNs."""
    return quantile(np.array(column(rows, key)))


def mean(rows: Rows, key: str) -> float:
    """Return the mean of a column over runs."""
    return float(np.mean(column(rows, key))) if rows else math.nan


def best_scores(rows: Rows) -> dict[str, float]:
    """Return the best mean score of any algorithm and value of its knob, by environment."""
    best: dict[str, float] = {}
    for (env, *_), seeds in grouped(rows, "environment", "algorithm", "position").items():
        best[env] = max(best.get(env, -math.inf), mean(seeds, "score"))
    return best


def plateau(rows: Rows, best: float) -> tuple[float, float] | None:
    """Return the smallest and largest value of a knob's plateau, or None if it has none.

    The plateau consists of the neighbouring values around the best one of the algorithm whose mean
    score is at most `NEAR` below the `best` of the environment.
    """
    scores = {value: mean(seeds, "score") for value, seeds in grouped(rows, "value").items()}
    values = sorted(scores)
    near = [scores[value] >= best - NEAR for value in values]
    low = high = int(np.argmax([scores[value] for value in values]))
    if not near[low]:
        return None
    while low > 0 and near[low - 1]:
        low -= 1
    while high + 1 < len(values) and near[high + 1]:
        high += 1
    return values[low], values[high]


def bound_table(rows: Rows) -> Rows:
    """Return what each algorithm asks for and makes at its default, a row per environment."""
    table: Rows = []
    defaults = select(rows, position="default")
    for (env, algo), group in grouped(defaults, "environment", "algorithm").items():
        returns = column(group, "return")
        ends = f" ({min(returns):.0f} to {max(returns):.0f})" if len(returns) > 1 else ""
        table.append(
            {
                "environment": env,
                "algorithm": algo,
                "seeds": str(len(group)),
                "asked": number(median(group, "kl_asked")),
                "mean KL": number(median(group, "kl_mean")),
                "95%": number(median(group, "kl_mean_95")),
                "largest of a state": number(median(group, "kl_state")),
                "largest of all": number(max(column(group, "kl_state_largest"))),
                "mean beyond": share(mean(group, "beyond")),
                "state beyond": share(mean(group, "state_beyond")),
                "ratios outside": share(mean(group, "outside_ratio")),
                "return": f"{mean(group, 'return'):.0f}{ends}",
                "ms": f"{1000 * min(column(group, 'update_seconds')):.0f}",
            }
        )
    return table


def knob_table(rows: Rows) -> Rows:
    """Return the mean return of each value of a knob, and its plateau, a row per environment."""
    table: Rows = []
    best = best_scores(rows)
    for (env, algo), group in grouped(rows, "environment", "algorithm").items():
        row = {"environment": env, "algorithm": algo, "knob": f"`{group[0]['knob']}`"}
        seeds = grouped(group, "position")
        for at in FACTORS:
            found = seeds.get(at)
            row[at] = f"{found[0]['value']:g}: {mean(found, 'return'):.0f}" if found else "–"
        ends = plateau(group, best[env])
        row["plateau"] = f"{ends[0]:g} to {ends[1]:g}" if ends else "none"
        row["decades"] = f"{math.log10(ends[1] / ends[0]):.1f}" if ends else "–"
        if len(seeds) == 1:
            row["plateau"] = row["decades"] = "–"
        table.append(row)
    return table


def asked_table(rows: Rows) -> Rows:
    """Return KL asked → made, and the share of updates beyond the bound, for each value."""
    table: Rows = []
    bounded = [row for row in rows if not math.isnan(row["kl_asked"])]
    for (env, algo), group in grouped(bounded, "environment", "algorithm").items():
        row = {"environment": env, "algorithm": algo} | dict.fromkeys(FACTORS, "–")
        for at, found in grouped(group, "position").items():
            asked, made = number(median(found, "kl_asked")), number(median(found, "kl_mean"))
            shares = f"{share(mean(found, 'beyond'))}, {share(mean(found, 'state_beyond'))}"
            row[at] = f"{asked} → {made} ({shares})"
        table.append(row)
    return table


def extent(rows: Rows) -> str:
    """Return one sentence on how much of the whole comparison the rows are."""
    whole = len(KNOBS) * len(FACTORS) * ENVIRONMENTS * SEEDS
    settings = grouped(rows, "environment", "algorithm", "position").values()
    steps = " and ".join(
        f"{max(column(found, 'env_steps')):,.0f} ({env})"
        for env, found in grouped(rows, "environment").items()
    )
    each = " to ".join(map(str, sorted({min(map(len, settings)), max(map(len, settings))})))
    return (
        f"These are {len(rows)} of {whole} runs: {len(settings)} settings with {each} seeds each. "
        f"Environment steps of a run: {steps}."
    )

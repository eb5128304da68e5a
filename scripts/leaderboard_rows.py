"""Reads the runs of the leaderboard into rows, and rows into tables."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rlkl.algos import ALGORITHMS
from rlkl.tools.compare import runs
from rlkl.tools.compare.groups import group_runs
from rlkl.tools.compare.runs import Run
from rlkl.tools.compare.scores import MIN_SEEDS
from rlkl.tools.compare.text import duration, number
from rlkl.tools.rows import Row, Rows, column, distinct, grouped, select
from rlkl.utils.errors import ConfigError

SEEDS = {
    "HalfCheetah-v5": 5,
    "Hopper-v5": 5,
    "Walker2d-v5": 5,
    "Ant-v5": 5,
    "Swimmer-v5": 5,
    "Reacher-v5": 5,
    "InvertedPendulum-v5": 5,
    "InvertedDoublePendulum-v5": 5,
    "CartPole-v1": 10,
    "Acrobot-v1": 10,
    "Pendulum-v1": 10,
}
"""Seeds of each algorithm in the complete leaderboard, by environment."""

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5% quantile of Student's t with 1 to 9 degrees of freedom; the last also for more."""

WITHHELD = "too few seeds"


def collect(paths: Iterable[str]) -> list[Run]:
    """Return the runs of the leaderboard below some folders, also those under way.

    Raises:
        ConfigError: there is none, or they are not of one grid.
    """
    found: list[Run] = []
    for folder in runs.find(paths):
        run = runs.read(folder)
        if isinstance(run, Run) and run.settings and run.env_id in SEEDS and run.algo in ALGORITHMS:
            found.append(run)
    if not found:
        raise ConfigError(
            f"{' '.join(paths)}: no run of experiment=leaderboard; see docs/results/leaderboard.md"
        )
    _check_one_grid(found)
    return found


def _check_one_grid(found: Sequence[Run]) -> None:
    """Raise if runs of one environment differ in more than algorithm, seed and budget."""
    for member in group_runs(found):
        if member.label != member.run.algo:
            raise ConfigError(
                f"{member.run.shown}: {member.label} in {member.env} has other settings than "
                "other runs there; expected the folder of one grid"
            )
    cells: dict[tuple[str, str, int], Run] = {}
    for run in found:
        other = cells.setdefault((run.env_id, run.algo, run.seed), run)
        if other is not run:
            raise ConfigError(f"{other.shown} and {run.shown} have the same seed")


def run_row(run: Run) -> Row:
    """Return the numbers of a run.

    `return` is the mean of the last 100 training episodes, `kl` the median over updates of the
    mean KL(π_old ‖ π_θ) over states, in nats.
    """
    return {
        "environment": run.env_id,
        "algorithm": run.algo,
        "seed": run.seed,
        "status": run.status,
        "env_steps": run.env_steps,
        "budget": run.budget,
        "return": return_at(run),
        "return_at_100k": return_at(run, 100_000),
        "return_at_200k": return_at(run, 200_000),
        "evaluation": run.eval_return,
        "kl": float(np.nanmedian(run.columns["kl/old_new"])) if len(run.steps) else math.nan,
        "seconds": float(run.seconds[-1]) if len(run.steps) else math.nan,
        "revision": run.provenance.get("revision", ""),
    }


def return_at(run: Run, steps: int | None = None) -> float:
    """Return the training return of the first rollout that reaches some steps, or of the last."""
    if steps is not None and run.env_steps < steps:
        return math.nan
    last = len(run.steps) if steps is None else int(np.searchsorted(run.steps, steps)) + 1
    returns = run.columns["return/train"][:last]
    finite = returns[np.isfinite(returns)]
    return float(finite[-1]) if len(finite) else math.nan


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a mean and its 95% interval, mean ± t · s/√n; NaN ends for a single value."""
    numbers = np.asarray(values, float)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return mean, math.nan, math.nan
    t = T_QUANTILES[min(count - 1, len(T_QUANTILES)) - 1]
    half = t * float(numbers.std(ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def cell_rows(rows: Rows) -> Rows:
    """Return a row for each algorithm and environment with a finished run."""
    cells: Rows = []
    finished = select(rows, status="finished")
    for (env, algo), group in grouped(finished, "environment", "algorithm").items():
        returns = [value for value in column(group, "return") if math.isfinite(value)]
        if returns:
            mean, low, high = interval(returns)
            evaluations = [x for x in column(group, "evaluation") if math.isfinite(x)]
            cells.append(
                {
                    "environment": env,
                    "algorithm": algo,
                    "seeds": len(returns),
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "std": float(np.std(returns, ddof=1)) if len(returns) > 1 else math.nan,
                    "min": min(returns),
                    "max": max(returns),
                    "evaluation": float(np.mean(evaluations)) if evaluations else math.nan,
                    "kl": float(np.median(column(group, "kl"))),
                    "seconds": float(np.median(column(group, "seconds"))),
                }
            )
    return cells


def cell_text(cell: Row | None, wanted: int) -> str:
    """Return a mean with its interval, and the number of seeds if some are missing."""
    if cell is None:
        return "–"
    ends = "" if math.isnan(cell["low"]) else f" [{number(cell['low'])}, {number(cell['high'])}]"
    return f"{number(cell['mean'])}{ends}" + (
        "" if cell["seeds"] >= wanted else f" ({cell['seeds']} of {wanted})"
    )


def kl_text(cell: Row | None, _: int) -> str:
    """Return the median KL of an update of a cell."""
    return "–" if cell is None else f"{cell['kl']:.2g}"


def cell_table(
    cells: Rows, envs: Sequence[str], text: Callable[[Row | None, int], str] = cell_text
) -> Rows:
    """Return a row for each algorithm with a column for each environment."""
    by_cell = {(cell["environment"], cell["algorithm"]): cell for cell in cells}
    return [
        {"algorithm": f"`{algo}`"}
        | {env: text(by_cell.get((env, algo)), SEEDS[env]) for env in envs}
        for algo in ALGORITHMS
        if any((env, algo) in by_cell for env in envs)
    ]


def extent_table(rows: Rows) -> Rows:
    """Return a row for each environment: how many of its runs are there."""
    table: Rows = []
    for env, seeds in SEEDS.items():
        here = select(rows, environment=env)
        finished = select(here, status="finished")
        whole = [
            algo
            for algo, group in (grouped(finished, "algorithm") if finished else {}).items()
            if len(group) >= seeds
        ]
        table.append(
            {
                "environment": env,
                "runs": f"{len(finished)} of {seeds * len(ALGORITHMS)}",
                "algorithms with all seeds": f"{len(whole)} of {len(ALGORITHMS)}",
                "not finished": str(len(here) - len(finished)),
                "steps of a run": f"{here[0]['budget']:,}" if here else "–",
                "time of a run": duration(float(np.median(column(finished, "seconds"))))
                if finished
                else "–",
            }
        )
    return table


def extent(rows: Rows) -> str:
    """Return one sentence on how much of the leaderboard the rows are."""
    finished = select(rows, status="finished")
    whole = sum(SEEDS.values()) * len(ALGORITHMS)
    revisions = len([text for text in distinct(finished, "revision") if text]) if finished else 0
    return (
        f"{len(finished):,} of {whole:,} runs are in ({len(finished) / whole:.0%}), "
        f"of {revisions} revision{'' if revisions == 1 else 's'} of rlkl."
    )


def compared_rows(rows: Rows, published: Iterable[Any]) -> Rows:
    """Return a row for each published number, with the runs here and whether they agree.

    They agree if the published interval, value ± spread, and the 95% interval here overlap.
    """
    table: Rows = []
    for entry in published:
        group = select(rows, environment=entry.env, algorithm=entry.algo)
        key = "return" if entry.steps is None else f"return_at_{entry.steps // 1000}k"
        if entry.steps is None:
            group = select(group, status="finished")
        values = [value for value in column(group, key) if math.isfinite(value)]
        mean, low, high = interval(values) if values else (math.nan,) * 3
        table.append(
            {
                "environment": entry.env,
                "algorithm": entry.algo,
                "source": entry.source,
                "steps": entry.steps,
                "published": entry.value,
                "spread": entry.spread,
                "seeds": len(values),
                "mean": mean,
                "low": low,
                "high": high,
                "verdict": verdict(len(values), low, high, entry.value, entry.spread),
            }
        )
    return table


def verdict(seeds: int, low: float, high: float, value: float, spread: float) -> str:
    """Return how runs here, with a 95% interval, stand to a published value ± spread."""
    if seeds < MIN_SEEDS:
        return WITHHELD if seeds else "no run yet"
    if high < value - spread:
        return "lower here"
    return "higher here" if low > value + spread else "agrees"


def compared_table(compared: Rows) -> Rows:
    """Return the comparison with published numbers as texts."""
    table: Rows = []
    for row in compared:
        spread = f" ± {number(float(row['spread']))}" if row["spread"] else ""
        ends = f" [{number(row['low'])}, {number(row['high'])}]" if row["seeds"] > 1 else ""
        table.append(
            {
                "environment": row["environment"],
                "algorithm": f"`{row['algorithm']}`",
                "published": number(float(row["published"])) + spread,
                "source": row["source"],
                "here": f"{number(row['mean'])}{ends}" if row["seeds"] else "–",
                "seeds": str(row["seeds"]),
                "": row["verdict"],
            }
        )
    return table


def agreement(compared: Rows) -> str:
    """Return one sentence that counts the verdicts."""
    counts = {
        text: len(select(compared, verdict=text))
        for text in ("agrees", "lower here", "higher here", WITHHELD, "no run yet")
    }
    return (
        f"{len(compared)} published numbers: agree {counts['agrees']}, higher than here "
        f"{counts['lower here']}, lower than here {counts['higher here']}, "
        f"{WITHHELD} here {counts[WITHHELD]}, no run here yet {counts['no run yet']}."
    )

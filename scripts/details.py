"""Makes the tables of docs/details.md from run folders alone.

    python scripts/details.py runs/grids/details
    python scripts/details.py FOLDER --output=OTHER   # leaves the page as it is

Reads as much of the grid as there is, and adds it to runs.csv (a row per run) in
docs/results/details. docs/details.md has the command that makes the runs.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from leaderboard_published import published
from leaderboard_rows import T_QUANTILES, interval, return_at
from pages import earlier, fill, markdown, merged, ordered, run_script

from rlkl.cli.compose import load
from rlkl.cli.schema import CONFIG_DIR, options, register_schemas
from rlkl.tools.compare import runs
from rlkl.tools.compare.runs import Run
from rlkl.tools.compare.text import number
from rlkl.tools.rows import Rows, column, csv_text, grouped, select
from rlkl.training.config import leaves
from rlkl.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "details.md"
RESULTS = ROOT / "docs" / "results" / "details"
RUN = ("environment", "algorithm", "budget", "detail", "seed")
RECIPES = {
    "ppo_clip": "minibatches_recomputed_log_std_-1",
    "ppo_kl": "minibatches_recomputed_log_std_-1",
    "trpo": "kl_bound_high_log_std_-1",
    "npg": "kl_bound_high_log_std_-1",
}
"""The detail that has the settings of `experiment=..._mujoco`, by algorithm."""

MORE = {"": "", ", `gamma=0.995`": "_gamma_0.995"}
"""What is shown of a recipe with one more change, and the end of that detail's name."""


@cache
def details() -> dict[str, dict[str, Any]]:
    """Return what each detail sets."""
    folder = CONFIG_DIR / "detail"
    texts = {name: (folder / f"{name}.yaml").read_text() for name in options("detail")}
    return {name: dict(leaves(yaml.safe_load(text) or {})) for name, text in texts.items()}


@cache
def baseline(algo: str, env_id: str) -> dict[str, Any]:
    """Return the settings of an algorithm in an environment with nothing changed."""
    register_schemas()
    return dict(leaves(asdict(load([f"algo={algo}", f"env.id={env_id}"]))))


def detail_of(algo: str, env_id: str, settings: dict[str, Any]) -> str | None:
    """Return the detail that a run has, by its settings; None if it has none of them."""
    if settings.get("env.kwargs") or settings.get("env.wrappers"):  # another form of it
        return None
    plain = baseline(algo, env_id)
    keys = {key for wanted in details().values() for key in wanted if key in plain}
    found = {key: settings.get(key, plain[key]) for key in keys}  # older runs lack newer keys
    changed = {key: value for key, value in found.items() if value != plain[key]}
    return next((name for name, wanted in details().items() if wanted == changed), None)


def run_rows(paths: list[str]) -> Rows:
    """Return a row for each finished run.

    Raises:
        ConfigError: there is none.
    """
    read = map(runs.read, runs.find(paths))
    found = [run for run in read if isinstance(run, Run) and run.status == "finished"]
    rows: Rows = [
        {
            "environment": run.env_id,
            "algorithm": run.algo,
            "detail": detail,
            "seed": run.seed,
            "return": return_at(run),
            "evaluation": run.eval_return,
            "budget": run.budget,
            "seconds": float(run.seconds[-1]),
        }
        for run in found
        if (detail := detail_of(run.algo, run.env_id, run.settings))
    ]
    if not rows:
        raise ConfigError(
            f"{' '.join(paths)}: no finished run of experiment=details; see docs/{PAGE.name}"
        )
    return rows


def change(changed: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Return a difference of means and half the width of its 95% interval (Welch 1947).

    Degrees of freedom are rounded down, so the interval is rather too wide.
    """
    counts = len(changed), len(baseline)
    difference = float(np.mean(changed) - np.mean(baseline)) if min(counts) else math.nan
    if min(counts) < 2:
        return difference, math.nan
    groups = zip((changed, baseline), counts, strict=True)
    squares = [float(np.var(group, ddof=1)) / count for group, count in groups]
    terms = [square**2 / (count - 1) for square, count in zip(squares, counts, strict=True)]
    freedom = int(sum(squares) ** 2 / sum(terms)) if sum(terms) else len(T_QUANTILES)
    quantile = T_QUANTILES[min(freedom, len(T_QUANTILES)) - 1]
    return difference, quantile * math.sqrt(sum(squares))


def change_tables(rows: Rows) -> dict[tuple[str, int], Rows]:
    """Return how each detail changes the return, by algorithm and budget, the best detail first.

    Environments without a run of `none` are left out: nothing has changed there.
    """
    tables = {}
    for (algo, budget), group in grouped(rows, "algorithm", "budget").items():
        plain = {
            env: returns
            for env, some in grouped(group, "environment").items()
            if (returns := column(select(some, detail="none"), "return"))
        }
        found = []
        for detail, some in grouped(group, "detail").items():
            row, differences = {"detail": f"`{detail}`"}, []
            for env, base in plain.items():
                returns = column(select(some, environment=env), "return")
                difference, half = change(returns, base)
                row[env] = cell(returns, difference, half, is_plain=detail == "none")
                differences += [difference] if returns else []
            if differences:
                found.append((-float(np.mean(differences)), row))
        if len(found) > 1:
            tables[algo, budget] = [row for _, row in sorted(found, key=itemgetter(0))]
    return tables


def cell(returns: Sequence[float], difference: float, half: float, *, is_plain: bool) -> str:
    """Return a change with its interval and the number of seeds; for `none` the return."""
    if not returns:
        return "–"
    shown = number(float(np.mean(returns)) if is_plain else difference)
    shown = "+" * (not is_plain and difference > 0) + shown
    interval = "" if is_plain or math.isnan(half) else f" ± {number(half)}"
    return f"{shown}{interval} ({len(returns)})"


def change_text(rows: Rows) -> str:
    """Return the tables of changes, each below its algorithm and budget."""
    parts = [f"{len(rows):,} runs, with those of the recipes."]
    for (algo, budget), table in change_tables(rows).items():
        parts += [f"`{algo}`, {budget:,} environment steps:", markdown(table)]
    return "\n\n".join(parts)


def recipes(rows: Rows) -> Rows:
    """Return what the recipes reach, a row per environment and algorithm, and what is published."""
    table: Rows = []
    for (env, algo), group in grouped(rows, "environment", "algorithm").items():
        for change, ending in MORE.items():
            found = select(group, detail=f"{RECIPES.get(algo)}{ending}")
            if not found:
                continue
            mean, low, high = interval(column(found, "return"))
            ends = "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"
            elsewhere = [
                f"{number(entry.value)} ({entry.source.split(',')[0]})"
                for entry in published()
                if (entry.env, entry.algo, entry.steps) == (env, algo, None)
            ]
            row = {"environment": env, "algorithm": f"`{algo}`{change}", "seeds": str(len(found))}
            row |= {"return": number(mean) + ends}
            row |= {"evaluation": number(float(np.mean(column(found, "evaluation"))))}
            table.append(row | {"published": ", ".join(elsewhere)})
    return table


def make(paths: list[str], elsewhere: Path | None) -> str:
    """Write the page and its data; return what to print."""
    output = elsewhere or RESULTS
    rows = run_rows(paths)
    rows = ordered(merged(rows, earlier(output / "runs.csv", rows[0]), *RUN), RUN)
    extent = f"{len(rows):,} runs."
    parts = {"recipes": markdown(recipes(rows)), "changes": change_text(rows)}
    page = fill(PAGE, parts, Path(__file__).name)
    output.mkdir(parents=True, exist_ok=True)
    (output / "runs.csv").write_text(csv_text(rows))
    (output / PAGE.name if elsewhere else PAGE).write_text(page)
    return f"{extent}\nwrote {output}"


if __name__ == "__main__":
    run_script(make, __doc__)

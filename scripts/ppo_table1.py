"""Makes the table of docs/ppo_table1.md from run folders alone.

    python scripts/ppo_table1.py runs/grids/table1
    python scripts/ppo_table1.py FOLDER --output=OTHER   # leaves the page as it is
    python scripts/ppo_table1.py --untrained             # measures the returns that score 0

Reads as much of the grid as there is, and adds it to runs.csv (a row per run) in
docs/results/ppo_table1. A run's score is its mean return of the last 100 training episodes, shifted
and scaled for each environment so that the untrained policy scores 0 and the best run 1, as in the
paper (Schulman et al. 2017, section 6.1). The page has the command that makes the runs.
"""

import math
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from leaderboard_rows import return_at, run_row
from pages import check_budgets, earlier, fill, markdown, merged, ordered, run_script

from rlkl.cli.compose import load
from rlkl.cli.schema import register_schemas
from rlkl.numerics.statistics import bootstrap_interval, mean_of_means
from rlkl.tools.compare import runs
from rlkl.tools.compare.groups import is_compared
from rlkl.tools.compare.runs import Run
from rlkl.tools.rows import Rows, column, csv_text, distinct, grouped, select
from rlkl.training.config import leaves
from rlkl.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ppo_table1.md"
RESULTS = ROOT / "docs" / "results" / "ppo_table1"
RUN = ("environment", "setting", "seed")

PUBLISHED = {
    "no_clipping": -0.39,
    "clip_0.1": 0.76,
    "clip_0.2": 0.82,
    "clip_0.3": 0.70,
    "adaptive_0.003": 0.68,
    "adaptive_0.01": 0.74,
    "adaptive_0.03": 0.71,
    "fixed_0.3": 0.62,
    "fixed_1": 0.71,
    "fixed_3": 0.72,
    "fixed_10": 0.69,
}
"""Scores of the paper's Table 1 by option of table1=."""

UNTRAINED = {
    "HalfCheetah-v5": -650.7,
    "Hopper-v5": 13.97,
    "InvertedDoublePendulum-v5": 42.77,
    "InvertedPendulum-v5": 7.513,
    "Reacher-v5": -108.1,
    "Swimmer-v5": -0.03274,
    "Walker2d-v5": -1.096,
}
"""Mean return of untrained policies, from `--untrained`; other rounding gives HalfCheetah -646."""

SEEDS = 3


@cache
def settings_of(setting: str, env_id: str) -> dict[str, Any]:
    """Return the settings that an option of table1= has in an environment."""
    register_schemas()
    config = load(["experiment=ppo_table1", f"table1={setting}", f"env.id={env_id}"])
    return dict(leaves(asdict(config)))


def setting_of(run: Run) -> str | None:
    """Return the option of table1= that a run has, by its settings; None if it has none."""
    if run.env_id not in UNTRAINED:
        return None
    for setting in PUBLISHED:
        wanted = settings_of(setting, run.env_id)
        keys = [key for key in wanted if is_compared(key) or key in ("algo.name", "env.kwargs")]
        # Older runs lack newer keys.
        if all(run.settings.get(key, wanted[key]) == wanted[key] for key in keys):
            return setting
    return None


def run_rows(paths: list[str]) -> Rows:
    """Return a row for each run that has ended, also for one that failed.

    Raises:
        ConfigError: there is none.
    """
    ended = {"finished", "failed"}
    read = map(runs.read, runs.find(paths))
    found = [run for run in read if isinstance(run, Run) and run.status in ended]
    rows: Rows = [
        {"setting": setting} | run_row(run)
        for run in found
        if (setting := setting_of(run)) and math.isfinite(return_at(run))
    ]
    if not rows:
        raise ConfigError(
            f"{' '.join(paths)}: no finished run of experiment=ppo_table1; see docs/{PAGE.name}"
        )
    return rows


def normalized(rows: Rows) -> dict[tuple[str, str], list[float]]:
    """Return the scaled scores of each setting and environment: 0 untrained, 1 for the best run.

    Environments with runs of a single setting have no scale.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for env, group in grouped(rows, "environment").items():
        low, high = UNTRAINED[env], max(column(group, "return"))
        settings = grouped(group, "setting")
        if high > low and len(settings) > 1:
            for setting, found in settings.items():
                returns = column(found, "return")
                cells[setting, env] = [(value - low) / (high - low) for value in returns]
    return cells


def table(rows: Rows) -> Rows:
    """Return the paper's table with a column for these runs and one for each environment."""
    cells = normalized(rows)
    envs = [env for env in UNTRAINED if any(env == scaled for _, scaled in cells)]
    made: Rows = []
    for setting, published in PUBLISHED.items():
        scores = {env: cells.get((setting, env), []) for env in envs}
        count = f"{len(select(rows, setting=setting))} of {SEEDS * len(UNTRAINED)}"
        row = {"setting": f"`{setting}`", "paper": f"{published:.2f}"}
        row |= {"here": overall(list(scores.values())), "runs": count}
        means = {env: f"{np.mean(values):.2f}" if values else "–" for env, values in scores.items()}
        made.append(row | means)
    return made


def overall(scores: list[list[float]]) -> str:
    """Return the mean over environments; with a 95% interval if each has at least two runs."""
    fewest = min(map(len, scores), default=0)
    if not fewest:
        return "–"
    strata = [np.asarray(values) for values in scores]
    text = f"{mean_of_means(strata):.2f}"
    if fewest == 1:
        return text
    low, high = bootstrap_interval(strata, mean_of_means, np.random.default_rng(0))
    return f"{text} [{low:.2f}, {high:.2f}]"


def extent(rows: Rows) -> str:
    """Return sentences on how much of the table the rows are, and on runs that failed."""
    whole = len(PUBLISHED) * len(UNTRAINED) * SEEDS
    steps = " and ".join(f"{budget:,}" for budget in sorted(distinct(rows, "budget")))
    sentences = [f"{len(rows)} of {whole} runs are in, of {steps} environment steps each."]
    for row in select(rows, status="failed"):
        name = f"`{row['setting']}`, {row['environment']}, seed {row['seed']}"
        sentences.append(
            f"{name} failed after {row['env_steps']:,} steps; its score is that of this time."
        )
    return " ".join(sentences)


def make(paths: list[str], elsewhere: Path | None) -> str:
    """Write the page and its data; return what to print."""
    output = elsewhere or RESULTS
    rows = run_rows(paths)
    before = earlier(output / "runs.csv", rows[0])
    rows = ordered(merged(rows, before, *RUN), RUN, (*UNTRAINED, *PUBLISHED))
    check_budgets(rows)
    page = fill(PAGE, {"scores": f"{extent(rows)}\n\n{markdown(table(rows))}"}, Path(__file__).name)
    output.mkdir(parents=True, exist_ok=True)
    (output / "runs.csv").write_text(csv_text(rows))
    (output / PAGE.name if elsewhere else PAGE).write_text(page)
    return f"{extent(rows)}\nwrote {output}"


def measure_untrained() -> None:
    """Print the mean return of 100 episodes of untrained policies."""
    from rlkl.training.learner import Learner  # noqa: PLC0415

    register_schemas()
    for env_id in UNTRAINED:
        means = []
        for seed in range(SEEDS):
            learner = Learner(load(["experiment=ppo_table1", f"env.id={env_id}", f"seed={seed}"]))
            returns: list[float] = []
            while len(returns) < 100:
                episodes = learner.collector.collect().episodes
                returns += [episode.reward_sum for episode in episodes]
            learner.envs.close()
            means.append(float(np.mean(returns[:100])))
        print(f'    "{env_id}": {np.mean(means):.4g},  # {means}', flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--untrained"]:
        measure_untrained()
    else:
        run_script(make, __doc__)

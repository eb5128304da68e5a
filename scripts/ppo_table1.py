"""Prints the scores of experiment=ppo_table1 runs next to the PPO paper's Table 1.

    python scripts/ppo_table1.py                  # all runs below runs/
    python scripts/ppo_table1.py runs/table1      # all runs below a folder
    python scripts/ppo_table1.py --untrained      # measure the returns that score 0

A run's score is its mean return of the last 100 training episodes, shifted and scaled for each
environment so that the untrained policy scores 0 and the best run 1, as in the paper (Schulman et
al. 2017, section 6.1). docs/ppo_table1.md describes the runs.
"""

import argparse
import json
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlkl.numerics.statistics import bootstrap_interval, mean_of_means
from rlkl.tools.rows import Row, Rows, column, distinct, grouped, select

ROOT = Path(__file__).resolve().parent.parent

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
"""Mean return of untrained policies, as printed by `--untrained`."""

SEEDS = 3
KINDS = {"ppo_clip": "clip_ratio", "ppo_kl": "target_kl", "ppo_kl_fixed": "kl_coefficient"}
PREFIXES = {"ppo_clip": "clip", "ppo_kl": "adaptive", "ppo_kl_fixed": "fixed"}


def setting_of(config: dict[str, Any]) -> str | None:
    """Return the option of table1= with this config, or None."""
    algo, sizes = config["algo"], (config["rollout_steps"], config["env"]["num_envs"])
    if algo["name"] not in KINDS or sizes != (2048, 1):
        return None
    number = algo[KINDS[algo["name"]]]
    name = f"{PREFIXES[algo['name']]}_{number:g}" if number else "no_clipping"
    return name if name in PUBLISHED else None


def read(folder: Path) -> Row | None:
    """Return the row of a run folder; None if it is not of the table or has no episode yet.

    `setting` is the option of table1=, `budget` the environment steps of the complete run, and the
    rest as in summary.json.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        setting = setting_of(config)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if setting is None or summary["env_id"] not in UNTRAINED or summary["return_mean"] is None:
        return None
    keys = ("env_id", "seed", "status", "env_steps", "return_mean")
    run = {key: summary[key] for key in keys}
    return {"setting": setting, "budget": config["total_env_steps"]} | run


def collect(roots: list[Path]) -> Rows:
    """Return the rows below folders; of two runs with equal settings, the longer one."""
    paths = sorted(path for root in roots for path in root.rglob("summary.json"))
    rows = [row for path in paths if (row := read(path.parent)) is not None]
    runs = grouped(rows, "setting", "env_id", "seed").values()
    # Of equally long ones, the last.
    return [max(reversed(same), key=itemgetter("env_steps")) for same in runs]


def normalized(rows: Rows) -> dict[tuple[str, str], list[float]]:
    """Return the scaled scores of each setting and environment: 0 untrained, 1 for the best run."""
    cells: dict[tuple[str, str], list[float]] = {}
    for env, runs in grouped(rows, "env_id").items():
        low, high = UNTRAINED[env], max(column(runs, "return_mean"))
        if high > low:
            for setting, found in grouped(runs, "setting").items():
                returns = column(found, "return_mean")
                cells[setting, env] = [(value - low) / (high - low) for value in returns]
    return cells


def table(rows: Rows) -> str:
    """Return the paper's table with a column for these runs and one per environment."""
    cells = normalized(rows)
    found = distinct(rows, "env_id")
    envs = [env for env in UNTRAINED if env in found]
    scaled = {env for _, env in cells}
    head = ["setting", "paper", "here", "runs", *(env.removesuffix("-v5") for env in envs)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for setting, published in PUBLISHED.items():
        runs = [cells.get((setting, env), []) for env in envs]
        count = f"{len(select(rows, setting=setting))} of {SEEDS * len(UNTRAINED)}"
        means = [f"{np.mean(values):.2f}" if values else "" for values in runs]
        here = overall([values for values in runs if values], len(scaled))
        lines.append(f"| {' | '.join([setting, f'{published:.2f}', here, count, *means])} |")
    return "\n".join(lines)


def overall(runs: list[list[float]], envs: int) -> str:
    """Return the mean over environments; with a 95% interval if each has at least two runs."""
    if not runs or len(runs) < envs:
        return ""
    strata = [np.asarray(values) for values in runs]
    text = f"{mean_of_means(strata):.2f}"
    if min(map(len, runs)) == 1:
        return text
    low, high = bootstrap_interval(strata, mean_of_means, np.random.default_rng(0))
    return f"{text} [{low:.2f}, {high:.2f}]"


def remarks(rows: Rows) -> list[str]:
    """Return remarks on incomplete runs and environments."""
    lines = []
    budgets = sorted(distinct(rows, "budget"))
    if budgets != [1_000_000]:
        steps = ", ".join(f"{budget:,}" for budget in budgets)
        lines.append(f"Environment steps of a run: {steps}; in the paper 1,000,000.")
    envs = set(distinct(rows, "env_id"))
    scaled = {env for _, env in normalized(rows)}
    if len(scaled) < len(UNTRAINED):
        missing = ", ".join(env for env in UNTRAINED if env not in scaled)
        lines.append(f"Means are over {len(scaled)} of 7 environments, without {missing}.")
    lines += [
        f"No run of {env} did better than the policy before training, so it has no scale."
        for env in sorted(envs - scaled)
    ]
    return lines + [
        f"{row['setting']}, {row['env_id']}, seed {row['seed']} {row['status']} after "
        f"{row['env_steps']:,} steps; its score is that of this time."
        for row in rows
        if row["status"] != "finished"
    ]


def measure_untrained() -> None:
    """Print the mean return of 100 episodes of untrained policies."""
    from rlkl.cli.compose import load  # noqa: PLC0415
    from rlkl.cli.schema import register_schemas  # noqa: PLC0415
    from rlkl.training.learner import Learner  # noqa: PLC0415

    register_schemas()
    for env_id in UNTRAINED:
        name, means = env_id.removesuffix("-v5").lower(), []
        for seed in range(SEEDS):
            learner = Learner(load(["experiment=ppo_table1", f"env={name}", f"seed={seed}"]))
            returns: list[float] = []
            while len(returns) < 100:
                episodes = learner.collector.collect().episodes
                returns += [episode.reward_sum for episode in episodes]
            learner.envs.close()
            means.append(float(np.mean(returns[:100])))
        print(f'    "{env_id}": {np.mean(means):.4g},  # {means}', flush=True)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[ROOT / "runs"], help="folders to search"
    )
    parser.add_argument("--untrained", action="store_true", help="measure untrained policies")
    arguments = parser.parse_args()
    if arguments.untrained:
        measure_untrained()
        return
    rows = collect(arguments.runs)
    if not rows:
        places = " ".join(map(str, arguments.runs))
        sys.exit(f"no run of experiment=ppo_table1 below {places}; see docs/ppo_table1.md")
    print("\n\n".join([table(rows), *remarks(rows)]))


if __name__ == "__main__":
    main()

"""Reads runs of experiment=ppo_table1 and puts their scores beside the PPO paper's Table 1.

    python scripts/ppo_table1.py                  # every run below runs/
    python scripts/ppo_table1.py runs/table1      # those below a folder
    python scripts/ppo_table1.py --untrained      # measure what a score of 0 is

A run's score is its mean return of the last 100 training episodes, shifted and scaled for each
environment so that the policy before training scores 0 and the best run 1, as in the paper
(Schulman et al. 2017, section 6.1). docs/ppo_table1.md says how the runs are made.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlkl.numerics.statistics import bootstrap_interval, mean_of_means

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
"""The paper's Table 1, by option of table1=."""

UNTRAINED = {
    "HalfCheetah-v5": -650.7,
    "Hopper-v5": 13.97,
    "InvertedDoublePendulum-v5": 42.77,
    "InvertedPendulum-v5": 7.513,
    "Reacher-v5": -108.1,
    "Swimmer-v5": -0.03274,
    "Walker2d-v5": -1.096,
}
"""Mean return of the policies that training begins with, as `--untrained` prints it."""

SEEDS = 3
KINDS = {"ppo_clip": "clip_ratio", "ppo_kl": "target_kl", "ppo_kl_fixed": "kl_coefficient"}
PREFIXES = {"ppo_clip": "clip", "ppo_kl": "adaptive", "ppo_kl_fixed": "fixed"}


@dataclass(frozen=True)
class Score:
    """What a run came to.

    Attributes:
        setting: option of table1=.
        env_id: one of `UNTRAINED`.
        seed: of the run.
        status: finished, or how it ended before.
        env_steps: that it made.
        budget: that it was to make.
        value: mean return of the last 100 training episodes.
    """

    setting: str
    env_id: str
    seed: int
    status: str
    env_steps: int
    budget: int
    value: float


def setting_of(config: dict[str, Any]) -> str | None:
    """The option of table1= that a config stands for; None if it is none of them."""
    algo = config["algo"]
    if algo["name"] not in KINDS or (config["rollout_steps"], config["env"]["num_envs"]) != (
        2048,
        1,
    ):
        return None
    number = algo[KINDS[algo["name"]]]
    name = f"{PREFIXES[algo['name']]}_{number:g}" if number else "no_clipping"
    return name if name in PUBLISHED else None


def read(folder: Path) -> Score | None:
    """The score of a run's folder; None if the run is none of the table, or has no episode yet."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        setting = setting_of(config)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if setting is None or summary["env_id"] not in UNTRAINED or summary["return_mean"] is None:
        return None
    return Score(
        setting,
        summary["env_id"],
        summary["seed"],
        summary["status"],
        summary["env_steps"],
        config["total_env_steps"],
        summary["return_mean"],
    )


def collect(roots: list[Path]) -> list[Score]:
    """The scores below some folders; of two runs that are alike, the one that got further."""
    found: dict[tuple[str, str, int], Score] = {}
    for path in sorted(path for root in roots for path in root.rglob("summary.json")):
        score = read(path.parent)
        if score is not None:
            key = (score.setting, score.env_id, score.seed)
            if key not in found or score.env_steps >= found[key].env_steps:
                found[key] = score
    return list(found.values())


def normalized(scores: list[Score]) -> dict[tuple[str, str], list[float]]:
    """Shares of each setting and environment: 0 before training, 1 for the best run of any."""
    best: dict[str, float] = {}
    for score in scores:
        best[score.env_id] = max(score.value, best.get(score.env_id, score.value))
    cells: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        low, high = UNTRAINED[score.env_id], best[score.env_id]
        if high > low:
            share = (score.value - low) / (high - low)
            cells.setdefault((score.setting, score.env_id), []).append(share)
    return cells


def table(scores: list[Score]) -> str:
    """The paper's table with a column for what was measured, and one for each environment."""
    cells = normalized(scores)
    envs = [env for env in UNTRAINED if any(env == score.env_id for score in scores)]
    scaled = {env for _, env in cells}
    head = ["setting", "paper", "here", "runs", *(env.removesuffix("-v5") for env in envs)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for setting, published in PUBLISHED.items():
        runs = [cells.get((setting, env), []) for env in envs]
        made = sum(score.setting == setting for score in scores)
        count = f"{made} of {SEEDS * len(UNTRAINED)}"
        means = [f"{np.mean(values):.2f}" if values else "" for values in runs]
        here = overall([values for values in runs if values], len(scaled))
        lines.append(f"| {' | '.join([setting, f'{published:.2f}', here, count, *means])} |")
    return "\n".join(lines)


def overall(runs: list[list[float]], envs: int) -> str:
    """Mean over environments, with its 95% bootstrap interval where each has two runs or more."""
    if not runs or len(runs) < envs:
        return ""
    # With as many runs in each environment, it is the mean over all runs too.
    strata = [np.asarray(values) for values in runs]
    text = f"{mean_of_means(strata):.2f}"
    if min(map(len, runs)) == 1:
        return text
    low, high = bootstrap_interval(strata, mean_of_means, np.random.default_rng(0))
    return f"{text} [{low:.2f}, {high:.2f}]"


def remarks(scores: list[Score]) -> list[str]:
    """What has to be known to read the table."""
    found = []
    budgets = sorted({score.budget for score in scores})
    if budgets != [1_000_000]:
        steps = ", ".join(f"{budget:,}" for budget in budgets)
        found.append(f"Environment steps of a run: {steps}; in the paper 1,000,000.")
    envs = {score.env_id for score in scores}
    scaled = {env for _, env in normalized(scores)}
    if len(scaled) < len(UNTRAINED):
        missing = ", ".join(env for env in UNTRAINED if env not in scaled)
        found.append(f"Means are over {len(scaled)} of 7 environments, without {missing}.")
    found += [
        f"No run of {env} did better than the policy before training: it has no scale."
        for env in sorted(envs - scaled)
    ]
    return found + [
        f"{score.setting}, {score.env_id}, seed {score.seed} {score.status} after "
        f"{score.env_steps:,} steps; its score is what it had by then."
        for score in scores
        if score.status != "finished"
    ]


def measure_untrained() -> None:
    """Print the mean return of 100 episodes of each policy that training begins with."""
    from rlkl.cli.compose import load, register_schemas  # noqa: PLC0415
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[ROOT / "runs"], help="folders")
    parser.add_argument("--untrained", action="store_true", help="measure policies before training")
    arguments = parser.parse_args()
    if arguments.untrained:
        measure_untrained()
        return
    scores = collect(arguments.runs)
    if not scores:
        places = " ".join(map(str, arguments.runs))
        sys.exit(f"no run of experiment=ppo_table1 below {places}; docs/ppo_table1.md makes them")
    print("\n\n".join([table(scores), *remarks(scores)]))


if __name__ == "__main__":
    main()

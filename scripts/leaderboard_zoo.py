"""Packages the best policy of each cell of the leaderboard, and lists them in docs/zoo/README.md.

    python scripts/leaderboard_zoo.py runs/grids/leaderboard
    python scripts/leaderboard_zoo.py FOLDER --output=OTHER   # leaves the page as it is

A cell is an algorithm in an environment. It is packaged when all its seeds are finished: the last
policy of the run with the best final evaluation, then the best training return. The scores are of
new episodes. Packages that exist are kept. Needs the extra `safetensors`.
"""

from pathlib import Path
from typing import Any

import yaml
from leaderboard_rows import SEEDS, collect, return_at
from pages import fill, markdown, run_script

from rlkl import package
from rlkl.algos import ALGORITHMS
from rlkl.tools.compare.runs import Run

ZOO = Path(__file__).resolve().parent.parent / "docs" / "zoo"
PAGE = ZOO / "README.md"
EPISODES = {10: 100, 5: 20}
"""Episodes of the scores: for classic control, which has ten seeds, and MuJoCo, which has five."""


def best_runs(found: list[Run]) -> dict[tuple[str, str], Run]:
    """Return the best run of each complete cell, in the order of the leaderboard."""
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in found:
        if run.status == "finished":
            cells.setdefault((run.env_id, run.algo), []).append(run)
    return {
        (env, algo): max(cells[env, algo], key=lambda run: (run.eval_return, return_at(run)))
        for env, seeds in SEEDS.items()
        for algo in ALGORITHMS
        if len(cells.get((env, algo), [])) == seeds
    }


def name_of(env: str, algo: str) -> str:
    """Return a package's name, such as `cartpole-trpo`."""
    return f"{env.rpartition('-v')[0].lower()}-{algo}"


def row(folder: Path) -> dict[str, str]:
    """Return the row of a package."""
    content: dict[str, Any] = yaml.safe_load((folder / "policy.yaml").read_text())
    scores = content["evaluation"]["deterministic"]
    mean, low, high = (f"{scores[key]:,.1f}" for key in ("mean", "mean_low", "mean_high"))
    return {
        "package": f"`{folder.name}`",
        "environment": content["env"]["id"],
        "seed": str(content["config"]["seed"]),
        "return": mean,
        "95% interval": f"{low} to {high}",
    }


def make(runs: list[str], elsewhere: Path | None) -> str:
    """Make the missing packages and the table; return what to print."""
    output = elsewhere or ZOO / "leaderboard"
    output.mkdir(parents=True, exist_ok=True)
    made = 0
    for (env, algo), run in best_runs(collect(runs)).items():
        folder = output / name_of(env, algo)
        if not folder.exists():
            package(run.folder, folder, num_episodes=EPISODES[SEEDS[env]], onnx=False)
            made += 1
    names = [name_of(env, algo) for env in SEEDS for algo in ALGORITHMS]
    folders = [output / name for name in names if (output / name).exists()]
    page = fill(PAGE, {"cells": markdown([row(folder) for folder in folders])}, Path(__file__).name)
    (output / PAGE.name if elsewhere else PAGE).write_text(page)
    return f"{made} new packages, {len(folders)} of {len(names)}\nwrote {output}"


if __name__ == "__main__":
    run_script(make, __doc__)

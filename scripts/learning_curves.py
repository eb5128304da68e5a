"""Trains every algorithm on classic control over several seeds; draws the curves and the table.

    python scripts/learning_curves.py                 # everything that is missing, then the drawing
    python scripts/learning_curves.py --draw-only     # from the runs that exist

Runs lie in runs/learning/<env>/<algo>/seed<n>; one that finished is not run again, so the command
can be stopped and called anew. Needs the extra `plots`.
"""

import argparse
import csv
import json
import multiprocessing
import os
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "learning"
PAGE = ROOT / "docs" / "learning.md"
FIGURE = ROOT / "docs" / "images" / "learning_curves.png"

ALGOS = ["vanilla_pg", "ppo_clip", "ppo_kl", "ppo_kl_fixed", "trpo", "npg"]
ENVS = {"cartpole": "CartPole-v1", "acrobot": "Acrobot-v1", "pendulum": "Pendulum-v1"}
PUBLISHED = {
    ("cartpole", "vanilla_pg"): "483 at 200k (SLM-Lab, REINFORCE)",
    ("cartpole", "ppo_clip"): "500 (RL Zoo); 478 ± 18 (KLip)",
    ("cartpole", "ppo_kl"): "492 ± 9 (KLip, d = .02)",
    ("cartpole", "ppo_kl_fixed"): "484 ± 23 (KLip, β = 1)",
    ("cartpole", "trpo"): "500 (RL Zoo)",
    ("acrobot", "ppo_clip"): "-86 ± 1 at 500k (CleanRL)",
    ("acrobot", "trpo"): "-83 ± 19 at 100k (RL Zoo)",
    ("pendulum", "ppo_clip"): "-172 ± 104 (RL Zoo)",
    ("pendulum", "trpo"): "-175 ± 128 (RL Zoo)",
}
# Okabe and Ito's colours, told apart by the colour-blind too; the dashes help in print.
STYLES = {
    "vanilla_pg": ("#999999", ":"),
    "ppo_clip": ("#0072B2", "-"),
    "ppo_kl": ("#009E73", "-"),
    "ppo_kl_fixed": ("#56B4E9", "--"),
    "trpo": ("#D55E00", "-"),
    "npg": ("#E69F00", "--"),
}


def run_dir(env: str, algo: str, seed: int) -> Path:
    return RUNS / env / algo / f"seed{seed}"


def summary_of(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that finished, else None."""
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return summary if summary.get("status") == "finished" else None


def run(job: tuple[str, str, int]) -> str:
    """Train one run, in a process of its own."""
    from rlkl.config import load, register_schemas  # noqa: PLC0415
    from rlkl.trainer import train  # noqa: PLC0415

    env, algo, seed = job
    folder = run_dir(env, algo, seed)
    if folder.exists():  # begun and not finished
        shutil.rmtree(folder)
    register_schemas()
    overrides = [f"env={env}", f"algo={algo}", f"seed={seed}", "logger=csv", "logger.progress=none"]
    summary = train(load([*overrides, f"run_dir={folder}"]))
    returns = f"{summary.return_mean:.1f} (evaluation {summary.eval_return:.1f})"
    return f"{env} {algo} seed {seed}: {returns}"


def run_missing(seeds: int, processes: int) -> None:
    jobs = [job for job in product(ENVS, ALGOS, range(seeds)) if summary_of(run_dir(*job)) is None]
    print(f"{len(jobs)} runs to make, {processes} at a time", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        for number, future in enumerate(as_completed(futures), 1):
            print(f"[{number}/{len(jobs)}] {future.result()}", flush=True)


def curve(folder: Path, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The training return (mean of the last 100 episodes) at environment steps of a grid."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["return/train"]]
    steps = [float(row["env_steps"]) for row in rows]
    returns = [float(row["return/train"]) for row in rows]
    values: NDArray[np.float64] = np.interp(grid, steps, returns, left=np.nan)
    return values


def draw(seeds: int) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(ENVS), figsize=(13, 4.2), layout="constrained")
    rows = [
        "| environment | algorithm | training return | each seed | evaluation | published |",
        "|---|---|---|---|---|---|",
    ]
    for axis, (env, env_id) in zip(axes, ENVS.items(), strict=True):
        for algo in ALGOS:
            folders = [run_dir(env, algo, seed) for seed in range(seeds)]
            done = {f: s for f in folders if (s := summary_of(f)) is not None}
            if not done:
                continue
            grid = np.linspace(0, max(s["env_steps"] for s in done.values()), 100)
            curves = np.array([curve(folder, grid) for folder in done])
            color, dashes = STYLES[algo]
            axis.plot(grid, curves.T, color=color, linewidth=0.6, alpha=0.35)
            axis.plot(grid, curves.mean(0), dashes, color=color, linewidth=2, label=algo)
            finals = np.array([s["return_mean"] for s in done.values()])
            evaluations = np.array([s["eval_return"] for s in done.values()])
            rows.append(
                f"| {env_id} | {algo} | {finals.mean():.1f} ± {finals.std(ddof=1):.1f} "
                f"| {', '.join(f'{value:.0f}' for value in finals)} "
                f"| {evaluations.mean():.1f} ± {evaluations.std(ddof=1):.1f} "
                f"| {PUBLISHED.get((env, algo), '')} |"
            )
        axis.set(title=env_id, xlabel="environment steps")
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:.0f}k")
    axes[0].set_ylabel("training return, last 100 episodes")
    axes[0].legend(frameon=False, fontsize=9)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    table = "\n".join(rows)
    begin, end = "<!-- table: made by scripts/learning_curves.py -->", "<!-- end of table -->"
    page = PAGE.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        sys.exit(f"{PAGE} has no lines {begin!r} and {end!r} to put the table between")
    PAGE.write_text(pattern.sub(lambda _: f"{begin}\n{table}\n{end}", page))
    print(table)
    print(f"wrote {FIGURE.relative_to(ROOT)} and the table of {PAGE.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each pair (default 5)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at a time")
    parser.add_argument("--draw-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if not arguments.draw_only:
        run_missing(arguments.seeds, arguments.processes)
    draw(arguments.seeds)


if __name__ == "__main__":
    main()

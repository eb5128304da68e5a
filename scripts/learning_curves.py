"""Trains the missing runs of docs/learning.md and draws its curves and tables.

    python scripts/learning_curves.py classic             # every algorithm on classic control
    python scripts/learning_curves.py environments        # other families of environments
    python scripts/learning_curves.py classic --draw-only # from existing runs

Runs are in runs/learning/. Finished runs are not repeated, so the command can be stopped and
restarted. Needs the extra `plots`, and for `environments` the extra `envs`.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pages import fill

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_installed

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "learning"
PAGE = ROOT / "docs" / "learning.md"
IMAGES = ROOT / "docs" / "images"

# Okabe and Ito's palette for the colour-blind; the dashes help in print.
STYLES = {
    "vanilla_pg": ("#999999", ":"),
    "ppo_clip": ("#0072B2", "-"),
    "ppo_kl": ("#009E73", "-"),
    "ppo_kl_fixed": ("#56B4E9", "--"),
    "trpo": ("#D55E00", "-"),
    "npg": ("#E69F00", "--"),
    "ppo_clip gru": ("#009E73", "-"),
    "trpo gru": ("#CC79A7", "-"),
}


@dataclass(frozen=True)
class Curve:
    """One configuration, run with several seeds.

    Attributes:
        env: title of the panel.
        label: of the line, a key of `STYLES`.
        overrides: of `rlkl train`.
        published: published results, for the table.
    """

    env: str
    label: str
    overrides: tuple[str, ...]
    published: str = ""

    def folder(self, seed: int) -> Path:
        return RUNS / self.env.replace("/", "_") / self.label.replace(" ", "_") / f"seed{seed}"


CLASSIC = {"cartpole": "CartPole-v1", "acrobot": "Acrobot-v1", "pendulum": "Pendulum-v1"}
ALGOS = ["vanilla_pg", "ppo_clip", "ppo_kl", "ppo_kl_fixed", "trpo", "npg"]
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
MUJOCO = (
    "algo.learning_rate=3e-4", "algo.num_minibatches=32", "critic.learning_rate_schedule=linear",
    "total_env_steps=500000",
)  # fmt: skip
TRPO_MEMORY = (
    "algo=trpo", "algo.max_kl=0.002", "algo.max_kl_schedule=constant", "algo.cg_damping=0.01",
    "algo.cg_iterations=20",
)  # fmt: skip
HIDDEN = "HiddenVelocityCartPole-v1"
MEMORY = "MiniGrid-MemoryS7-v0"
FIGURES = {
    "classic": [
        Curve(env_id, algo, (f"env={env}", f"algo={algo}"), PUBLISHED.get((env, algo), ""))
        for env, env_id in CLASSIC.items()
        for algo in ALGOS
    ],
    "environments": [
        Curve(
            "LunarLander-v3", "ppo_clip", ("env=lunarlander",),
            "at 300k: 183 (SLM-Lab), 51 (KLip)",
        ),
        Curve(
            "HalfCheetah-v5", "ppo_clip", ("env=halfcheetah", *MUJOCO),
            "at 1M, v4: 1443 ± 46 (CleanRL), 1955 ± 312 (KLip)",
        ),
        Curve(
            "Hopper-v5", "ppo_clip", ("env=hopper", *MUJOCO),
            "at 1M, v4: 2383 ± 272 (CleanRL), 2598 ± 278 (KLip)",
        ),
        Curve("MiniGrid-Empty-8x8-v0", "ppo_clip", ("env=minigrid_empty",), "0.95 is a short path"),
        Curve(HIDDEN, "ppo_clip", ("env=cartpole_hidden",)),
        Curve(HIDDEN, "ppo_clip gru", ("env=cartpole_hidden", "policy=gru")),
        Curve(HIDDEN, "trpo gru", ("env=cartpole_hidden", "policy=gru", "algo=trpo")),
        Curve(MEMORY, "ppo_clip", ("env=minigrid_memory",), "0.5 is a guess"),
        Curve(MEMORY, "ppo_clip gru", ("env=minigrid_memory", "policy=gru")),
        Curve(MEMORY, "trpo gru", ("env=minigrid_memory", "policy=gru", *TRPO_MEMORY)),
    ],
}  # fmt: skip


def summary_of(folder: Path, statuses: tuple[str, ...] = ("finished",)) -> dict[str, Any] | None:
    """Return the summary of a run if its status is one of these, else None."""
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return summary if summary.get("status") in statuses else None


def run(job: tuple[Curve, int]) -> str:
    """Train one run."""
    from rlkl.cli.compose import load  # noqa: PLC0415
    from rlkl.cli.schema import register_schemas  # noqa: PLC0415
    from rlkl.training.trainer import train  # noqa: PLC0415

    curve, seed = job
    folder = curve.folder(seed)
    if folder.exists():  # unfinished
        shutil.rmtree(folder)
    register_schemas()
    rest = [f"seed={seed}", "logger=csv", "logger.progress=none", f"run_dir={folder}"]
    summary = train(load([*curve.overrides, *rest]))
    returns = f"{summary.return_mean:.1f} (evaluation {summary.eval_return:.1f})"
    return f"{curve.env} {curve.label} seed {seed}: {returns}"


def run_missing(curves: list[Curve], seeds: int, processes: int) -> None:
    jobs = [
        (curve, seed)
        for curve in curves
        for seed in range(seeds)
        if summary_of(curve.folder(seed)) is None
    ]
    print(f"{len(jobs)} runs to train, {processes} at a time", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        for number, future in enumerate(as_completed(futures), 1):
            print(f"[{number}/{len(jobs)}] {future.result()}", flush=True)


def returns_of(folder: Path, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the training return (mean of the last 100 episodes) at the steps of a grid."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["return/train"]]
    steps = [float(row["env_steps"]) for row in rows]
    returns = [float(row["return/train"]) for row in rows]
    values: NDArray[np.float64] = np.interp(grid, steps, returns, left=np.nan)
    return values


def draw(name: str, seeds: int) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    curves = FIGURES[name]
    envs = list(dict.fromkeys(curve.env for curve in curves))
    columns = min(3, len(envs))
    height = -(-len(envs) // columns)
    size = (4.4 * columns, 4.0 * height)
    figure, axes = plt.subplots(height, columns, figsize=size, layout="constrained", squeeze=False)
    axis_of = dict(zip(envs, axes.flat, strict=False))
    rows = [
        "| environment | algorithm | steps | training return "
        "| each seed | evaluation | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for curve in curves:
        axis = axis_of[curve.env]
        folders = [curve.folder(seed) for seed in range(seeds)]
        statuses = ("finished", "stopped")
        done = {f: s for f in folders if (s := summary_of(f, statuses)) is not None}
        if not done:
            continue
        steps = max(summary["env_steps"] for summary in done.values())
        grid = np.linspace(0, steps, 100)
        lines = np.array([returns_of(folder, grid) for folder in done])
        color, dashes = STYLES[curve.label]
        axis.plot(grid, lines.T, color=color, linewidth=0.6, alpha=0.35)
        axis.plot(grid, lines.mean(0), dashes, color=color, linewidth=2, label=curve.label)
        rows.append(table_row(curve, steps, list(done.values())))
    for env, axis in axis_of.items():
        axis.set(title=env, xlabel="environment steps")
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:.0f}k")
        if axis.get_lines() and (name != "classic" or env == envs[0]):
            axis.legend(frameon=False, fontsize=9)
    for axis in axes.flat[len(envs) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("training return, last 100 episodes")
    IMAGES.mkdir(parents=True, exist_ok=True)
    image = IMAGES / f"learning_{name}.png"
    figure.savefig(image, dpi=110)
    table = "\n".join(rows)
    PAGE.write_text(fill(PAGE, {f"table {name}": table}, Path(__file__).name))
    print(table)
    print(f"wrote {image.relative_to(ROOT)} and the table of {PAGE.relative_to(ROOT)}")


def table_row(curve: Curve, steps: int, summaries: list[dict[str, Any]]) -> str:
    finals, evaluations = (
        np.array([np.nan if summary[key] is None else summary[key] for summary in summaries])
        for key in ("return_mean", "eval_return")
    )
    return (
        f"| {curve.env} | {curve.label} | {steps / 1000:.0f}k | {spread(finals)} "
        f"| {', '.join(f'{value:.{digits(finals)}f}' for value in finals)} "
        f"| {spread(evaluations)} | {curve.published} |"
    )


def digits(values: NDArray[np.float64]) -> int:
    """Return the number of decimals for returns of this size."""
    return 0 if np.nanmax(np.abs(values)) >= 30 else 2


def spread(values: NDArray[np.float64]) -> str:
    """Return mean ± standard deviation over seeds."""
    if np.isnan(values).all():
        return "not made"
    number = max(1, digits(values))
    deviation = f" ± {values.std(ddof=1):.{number}f}" if len(values) > 1 else ""
    return f"{values.mean():.{number}f}{deviation}"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("figure", nargs="?", choices=FIGURES, default="classic")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per curve (default: 5)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--draw-only", action="store_true", help="do not train")
    arguments = parser.parse_args()
    try:
        check_installed("matplotlib", "plots", parser.prog)
        if not arguments.draw_only:
            run_missing(FIGURES[arguments.figure], arguments.seeds, arguments.processes)
        draw(arguments.figure, arguments.seeds)
    except ConfigError as error:
        sys.exit(f"learning_curves: {error}")


if __name__ == "__main__":
    main()

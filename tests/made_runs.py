"""Run folders written by hand, so that what a comparison says of them is known beforehand."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlkl.algos import ALGORITHMS
from rlkl.envs.make import EnvConfig
from rlkl.training.checkpoint import as_bytes
from rlkl.training.config import TrainConfig
from rlkl.training.loggers import as_yaml
from rlkl.training.report import TAGS
from rlkl.utils.atomic_files import write_durably

HEADER = ["env_steps", *TAGS]
VERSIONS = {"rlkl": "0.1.0", "torch": "2.13.0"}


def make_run(
    folder: Path,
    returns: Sequence[float],
    *,
    env: str = "CartPole-v1",
    algo: str = "ppo_clip",
    seed: int = 0,
    per_row: int = 100,
    seconds: float = 2.0,
    settings: dict[str, Any] | None = None,
    columns: dict[str, Sequence[float]] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """Write a run that finished.

    Args:
        folder: of the run; made here.
        returns: `return/train` of each row; NaN for none.
        env, algo, seed: of the run.
        per_row: environment steps of each row.
        seconds: of each row.
        settings: of the config, keys as on the command line.
        columns: further columns by tag.
        summary: what it says instead; `{"status": None}` leaves the file out.
    """
    folder.mkdir(parents=True)
    steps = per_row * (1 + np.arange(len(returns)))
    config: dict[str, Any] = asdict(
        TrainConfig(
            algo=ALGORITHMS[algo].config(), env=EnvConfig(id=env), seed=seed,
            total_env_steps=int(steps[-1]),
        )
    )  # fmt: skip
    for key, value in (settings or {}).items():
        *path, name = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node[name] = value
    (folder / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
    given: dict[str, Sequence[float]] = {
        "return/train": returns,
        "kl/old_new": [0.01] * len(steps),
        "kl/max": [0.05] * len(steps),
        "ratio/std": [0.1] * len(steps),
        "policy/entropy": [0.6] * len(steps),
        "time/env_steps_per_second": [per_row / seconds] * len(steps),
    }
    given |= columns or {}
    lines = [",".join(HEADER)]
    for row, step in enumerate(steps):
        fields = [given.get(tag, [np.nan] * len(steps))[row] for tag in TAGS]
        lines.append(
            ",".join([str(step), *("" if np.isnan(x) else repr(float(x)) for x in fields)])
        )
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    content = {
        "status": "finished", "reason": "", "env_steps": int(steps[-1]), "eval_return": None,
        "seed": seed, "algo": algo, "env_id": env, "versions": VERSIONS, "git_revision": "abc",
        "hardware": {"cpu": "A chip", "cpus": 2},
    } | (summary or {})  # fmt: skip
    if content["status"] is not None:
        (folder / "summary.json").write_text(json.dumps(content))
    return folder


def make_grid(
    folder: Path,
    finals: dict[str, dict[str, Sequence[float]]],
    rows: int = 12,
    **others: Any,
) -> Path:
    """Write a run for each final return, which it comes to along a straight line from 0.

    Args:
        folder: of all runs.
        finals: environment to algorithm to the final return of each seed.
        rows: of each run.
        others: arguments of `make_run`.
    """
    for env, by_algo in finals.items():
        for algo, returns in by_algo.items():
            for seed, final in enumerate(returns):
                make_run(
                    folder / env / algo / f"seed{seed}",
                    np.linspace(0, final, rows).tolist(),
                    env=env, algo=algo, seed=seed, **others,
                )  # fmt: skip
    return folder


def resume_to(folder: Path, total_env_steps: int) -> None:
    """Write down that a run was resumed with another budget."""
    entry = {
        "env_steps": 100,
        "changed": {"total_env_steps": {"before": 1, "now": total_env_steps}},
    }
    (folder / "resumed.yaml").write_text(yaml.safe_dump([entry]))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, as a run does it, and its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, as_bytes(state))

"""The summary of a run, with versions and hardware."""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from rlkl.version import __version__


@dataclass
class Summary:
    """The results of a run.

    Attributes:
        status: `finished`, `stopped` (by the user) or `failed`.
        reason: why the run stopped or failed, or why a callback ended it; else empty.
        env_steps: environment steps.
        iterations: iterations.
        episodes: finished training episodes.
        return_mean: training return, mean of the last 100 episodes; None before the first.
        return_best: the best such mean at the end of an iteration.
        eval_return: mean return of the evaluation after training, over the episodes that ended.
        eval_unended: number of its episodes that did not end within `eval_max_episode_steps`.
        eval_seconds: time of all evaluations.
        wall_seconds: time of training from the first environment step, without evaluations.
        env_steps_per_second: over that time.
        seed, algo, env_id: from the config.
        versions: of rlkl, Python, torch, Gymnasium and NumPy.
        git_revision: of rlkl's checkout; None if it is installed otherwise.
        hardware: of the machine at the end: `cpu`, number of `cpus`, and `gpu` if used.
        exact: whether the results equal an uninterrupted run's; false after `exact=False`.
        run_dir: the run's folder, an absolute path. It is not in `summary.json`.
    """

    status: str
    reason: str
    env_steps: int
    iterations: int
    episodes: int
    return_mean: float | None
    return_best: float | None
    eval_return: float | None
    wall_seconds: float
    env_steps_per_second: float | None
    seed: int
    algo: str
    env_id: str
    versions: dict[str, str]
    git_revision: str | None
    hardware: dict[str, str | int]
    exact: bool = True
    eval_unended: int | None = None
    eval_seconds: float = 0.0
    run_dir: Path | None = None

    def content(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        content = asdict(self)
        del content["run_dir"]
        return content


def git_revision() -> str | None:
    """Return the git revision of rlkl's checkout, or None if there is no checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware(device: str) -> dict[str, str | int]:
    """Return the hardware of a run on this device."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found: dict[str, str | int] = {"cpu": next(names, platform.processor() or platform.machine())}
    found["cpus"] = os.cpu_count() or 1
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Return the versions of rlkl, Python, torch, Gymnasium and NumPy."""
    return {
        "rlkl": __version__,
        "python": platform.python_version(),
        **{package.__name__: str(package.__version__) for package in (torch, gymnasium, np)},
    }

"""The command line of a grid: its name, its jobs and their folders, the launcher."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rlkl.cli.command_line import expand
from rlkl.cli.compose import load
from rlkl.cli.schema import GROUPS
from rlkl.tools.grid.call import CALLS, RECORD
from rlkl.tools.grid.display import Job
from rlkl.training.config import OUTPUT_KEYS, TrainConfig
from rlkl.utils.errors import ConfigError

GRIDS = Path("runs", "grids")
LAUNCHER = "hydra/launcher"
BATCH = "hydra.sweeper.max_batch_size"
MAX_NAME_LENGTH = 150


@dataclass(frozen=True)
class GridLine:
    """The command line of a grid."""

    name: str | None  # of `grid=NAME`
    launching: list[str]  # overrides of `hydra/launcher` and `hydra.launcher`
    batch: int | None  # jobs that the launcher gets at a time; None for all
    jobs: list[str]  # all other overrides, as typed


def read_line(overrides: list[str]) -> GridLine:
    """Separate the overrides of the jobs from those of the grid and the launcher."""
    name, batch, launching, jobs = None, None, [], []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "grid":
            name = value
            if not re.fullmatch(rf"\w[\w.+-]{{0,{MAX_NAME_LENGTH - 1}}}", name, re.ASCII):
                raise ConfigError(f"{text}: expected a name of letters, digits and _ . + -")
        elif key == BATCH:
            if not value.isdecimal() or int(value) < 1:
                raise ConfigError(f"{text}: expected a whole number of jobs, at least 1")
            batch = int(value)
        elif key == LAUNCHER or key.startswith("hydra.launcher."):
            launching.append(text)
        elif key.startswith(("hydra.", "hydra/")):
            raise ConfigError(
                f"{text}: of Hydra's keys, a grid accepts only {LAUNCHER}, hydra.launcher.* and "
                f"{BATCH}; name its folder by grid=NAME"
            )
        else:
            jobs.append(text)
    return GridLine(name, launching, batch, jobs)


def name_jobs(
    line: GridLine, config_dirs: Iterable[Path] = ()
) -> tuple[Path, dict[str, list[str]]]:
    """Return the grid's folder, and the overrides of each job by its name."""
    # The last override of a key counts.
    jobs = [
        {text.lstrip("+").partition("=")[0]: text for text in texts}
        for texts in expand(line.jobs, multirun=True, config_dirs=config_dirs)
    ]
    swept = sorted(key for key in jobs[0] if len({job[key] for job in jobs}) > 1)
    # Equal jobs have equal names, so they are run once.
    named = {job_name(job, swept): list(job.values()) for job in jobs}
    return GRIDS / (line.name or grid_name(jobs, swept)), named


def load_jobs(line: GridLine, config_dirs: list[Path]) -> tuple[Path, list[Job]]:
    """Return the grid's folder and its jobs, with valid configs and separate folders."""
    grid_dir, named = name_jobs(line, config_dirs)
    # Composing takes long, so it is done once for all seeds, unless a value may depend on the seed.
    is_free = not config_dirs and not any("$" in text for text in line.jobs)
    composed: dict[tuple[str, ...], TrainConfig] = {}
    jobs = []
    for name, overrides in named.items():
        seed = next((text for text in overrides if re.fullmatch(r"seed=\d{1,9}", text)), None)
        others = tuple(text for text in overrides if text != seed)
        if seed is not None and is_free and others in composed:
            config = replace(composed[others], seed=int(seed.removeprefix("seed=")))
        else:
            config = composed[others] = load(overrides, config_dirs)
        config = replace(config, run_dir=config.run_dir or str(grid_dir / name))
        jobs.append(Job(name, overrides, config))
    folders = [job.config.run_dir for job in jobs]
    if len(folders) > len(set(folders)):
        raise ConfigError(
            f"run_dir={folders[0]} would be shared by several jobs; "
            "leave it out, or make it differ: 'run_dir=DIR/${algo.name}-${seed}'"
        )
    return grid_dir, jobs


def job_name(job: dict[str, str], swept: list[str]) -> str:
    """Return the name of a job's folder: the options of groups, the seed, and swept values.

    `algo=trpo gamma=0.9 seed=3` gives `trpo-seed3`.
    """
    named = {*GROUPS, "seed", *swept}
    keys = [key for key in job if key in named and not _is_beside(key)]
    order = {group: number for number, group in enumerate(GROUPS)} | {"seed": len(GROUPS) + 1}
    parts = []
    for key in sorted(keys, key=lambda key: (order.get(key, len(GROUPS)), key)):
        value = job[key].partition("=")[2]
        parts.append(value if key in GROUPS else f"{key}{'' if key == 'seed' else '_'}{value}")
    full = "-".join(parts) or "defaults"
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", full)
    is_reserved = name in (CALLS, RECORD)
    if name != full or is_reserved or not name[0].isalnum() or len(name) > MAX_NAME_LENGTH:
        # The digest keeps shortened names distinct.
        name = f"job-{name[:MAX_NAME_LENGTH].strip('_')}-{_digest([full])}"
    return name


def grid_name(jobs: list[dict[str, str]], swept: list[str]) -> str:
    """Return the default name of a grid: the swept keys, and a digest of all other overrides."""
    label = re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(key.rpartition(".")[2] for key in swept))
    shared = [text for key, text in jobs[0].items() if key not in swept and not _is_beside(key)]
    return f"{label[:MAX_NAME_LENGTH] or 'single'}-{_digest(sorted(shared))}"


def _is_beside(key: str) -> bool:
    return key.partition(".")[0] in OUTPUT_KEYS


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]

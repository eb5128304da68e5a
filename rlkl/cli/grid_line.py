"""What a command line of a grid asks for: which jobs, under which names, launched how."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rlkl.cli.compose import GROUPS, CommandLine, load
from rlkl.tools.grid.call import CALLS, RECORD
from rlkl.training.config import BESIDE, TrainConfig
from rlkl.utils.validation import ConfigError

GRIDS = Path("runs", "grids")
LAUNCHER = "hydra/launcher"
BATCH = "hydra.sweeper.max_batch_size"
LONGEST_NAME = 150


@dataclass(frozen=True)
class GridLine:
    """A command line of a grid.

    Attributes:
        name: given by `grid=NAME`, if it was.
        launching: overrides of `hydra/launcher` and `hydra.launcher`.
        batch: how many jobs the launcher is given at a time; None for all.
        jobs: all other overrides.
    """

    name: str | None
    launching: list[str]
    batch: int | None
    jobs: CommandLine


def read_line(overrides: list[str]) -> GridLine:
    """Tell apart what says which jobs, what says how to launch them, and how the grid is named.

    Raises:
        ConfigError: a name that is none, or a key of Hydra's that a grid has no use for.
    """
    name, batch, launching, jobs = None, None, [], []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "grid":
            name = value
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name) or len(name) > LONGEST_NAME:
                raise ConfigError(f"{text}: expected a name of letters, digits, and any of _ . + -")
        elif key == BATCH:
            if not value.isdecimal() or int(value) < 1:
                raise ConfigError(f"{text}: expected a whole number of jobs, at least 1")
            batch = int(value)
        elif key == LAUNCHER or key.startswith("hydra.launcher."):
            launching.append(text)
        elif key.startswith(("hydra.", "hydra/")):
            raise ConfigError(
                f"{text}: a grid takes of Hydra's keys {LAUNCHER}, hydra.launcher.* and {BATCH}; "
                "its folder is named by grid=NAME"
            )
        else:
            jobs.append(text)
    return GridLine(name, launching, batch, CommandLine(jobs))


@dataclass(frozen=True)
class Asked:
    """A job as it was asked for.

    Attributes:
        name: of its folder, made of its overrides.
        label: its overrides.
        config: with a `run_dir`.
        overrides: as Hydra takes them.
    """

    name: str
    label: str
    config: TrainConfig
    overrides: tuple[str, ...] = ()


def name_jobs(
    line: GridLine, config_dirs: Iterable[Path] = ()
) -> tuple[Path, dict[str, list[str]]]:
    """Return the grid's folder, and the overrides of each job by its name.

    Args:
        line: the command line.
        config_dirs: searched beside rlkl's own configs.

    Raises:
        ConfigError: an override that cannot be parsed, or that makes no list of jobs.
    """
    jobs = [chosen(texts) for texts in line.jobs.jobs(multirun=True, config_dirs=config_dirs)]
    swept = sorted(key for key in jobs[0] if len({job[key] for job in jobs}) > 1)
    # What is asked for twice is one job.
    named = {job_name(job, swept): list(job.values()) for job in jobs}
    return GRIDS / (line.name or grid_name(jobs, swept)), named


def ask(line: GridLine, config_dirs: list[Path]) -> tuple[Path, list[Asked]]:
    """Return the grid's folder, and its jobs.

    Raises:
        ConfigError: a job cannot be run as asked for.
    """
    grid_dir, named = name_jobs(line, config_dirs)
    asked = []
    for name, texts in named.items():
        config = load(texts, config_dirs)
        config = replace(config, run_dir=config.run_dir or str(grid_dir / name))
        typed = [text.removeprefix("++") for text in texts]
        asked.append(Asked(name, ",".join(typed), config, tuple(texts)))
    folders = [job.config.run_dir for job in asked]
    if len(folders) > len(set(folders)):
        raise ConfigError(
            f"run_dir={folders[0]} would be shared by several jobs; "
            "leave it out, or make it differ: 'run_dir=DIR/${algo.name}-${seed}'"
        )
    return grid_dir, asked


def chosen(texts: list[str]) -> dict[str, str]:
    """Return a job's overrides by their keys; of several for one key the last counts."""
    return {text.lstrip("+").partition("=")[0]: text for text in texts}


def job_name(job: dict[str, str], swept: list[str]) -> str:
    """Return the name of a job's folder: the options of groups, the seed, and what is swept.

    Args:
        job: overrides by their keys, such as those of `algo=trpo gamma=0.9 seed=3`: `trpo-seed3`.
        swept: keys that have several values in the grid.
    """
    told = [key for key in job if key in GROUPS or key == "seed" or key in swept]
    told = [key for key in told if key.partition(".")[0] not in BESIDE]
    order = {group: number for number, group in enumerate(GROUPS)} | {"seed": len(GROUPS) + 1}
    parts = []
    for key in sorted(told, key=lambda key: (order.get(key, len(GROUPS)), key)):
        value = job[key].partition("=")[2]
        parts.append(value if key in GROUPS else f"{key}{'' if key == 'seed' else '_'}{value}")
    whole = "-".join(parts) or "defaults"
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", whole)
    is_taken = name in (CALLS, RECORD)
    if name != whole or is_taken or not name[0].isalnum() or len(name) > LONGEST_NAME:
        # What was lost is told apart by a digest.
        name = f"job-{name[:LONGEST_NAME].strip('_')}-{_digest([whole])}"
    return name


def grid_name(jobs: list[dict[str, str]], swept: list[str]) -> str:
    """Return the name of a grid that was given none: the swept keys, and a digest of all others.

    So a grid keeps its name when it grows along a key that it sweeps.
    """
    label = re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(key.rpartition(".")[2] for key in swept))
    shared = [
        text
        for key, text in jobs[0].items()
        if key not in swept and key.partition(".")[0] not in BESIDE
    ]
    return f"{label[:LONGEST_NAME] or 'single'}-{_digest(sorted(shared))}"


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]

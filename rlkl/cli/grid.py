"""`rlkl train --multirun`: hands the jobs of a grid that are missing to a launcher of Hydra."""

import hashlib
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from rlkl.config import CONFIG_DIR, GROUPS, CommandLine, load, one_line_errors, options
from rlkl.durable import FolderLock, FolderTakenError
from rlkl.grid.call import CALLS, Call, Status, new_call
from rlkl.grid.display import Grid, Job, Watch, log_of
from rlkl.grid.job import PATIENCE, JobRunner
from rlkl.loggers import check_folder
from rlkl.standing import ForeignFolderError, Standing, standing
from rlkl.trainer import TrainConfig, Trainer
from rlkl.training_config import BESIDE
from rlkl.validation import ConfigError, check_choice, check_installed, check_range, one_line
from rlkl.version import __version__

GRIDS = Path("runs", "grids")
LAUNCHER = "hydra/launcher"
OF_HYDRA = {
    "basic": "",
    "joblib": "",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
}
"""Launchers of Hydra's own, and the extra of rlkl that brings each."""

OF_RLKL = {"cores": "joblib", "slurm": "submitit_slurm", "slurm_rehearsal": "submitit_local",
           "ray_cluster": "ray"}  # fmt: skip
"""The configs that set them up for rlkl."""

ALL_CORES = -1
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
    """

    name: str
    label: str
    config: TrainConfig


def run_grid(line: GridLine, config_dirs: list[Path], command: list[str]) -> int:
    """Run the jobs of a grid that are not finished; return the exit code.

    Args:
        line: the command line.
        config_dirs: searched beside rlkl's own configs.
        command: as typed, behind `rlkl train`.

    Raises:
        ConfigError: a job or the launcher cannot be had as asked for; nothing was made.
    """
    grid_dir, asked = ask(line, config_dirs)
    check_launcher(line.launching, config_dirs)
    stands = {job.name: stands_at(job) for job in asked}
    missing = [job for job in asked if stands[job.name] is not Standing.FINISHED]
    check_jobs([job.config for job in missing])
    jobs = [_seen(job) for job in missing]
    grid = Grid(grid_dir.name, jobs, skipped=len(asked) - len(missing))
    kinds = {job.config.logger.progress for job in asked}
    kind = kinds.pop() if len(kinds) == 1 else "auto"
    if kind != "none":
        begun = sum(stands[job.name] is Standing.UNFINISHED for job in missing)
        print(
            f"grid {grid_dir}: {len(asked)} jobs, {grid.skipped} finished before, "
            f"{begun} to go on with, {len(missing) - begun} to begin",
            flush=True,
        )
    if not missing:
        return 0
    call = new_call(grid_dir)
    call.write_record(
        {
            "command": shlex.join(["rlkl", "train", *command]),
            "rlkl": __version__,
            "jobs": {job.name: stands[job.name].value for job in asked},
        }
    )
    for job in missing:
        call.write_config(job.name, job.config)
    launch = Launch(line, config_dirs, call, missing)
    with launch, _signals_ask(call), Watch(grid, call, kind):
        broke = launch.go()
        _wait_for_the_orphaned(call, jobs)
    return _report(grid, call, broke, command, kind)


def name_jobs(line: GridLine) -> tuple[Path, dict[str, list[str]]]:
    """Return the grid's folder, and the overrides of each job by its name.

    Raises:
        ConfigError: an override that cannot be parsed, or that makes no list of jobs.
    """
    jobs = [chosen(texts) for texts in line.jobs.jobs(multirun=True)]
    swept = sorted(key for key in jobs[0] if len({job[key] for job in jobs}) > 1)
    # What is asked for twice is one job.
    named = {job_name(job, swept): list(job.values()) for job in jobs}
    return GRIDS / (line.name or grid_name(jobs, swept)), named


def ask(line: GridLine, config_dirs: list[Path]) -> tuple[Path, list[Asked]]:
    """Return the grid's folder, and its jobs.

    Raises:
        ConfigError: a job cannot be had as asked for.
    """
    grid_dir, named = name_jobs(line)
    asked = []
    for name, texts in named.items():
        config = load(texts, config_dirs)
        config = replace(config, run_dir=config.run_dir or str(grid_dir / name))
        asked.append(Asked(name, ",".join(texts), config))
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
    if name != whole or name == CALLS or not name[0].isalnum() or len(name) > LONGEST_NAME:
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


def stands_at(job: Asked) -> Standing:
    """Say where a job stands; one whose folder holds something else is left to fail on its own.

    Raises:
        ConfigError: its folder holds the run of another config.
    """
    try:
        return standing(Path(job.config.run_dir or ""), job.config)
    except ForeignFolderError:
        return Standing.MISSING


def check_jobs(configs: list[TrainConfig]) -> None:
    """Find what cannot be made before anything is left of a grid.

    Args:
        configs: of all jobs that are to run.

    Raises:
        ConfigError: what a job of its own would be refused with, but for a folder that exists: that
            job will fail, and the others go on.
    """
    for config in configs:
        check_folder("run_dir", config.run_dir or "")
    alike = {repr(c): c for c in (replace(c, run_dir=None, seed=0) for c in configs)}
    for config in alike.values():
        Trainer(config).close()


def check_launcher(launching: list[str], config_dirs: list[Path]) -> None:
    """Raise unless the launcher is there, and its settings can be read.

    Raises:
        ConfigError: naming the launchers, or the extra that brings the one that is missing.
    """
    for text in launching:
        key, _, name = text.partition("=")
        if key == LAUNCHER:
            check_choice(LAUNCHER, name, {**options(LAUNCHER, config_dirs), **OF_HYDRA})
            extra = OF_HYDRA.get(OF_RLKL.get(name, name))
            if extra:
                package = f"hydra_plugins.hydra_{extra}_launcher"
                check_installed(package, extra, f"{LAUNCHER}={name}")
    with _composed([*launching, "hydra.sweep.dir=."], config_dirs) as (_, composed):
        with one_line_errors():
            settings: Any = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
        target = settings.get("_target_")
        if target not in Plugins.instance().class_name_to_class:
            raise ConfigError(f"{LAUNCHER}: {target} is none of the launchers that are installed")
        jobs = settings.get("n_jobs", ALL_CORES)
        if jobs != ALL_CORES:
            check_range("hydra.launcher.n_jobs", jobs, at_least=1)


@contextmanager
def _composed(overrides: list[str], config_dirs: list[Path]) -> Iterator[tuple[Any, DictConfig]]:
    """Give Hydra and the config of a launch."""
    search_path = ",".join(f"file://{path.resolve()}" for path in config_dirs)
    extra = [f"hydra.searchpath=[{search_path}]"] if config_dirs else []
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3", job_name="rlkl"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with one_line_errors():
            config = hydra.compose_config("grid", [*overrides, *extra], run_mode=RunMode.MULTIRUN)
        yield hydra, config


class Launch:
    """Hydra's launcher, ready to go; a context manager.

    Args:
        line: says which launcher.
        config_dirs: searched beside rlkl's own configs.
        call: whose folder the launcher and the jobs write to.
        jobs: to launch.
    """

    def __init__(
        self, line: GridLine, config_dirs: list[Path], call: Call, jobs: list[Asked]
    ) -> None:
        self._batch = line.batch or len(jobs)
        self._jobs = [[f"job='{job.name}'"] for job in jobs]
        folder = str(call.folder).replace("\\", "\\\\").replace("'", "\\'")
        self._runner = JobRunner(call, Path.cwd(), os.getpid())
        self._context = _composed([*line.launching, f"hydra.sweep.dir='{folder}'"], config_dirs)
        self._threads = max(job.config.threads for job in jobs)

    def __enter__(self) -> "Launch":
        hydra, config = self._context.__enter__()
        launching = config.hydra.launcher
        if launching.get("n_jobs") == ALL_CORES:
            launching.n_jobs = jobs_at_a_time(len(self._jobs), self._threads)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=self._runner, config=config
        )
        return self

    def __exit__(self, *error: Any) -> None:
        loky: Any = sys.modules.get("joblib.externals.loky")
        if loky is not None:  # joblib keeps its workers for a next time, which will not come
            loky.get_reusable_executor().shutdown()
        self._context.__exit__(*error)

    def go(self) -> BaseException | None:
        """Launch all jobs and wait for them; return what broke the launcher, if it broke."""
        try:
            for begin in range(0, len(self._jobs), self._batch):
                batch = self._jobs[begin : begin + self._batch]
                for done in self._launcher.launch(batch, initial_job_idx=begin):
                    _ = done.return_value  # raises what the runner did
        except (Exception, KeyboardInterrupt) as error:  # the latter from a worker that Ctrl-C hit
            return error
        return None


def jobs_at_a_time(jobs: int, threads: int) -> int:
    """Return how many jobs there are cores for, of those that this process may use.

    Args:
        jobs: how many there are.
        threads: of each.
    """
    from joblib import cpu_count  # type: ignore[import-untyped]  # noqa: PLC0415

    return max(1, min(jobs, int(cpu_count()) // threads))


@contextmanager
def _signals_ask(call: Call) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask the jobs to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: call.ask_to_stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_the_orphaned(call: Call, jobs: list[Job]) -> None:
    """Note what became of jobs whose runner is gone, once their own processes have ended."""
    deadline = time.monotonic() + PATIENCE
    for job in jobs:
        if call.status(job.name).name != "running":
            continue
        while True:
            try:
                FolderLock(job.run_dir).release()
            except FolderTakenError:
                if time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
            except OSError:
                pass
            break
        name = "stopped" if call.stops_asked() else "failed"
        call.write_status(job.name, Status(name, "the launcher's worker that waited for it died"))


def _seen(asked: Asked) -> Job:
    config = asked.config
    job = Job(asked.name, asked.label, Path(config.run_dir or ""), config.total_env_steps)
    job.read_progress()
    job.before = job.env_steps
    return job


def _report(
    grid: Grid, call: Call, broke: BaseException | None, command: list[str], kind: str
) -> int:
    """Print what the call came to; return the exit code."""
    counts = grid.counts()
    for job in grid.jobs:
        if job.status.name in ("failed", "taken"):
            log = log_of(job)
            where = f" (see {log})" if log is not None and job.status.name == "failed" else ""
            print(
                f"rlkl: {job.status.name}: {job.label}: {job.status.reason}{where}", file=sys.stderr
            )
    stopped = call.stops_asked() > 0
    if broke is not None and not stopped:
        print(
            f"rlkl: the launcher broke: {type(broke).__name__}: {one_line(broke)}", file=sys.stderr
        )
    left = len(grid.jobs) - counts["finished"]
    if kind != "none":
        told = [f"{counts['finished'] + grid.skipped} finished"]
        told += [
            f"{counts[name]} {name}" for name in ("stopped", "failed", "taken") if counts[name]
        ]
        told += [f"{counts['waiting']} not begun"] if counts["waiting"] else []
        print(f"grid {grid.name}: {', '.join(told)}")
        if left:
            print(
                f"the same command does what is missing: {shlex.join(['rlkl', 'train', *command])}"
            )
    return 130 if stopped and left else int(left > 0)

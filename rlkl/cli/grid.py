"""`rlkl train --multirun`: runs the jobs of a grid that are missing, and tells how each ended."""

import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlkl.cli.compose import unused_settings
from rlkl.cli.grid_launch import Launch, check_launcher
from rlkl.cli.grid_line import Asked, GridLine, ask
from rlkl.tools.grid.call import Call, Status, new_call
from rlkl.tools.grid.display import Grid, Job, Watch, log_of
from rlkl.tools.grid.job import PATIENCE
from rlkl.training.loggers import check_folder
from rlkl.training.run_status import ForeignFolderError, Standing, standing
from rlkl.training.trainer import TrainConfig, Trainer
from rlkl.utils.atomic_files import FolderLock, FolderTakenError
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.signals import HANGUP, heeded
from rlkl.utils.streams import tell
from rlkl.utils.validation import ConfigError, one_line
from rlkl.version import __version__


def run_grid(line: GridLine, config_dirs: list[Path], command: list[str]) -> int:
    """Run the jobs of a grid that are not finished; return the exit code.

    Args:
        line: the command line.
        config_dirs: searched beside rlkl's own configs.
        command: as typed, behind `rlkl train`.

    Raises:
        ConfigError: a job or the launcher cannot be used as asked for; nothing was made.
    """
    grid_dir, asked = ask(line, config_dirs)
    check_launcher(line.launching, config_dirs)
    stands = {job.name: stands_at(job) for job in asked}
    missing = [job for job in asked if stands[job.name] is not Standing.FINISHED]
    check_jobs([job.config for job in missing])
    jobs = [_seen(job) for job in missing]
    finished = [job for job in asked if stands[job.name] is Standing.FINISHED]
    grid = Grid(grid_dir.name, jobs, [job.config.total_env_steps for job in finished])
    kinds = {job.config.logger.progress for job in asked}
    kind = kinds.pop() if len(kinds) == 1 else "auto"
    if kind != "none":
        begun = sum(stands[job.name] is Standing.UNFINISHED for job in missing)
        print(
            f"grid {grid_dir}: {len(asked)} jobs, {len(finished)} finished before, "
            f"{begun} to go on with, {len(missing) - begun} to begin",
            flush=True,
        )
    if not missing:
        return 0
    say_unused_settings((job.overrides, job.config) for job in missing)
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


def say_unused_settings(jobs: Iterable[tuple[Iterable[str], TrainConfig]]) -> None:
    """Print, once, which settings the jobs leave unused by naming an environment's id alone."""
    notes = [
        unused_settings(overrides, config)
        for overrides, config in jobs
        if config.logger.progress != "none"
    ]
    for note in dict.fromkeys(filter(None, notes)):
        tell(f"note: {note}")


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
        with chdir(Path.cwd()):  # an environment may change it
            Trainer(config).close()


@contextmanager
def _signals_ask(call: Call) -> Iterator[None]:
    """Let signals ask the jobs to stop; SIGHUP, which may come twice, only once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if number != HANGUP or not call.stops_asked():
            call.ask_to_stop()

    before = {number: signal.signal(number, ask) for number in heeded()}
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
            except (OSError, ConfigError):
                pass
            break
        # Ctrl-C may have ended a worker that was not yet ready for it, and the launcher then all.
        stopped = Status("stopped", "interrupted")
        died = Status("failed", "the launcher's worker that waited for it died")
        call.write_status(job.name, stopped if call.stops_asked() else died)


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
            tell(f"{job.status.name}: {job.label}: {for_terminal(job.status.reason)}{where}")
    stopped = call.stops_asked() > 0
    if broke is not None and not stopped:
        tell(f"the launcher broke: {type(broke).__name__}: {one_line(broke)}")
    left = len(grid.jobs) - counts["finished"]
    if kind != "none":
        told = [f"{counts['finished'] + len(grid.finished_before)} finished"]
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

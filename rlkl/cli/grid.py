"""`rlkl train --multirun`: run the unfinished jobs of a grid, and report how each ended."""

import shlex
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, chdir
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlkl.cli.compose import note_on_settings
from rlkl.cli.grid_launch import check_launcher, launch, launcher
from rlkl.cli.grid_line import GridLine, load_jobs
from rlkl.tools.grid.call import RECORD, Call, Status, new_call
from rlkl.tools.grid.display import Display, Grid, Job
from rlkl.tools.grid.job import SHUTDOWN_SECONDS
from rlkl.training.run_folder import LOG, ForeignFolderError, RunStatus, check_folder, run_status
from rlkl.training.trainer import TrainConfig, Trainer
from rlkl.utils.atomic_files import FolderLock, FolderTakenError
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.signals import HANGUP, active_stop_signals, handling
from rlkl.utils.streams import tell
from rlkl.utils.validation import described
from rlkl.version import __version__


def run_grid(line: GridLine, config_dirs: list[Path], command: list[str]) -> int:
    """Run the jobs of a grid that are not finished; return the exit code."""
    grid_dir, all_jobs = load_jobs(line, config_dirs)
    check_launcher(line.launching, config_dirs)
    statuses = {job.name: _job_status(job) for job in all_jobs}
    jobs = [job for job in all_jobs if statuses[job.name] is not RunStatus.FINISHED]
    _check_jobs([job.config for job in jobs])
    for job in all_jobs:
        if statuses[job.name] is RunStatus.FINISHED:
            job.status, job.env_steps = Status("finished"), job.config.total_env_steps
        else:
            job.read_progress()
        job.before = job.env_steps
    grid = Grid(grid_dir.name, all_jobs)
    kinds = {job.config.logger.progress for job in all_jobs}
    kind = kinds.pop() if len(kinds) == 1 else "auto"
    if kind != "none":
        resumed = sum(statuses[job.name] is RunStatus.UNFINISHED for job in jobs)
        print(
            f"grid {grid_dir}: {len(all_jobs)} jobs: {len(all_jobs) - len(jobs)} already finished, "
            f"{resumed} to resume, {len(jobs) - resumed} to start",
            flush=True,
        )
    if not jobs:
        return 0
    say_env_settings((job.overrides, job.config) for job in jobs)
    call = new_call(grid_dir)
    jobs_before = {name: status.value for name, status in statuses.items()}
    typed = shlex.join(["rlkl", "train", *command])
    call.write(RECORD, {"command": typed, "rlkl": __version__, "jobs": jobs_before})
    for job in jobs:
        call.write(job.name, asdict(job.config))
    with (
        launcher(line, config_dirs, call, jobs) as launching,
        _signals_request_stop(call),
        Display(grid, call, kind),
    ):
        error = launch(launching, jobs, line.batch)
        _settle_orphaned_jobs(call, jobs)
    return _report(grid, call, error, typed, kind)


def say_env_settings(jobs: Iterable[tuple[list[str], TrainConfig]]) -> None:
    """Print, once, which settings of `env` options the jobs take, or do not use."""
    notes = [
        note_on_settings(overrides, config)
        for overrides, config in jobs
        if config.logger.progress != "none"
    ]
    for note in dict.fromkeys(filter(None, notes)):
        tell(f"note: {note}")


def _job_status(job: Job) -> RunStatus:
    """Return the status of a job; one whose folder is not a run's will fail when it starts."""
    try:
        return run_status(job.run_dir, job.config)
    except ForeignFolderError:
        return RunStatus.MISSING


def _check_jobs(configs: list[TrainConfig]) -> None:
    """Check that all jobs can be built. A folder that exists is no reason: only that job fails."""
    for config in configs:
        check_folder("run_dir", config.run_dir or "")
    distinct = {repr(c): c for c in (replace(c, run_dir=None, seed=0) for c in configs)}
    for config in distinct.values():
        with chdir(Path.cwd()):  # an environment may change it
            Trainer(config).close()


def _signals_request_stop(call: Call) -> AbstractContextManager[None]:
    """Make signals ask the jobs to stop; SIGHUP, which may come twice, only once."""

    def request_stop(number: int, frame: Any) -> None:
        if number != HANGUP or not call.stop_requests():
            call.request_stop()

    return handling(active_stop_signals(), request_stop)


def _settle_orphaned_jobs(call: Call, jobs: list[Job]) -> None:
    """Wait for jobs whose runner is gone, and write how they ended."""
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    for job in jobs:
        if call.status(job.name).name != "running":
            continue
        while _is_in_use(job.run_dir) and time.monotonic() < deadline:
            time.sleep(0.2)
        # Ctrl-C may end a worker before it ignores the signal, and with it the launcher.
        stopped = Status("stopped", "interrupted")
        died = Status("failed", "the launcher's worker that waited for it died")
        call.write_status(job.name, stopped if call.stop_requests() else died)


def _is_in_use(run_dir: Path) -> bool:
    """Return whether a process holds the lock of a run's folder."""
    try:
        FolderLock(run_dir).release()
    except (OSError, ConfigError) as error:
        return isinstance(error, FolderTakenError)
    return False


def _report(grid: Grid, call: Call, error: BaseException | None, typed: str, kind: str) -> int:
    """Print the result of the call; return the exit code."""
    counts = grid.counts()
    for job in grid.jobs:
        if job.status.name in ("failed", "taken"):
            log = job.run_dir / LOG
            where = f" (see {log})" if log.exists() and job.status.name == "failed" else ""
            label = ",".join(text.removeprefix("++") for text in job.overrides)
            tell(f"{job.status.name}: {label}: {for_terminal(job.status.reason)}{where}")
    stopped = call.stop_requests() > 0
    if error is not None and not stopped:
        tell(f"the launcher failed: {described(error)}")
    left = len(grid.jobs) - counts["finished"]
    if kind != "none":
        parts = [f"{counts['finished']} finished"]
        names = {name: name for name in ("stopped", "failed", "taken")} | {"waiting": "not started"}
        parts += [f"{counts[name]} {words}" for name, words in names.items() if counts[name]]
        print(f"grid {grid.name}: {', '.join(parts)}")
        if left:
            print(f"to complete the grid, run the same command again: {typed}")
    return 130 if stopped and left else int(left > 0)

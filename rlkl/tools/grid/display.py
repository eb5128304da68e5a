"""The display of a grid: progress of all jobs while they run."""

import os
import threading
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from rlkl.tools.grid.call import Call, Status
from rlkl.training.config import TrainConfig
from rlkl.training.run_folder import read_summary
from rlkl.utils.atomic_files import open_nofollow
from rlkl.utils.lines import paragraph
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import failsafe_stdout

POLL_SECONDS = 0.25
MIN_SECONDS = 3.0
"""Time after which the remaining time is estimated."""

TAIL_BYTES = 8192
"""Bytes at the end of `metrics.csv` that contain its last row."""

MAX_SHOWN = 1e12
"""Larger numbers in a summary are not from a run."""

MAX_ROWS = 12
"""Running jobs that the live table shows."""


@dataclass
class Job:
    """A job of a grid, and its progress, read from its files."""

    name: str  # of its folder, derived from its overrides
    overrides: list[str]  # in Hydra's syntax
    config: TrainConfig  # with a `run_dir`
    status: Status = field(default_factory=lambda: Status("waiting"))
    env_steps: int = 0
    before: int = 0  # environment steps made before this call
    return_mean: str = ""  # last training return, as text of `metrics.csv`

    @property
    def run_dir(self) -> Path:
        """Folder of its run."""
        return Path(self.config.run_dir or "")

    def update(self, call: Call) -> bool:
        """Read status and progress; return whether the job has ended since the last update."""
        if self.status.has_ended:
            return False
        self.status = call.status(self.name)
        self.read_progress()
        return self.status.has_ended

    def read_progress(self) -> None:
        """Read the last complete row of the run's metrics."""
        try:
            with open_nofollow(self.run_dir / "metrics.csv", os.O_RDONLY, "rb") as file:
                header = file.readline(TAIL_BYTES).decode().rstrip().split(",")
                file.seek(max(len(",".join(header)), file.seek(0, 2) - TAIL_BYTES))
                rows = file.read(TAIL_BYTES).decode().split("\n")[1:-1]
            if rows:
                row = dict(zip(header, rows[-1].rstrip().split(","), strict=True))
                return_mean = row["return/train"]
                float(return_mean or "nan")
                self.env_steps, self.return_mean = int(row["env_steps"]), return_mean
        except (OSError, ValueError, KeyError):  # missing or damaged; the run itself will report it
            return


@dataclass
class Grid:
    """All jobs, including those that were finished before this call."""

    name: str
    jobs: list[Job]
    _start: float | None = None

    def counts(self) -> Counter[str]:
        """Return the number of jobs by status."""
        return Counter(job.status.name for job in self.jobs)

    @property
    def progress(self) -> float:
        """Fraction of the environment steps that is made, over all jobs that did not fail."""
        alive = [job for job in self.jobs if job.status.name != "failed"]
        total = sum(job.config.total_env_steps for job in alive)
        made = sum(min(job.env_steps, job.config.total_env_steps) for job in alive)
        return made / max(1, total)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the remaining time from this call's steps; None if it is too early."""
        if self._start is None and self.counts()["running"]:
            self._start = now
        made = sum(job.env_steps - job.before for job in self.jobs)
        left = sum(
            max(0, job.config.total_env_steps - job.env_steps)
            for job in self.jobs
            if not job.status.has_ended
        )
        if self._start is None or made <= 0 or now - self._start < MIN_SECONDS:
            return None
        return left * (now - self._start) / made

    def overview(self, now: float) -> str:
        """Return one line with progress, job counts and remaining time."""
        counts = self.counts()
        parts = [f"{counts['finished']} done", f"{counts['running']} running"]
        parts += [f"{counts[name]} {name}" for name in ("failed", "stopped", "taken")
                  if counts[name] or name == "failed"]  # fmt: skip
        parts.append(f"{counts['waiting']} waiting")
        seconds = self.seconds_left(now)
        left = f"  about {timedelta(seconds=round(seconds))} left" if seconds is not None else ""
        return f"{100 * self.progress:3.0f}%  {', '.join(parts)}{left}"


def ending(job: Job) -> str:
    """Return one line about how a job ended."""
    text = f"{job.status.name:<8}  {job.name}"
    if job.status.name == "finished" and (summary := read_summary(job.run_dir)):
        forms = {"return_mean": "return {:.1f}", "eval_return": "evaluation {:.1f}",
                 "wall_seconds": "{:.0f} s"}  # fmt: skip
        for key, form in forms.items():
            value = summary.get(key)
            if isinstance(value, int | float) and abs(value) < MAX_SHOWN:
                text += "  " + form.format(value)
        return text
    return f"{text}  {for_terminal(job.status.reason)}".rstrip()


class Display(threading.Thread):
    """Thread that shows the jobs while the main thread waits for a launcher; a context manager.

    `kind` is a value of `logger.progress`.
    """

    def __init__(self, grid: Grid, call: Call, kind: str) -> None:
        super().__init__(daemon=True)
        self._grid, self._call = grid, call
        stream: Any = failsafe_stdout()
        self._kind = ("live" if stream.isatty() else "plain") if kind == "auto" else kind
        self._ended = threading.Event()
        self._console = Console(file=stream, soft_wrap=self._kind == "plain")
        self._stop_requests = 0
        self._last_part, self._last_time = int(20 * grid.progress), time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Update the display until the context ends."""
        is_live, has_ended = self._kind == "live", False
        with Live(console=self._console, auto_refresh=False) if is_live else nullcontext() as live:
            while not has_ended:
                has_ended = self._ended.wait(POLL_SECONDS)
                self._update()
                if live is not None:
                    live.update(self._table(), refresh=True)

    def _update(self) -> None:
        started = self._call.started_jobs()  # listed once, since thousands of jobs may be waiting
        for job in self._grid.jobs:
            if job.name in started and job.update(self._call):
                self._print(ending(job))
        requests = self._call.stop_requests()
        if requests > self._stop_requests:
            self._stop_requests = requests
            first = "running jobs finish their iteration and save; interrupt again to end them"
            self._print(f"stopping: {first} at once" if requests == 1 else "stopping at once")
        now = time.monotonic()
        part = int(20 * self._grid.progress)
        if self._kind == "plain" and (part > self._last_part or now - self._last_time > 30):
            self._last_part, self._last_time = part, now
            self._print(self._grid.overview(now))

    def _print(self, line: str) -> None:
        if self._kind != "none":
            self._console.print(Text("\n".join(paragraph(line, "  ", " " * 12))))

    def _table(self) -> Group:
        overview = self._grid.overview(time.monotonic())
        space = self._console.width - len(self._grid.name) - len(overview) - 2
        bar = Table.grid(padding=(0, 1))
        # In a narrow terminal the overview has a separate line, so that nothing is wrapped.
        beside = [overview] if space >= 10 else []
        width = min(20, space) if beside else 20
        progress = ProgressBar(total=1.0, completed=self._grid.progress, width=width)
        bar.add_row(Text(self._grid.name, "bold"), progress, *beside)
        running = [job for job in self._grid.jobs if job.status.name == "running"]
        longest = max(20, self._console.width - 40)
        name = Column(no_wrap=True, overflow="ellipsis", max_width=longest)
        rows = Table.grid(name, *(Column(no_wrap=True) for _ in range(3)), padding=(0, 2))
        for job in running[:MAX_ROWS]:
            share = min(100, 100 * job.env_steps // job.config.total_env_steps)
            shown = f"return {float(job.return_mean):.1f}" if job.return_mean else ""
            rows.add_row(f"  {job.name}", f"{share}%", f"{job.env_steps:,} steps", shown)
        if len(running) > MAX_ROWS:
            rows.add_row(f"  and {len(running) - MAX_ROWS} more")
        return Group(bar, rows) if beside else Group(bar, Text(overview), rows)

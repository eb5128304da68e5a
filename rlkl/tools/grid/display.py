"""How far a grid is: one overview of all its jobs, while they run."""

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlkl.tools.grid.call import Call, Status
from rlkl.training.run_status import LOG, read_summary
from rlkl.utils.atomic_files import open_unlinked
from rlkl.utils.safe_text import for_terminal
from rlkl.utils.streams import steady_stdout

TICK = 0.25
"""Seconds from one look at the jobs to the next."""

SETTLING = 3.0
"""Seconds before which a rate says little."""

LAST_BYTES = 8192
"""Of `metrics.csv` at its end, which hold its last row."""

LARGEST_SHOWN = 1e12
"""Of the numbers of a summary; larger ones are none of a run."""

MOST_LINES = 12
"""Of running jobs, on a terminal."""


@dataclass
class Job:
    """A job of a grid, as it is seen from outside.

    Attributes:
        name: of its folder in the grid's.
        label: its overrides as typed.
        run_dir: the run's folder.
        total_env_steps: its training budget.
        status: how it stands.
        env_steps: made so far.
        before: environment steps made before this call.
        return_mean: training return at the end of the last iteration, as `metrics.csv` has it.
    """

    name: str
    label: str
    run_dir: Path
    total_env_steps: int
    status: Status = field(default_factory=lambda: Status("waiting"))
    env_steps: int = 0
    before: int = 0
    return_mean: str = ""

    def look(self, call: Call) -> bool:
        """Read how the job stands; return whether it has ended since the last look."""
        if self.status.has_ended:
            return False
        self.status = call.status(self.name)
        if self.status.name != "waiting":
            self.read_progress()
        return self.status.has_ended

    def read_progress(self) -> None:
        """Read the last whole row of the run's metrics."""
        try:
            with open_unlinked(self.run_dir / "metrics.csv", os.O_RDONLY, "rb") as file:
                header = file.readline(LAST_BYTES).decode().rstrip().split(",")
                file.seek(max(len(",".join(header)), file.seek(0, 2) - LAST_BYTES))
                rows = file.read(LAST_BYTES).decode().split("\n")[1:-1]
            if rows:
                row = dict(zip(header, rows[-1].rstrip().split(","), strict=True))
                return_mean = row["return/train"]
                float(return_mean or "nan")
                self.env_steps, self.return_mean = int(row["env_steps"]), return_mean
        except (OSError, ValueError, KeyError):  # not there, or damaged: its own run will say so
            return


@dataclass
class Grid:
    """All jobs of a grid.

    Attributes:
        name: of the grid.
        jobs: that this call runs.
        finished_before: training budgets of those that were finished before it.
    """

    name: str
    jobs: list[Job]
    finished_before: list[int] = field(default_factory=list)
    _start: float | None = field(default=None, repr=False)

    def counts(self) -> Counter[str]:
        """Return how many jobs stand how."""
        return Counter(job.status.name for job in self.jobs)

    @property
    def share(self) -> float:
        """How much of the environment steps of all jobs that did not fail is made."""
        alive = [job for job in self.jobs if job.status.name != "failed"]
        before = sum(self.finished_before)
        total = before + sum(job.total_env_steps for job in alive)
        made = before + sum(min(job.env_steps, job.total_env_steps) for job in alive)
        return made / max(1, total)

    def seconds_left(self, now: float) -> float | None:
        """Return an estimate from the steps that were made in this call, None before the first.

        Args:
            now: of a clock that only goes forward, in seconds.
        """
        counts = self.counts()
        if self._start is None and len(self.jobs) > counts["waiting"]:
            self._start = now
        made = sum(job.env_steps - job.before for job in self.jobs)
        left = sum(
            max(0, job.total_env_steps - job.env_steps)
            for job in self.jobs
            if not job.status.has_ended
        )
        if self._start is None or made <= 0 or now - self._start < SETTLING:
            return None
        return left * (now - self._start) / made

    def overview(self, now: float) -> str:
        """Return the line that says how far all is."""
        counts = self.counts()
        done = counts["finished"] + len(self.finished_before)
        parts = [f"{done} done", f"{counts['running']} running"]
        parts += [f"{counts[name]} {name}" for name in ("failed", "stopped", "taken")
                  if counts[name] or name == "failed"]  # fmt: skip
        parts.append(f"{counts['waiting']} waiting")
        seconds = self.seconds_left(now)
        left = f"  about {timedelta(seconds=round(seconds))} left" if seconds is not None else ""
        return f"{100 * self.share:3.0f}%  {', '.join(parts)}{left}"


def ending(job: Job) -> str:
    """Return the line that says how a job ended."""
    text = f"{job.status.name:<8}  {job.name}"
    if job.status.name == "finished" and (summary := read_summary(job.run_dir)):
        told = {"return": "return_mean", "evaluation": "eval_return"}
        numbers = [
            f"{name} {summary[key]:.1f}" for name, key in told.items() if _fits(summary, key)
        ]
        numbers += [f"{summary['wall_seconds']:.0f} s"] if _fits(summary, "wall_seconds") else []
        return "  ".join([text, *numbers])
    return f"{text}  {for_terminal(job.status.reason)}".rstrip()


def _fits(summary: dict[str, Any], key: str) -> bool:
    value = summary.get(key)
    return isinstance(value, int | float) and abs(value) < LARGEST_SHOWN


class Watch(threading.Thread):
    """Looks at the jobs while the command's main thread waits for a launcher; a context manager.

    Args:
        grid: to look at.
        call: whose jobs they are.
        kind: of display: `live`, `plain`, `none` or `auto`, as in `logger.progress`.
    """

    def __init__(self, grid: Grid, call: Call, kind: str) -> None:
        super().__init__(daemon=True)
        self._grid, self._call = grid, call
        self._kind = ("live" if steady_stdout().isatty() else "plain") if kind == "auto" else kind
        self._over = threading.Event()
        self._console = Console(
            file=cast("TextIO", steady_stdout()), soft_wrap=self._kind == "plain"
        )
        self._stops = 0
        self._last_part, self._last_time = int(20 * grid.share), time.monotonic()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look again and again, and show what is seen."""
        if self._kind != "live":
            while not self._over.wait(TICK):
                self._look()
            self._look()
            return
        with Live(console=self._console, auto_refresh=False) as live:
            while not self._over.wait(TICK):
                self._look()
                live.update(self._table(), refresh=True)
            self._look()
            live.update(self._table(), refresh=True)

    def _look(self) -> None:
        told = self._call.told()  # one look at a folder for thousands of jobs that wait
        for job in self._grid.jobs:
            if job.name in told and job.look(self._call):
                self._say(ending(job))
        asked = self._call.stops_asked()
        if asked > self._stops:
            self._stops = asked
            self._say(
                "stopping: each running job saves after its iteration; once more ends them at once"
                if asked == 1
                else "stopping at once"
            )
        now = time.monotonic()
        part = int(20 * self._grid.share)
        if self._kind == "plain" and (part > self._last_part or now - self._last_time > 30):
            self._last_part, self._last_time = part, now
            self._say(self._grid.overview(now))

    def _say(self, line: str) -> None:
        if self._kind != "none":
            self._console.print(Text(f"  {line}"))

    def _table(self) -> Group:
        overview = self._grid.overview(time.monotonic())
        room = self._console.width - len(self._grid.name) - len(overview) - 2
        bar = Table.grid(padding=(0, 1))
        # In a narrow terminal the bar has a line of its own, so that nothing is wrapped.
        beside = [overview] if room >= 10 else []
        width = min(20, room) if beside else 20
        progress = ProgressBar(total=1.0, completed=self._grid.share, width=width)
        bar.add_row(Text(self._grid.name, "bold"), progress, *beside)
        running = [job for job in self._grid.jobs if job.status.name == "running"]
        rows = Table.grid(padding=(0, 2))
        longest = max(20, self._console.width - 40)
        rows.add_column(no_wrap=True, overflow="ellipsis", max_width=longest)
        for _ in range(3):
            rows.add_column(no_wrap=True)
        for job in running[:MOST_LINES]:
            share = min(100, 100 * job.env_steps // job.total_env_steps)
            shown = f"return {float(job.return_mean):.1f}" if job.return_mean else ""
            rows.add_row(f"  {job.name}", f"{share}%", f"{job.env_steps:,} steps", shown)
        if len(running) > MOST_LINES:
            rows.add_row(f"  and {len(running) - MOST_LINES} more")
        return Group(bar, rows) if beside else Group(bar, Text(overview), rows)


def log_of(job: Job) -> Path | None:
    """Return the file that has what a job printed, if it came so far."""
    path = job.run_dir / LOG
    return path if path.exists() else None

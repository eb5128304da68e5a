"""What a person sees while a run goes on, and at its end."""

import math
import shlex
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from rlkl.algos.base import Metrics
from rlkl.utils.streams import steady_stdout

REFRESH = 0.1
"""Seconds between two pictures of the line that moves."""


class ProgressDisplay(Protocol):
    """Shows how far a run is; a context manager around the run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, env_steps: int, metrics: Metrics) -> None:
        """Show an iteration's end."""
        ...


class NoProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, env_steps: int, metrics: Metrics) -> None:
        """Show nothing."""


class PlainProgress(NoProgress):
    """Prints a line at every twentieth of the run, and after half a minute without one.

    Args:
        title: names the run.
        total_env_steps: the training budget.
        env_steps: made before, by a run that is resumed.
    """

    def __init__(self, title: str, total_env_steps: int, env_steps: int = 0) -> None:
        self.title = title
        self.total_env_steps = total_env_steps
        self._before = env_steps
        self._start = self._last_time = time.monotonic()
        self._last_part = 20 * env_steps // total_env_steps

    def __enter__(self) -> Self:
        self._print(f"{self.title}: {self.total_env_steps:,} environment steps")
        return self

    def show(self, env_steps: int, metrics: Metrics) -> None:
        """Print a line if it is time."""
        part = 20 * env_steps // self.total_env_steps
        now = time.monotonic()
        if part > self._last_part or now - self._last_time > 30:
            self._last_part, self._last_time = part, now
            line = _line(env_steps, self._before, self.total_env_steps, self._start, metrics)
            self._print(f"  {line}")

    def _print(self, line: str) -> None:
        print(line, file=steady_stdout(), flush=True)


class LiveProgress:
    """What is run, and below it one line that moves on a terminal.

    Args:
        title: names the run.
        total_env_steps: the training budget.
        env_steps: made before, by a run that is resumed.
    """

    def __init__(self, title: str, total_env_steps: int, env_steps: int = 0) -> None:
        self.total_env_steps = total_env_steps
        self._before = env_steps
        self._start = time.monotonic()
        self._shown = -math.inf
        self._title = title
        # The bar takes what the numbers leave, so that a narrow terminal shows all of them.
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True)),
            console=Console(file=cast("TextIO", steady_stdout())),
            # A thread of its own would fail by itself, and takes a core's time from training.
            auto_refresh=False,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_env_steps, line="starting")

    def __enter__(self) -> Self:
        self._progress.console.print(Text(self._title, style="bold"))
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.refresh()
        self._progress.stop()

    def show(self, env_steps: int, metrics: Metrics) -> None:
        """Move the line."""
        line = _line(env_steps, self._before, self.total_env_steps, self._start, metrics)
        self._progress.update(self._task, completed=min(env_steps, self.total_env_steps), line=line)
        if (now := time.monotonic()) - self._shown > REFRESH:
            self._shown = now
            self._progress.refresh()


def make_progress(
    kind: str, title: str, total_env_steps: int, env_steps: int = 0
) -> ProgressDisplay:
    """Make the display of `logger.progress`."""
    if kind == "auto":
        kind = "live" if steady_stdout().isatty() else "plain"
    if kind == "none":
        return NoProgress()
    display = LiveProgress if kind == "live" else PlainProgress
    return display(title, total_env_steps, env_steps)


def _line(env_steps: int, before: int, total: int, start: float, metrics: Metrics) -> str:
    elapsed = max(time.monotonic() - start, 1e-9)
    made = env_steps - before
    mean = metrics["return/train"]
    shown = "-" if math.isnan(mean) else f"{mean:.1f}"
    left = timedelta(seconds=round(max(0, total - env_steps) * elapsed / made))
    return (
        f"{min(100, 100 * env_steps // total):3d}%  {env_steps:,} steps  "
        f"{made / elapsed:,.0f} steps/s  return {shown}  "
        f"KL {metrics['kl/old_new']:.4f}  {left} left"
    )


def board_command(run_dir: Path) -> str:
    """Return the command that shows a run, as it can be typed here.

    `rlkl` is installed beside the Python that runs; where its environment is not activated, as
    after `make train`, its name alone would not be found.
    """
    program = "rlkl"
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.exists():
        here = beside.is_relative_to(Path.cwd())
        program = str(beside.relative_to(Path.cwd()) if here else beside)
    return shlex.join([program, "board", str(run_dir)])


def print_summary(summary: dict[str, Any], run_dir: Path) -> None:
    """Print what a run came to, and where to look at it."""

    def number(key: str, form: str) -> str:
        return "-" if summary[key] is None else format(summary[key], form)

    reason = f": {summary['reason']}" if summary["reason"] else ""
    title = f"{summary['algo']} on {summary['env_id']}"
    table = Table.grid(padding=(0, 1))
    table.title, table.title_justify = title, "left"
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, value in {
        "status": summary["status"] + reason,
        "steps": f"{summary['env_steps']:,} in {summary['episodes']:,} episodes",
        "training return": f"{number('return_mean', '.1f')} (mean of the last 100 episodes), "
        f"best {number('return_best', '.1f')}",
        "evaluation": f"{number('eval_return', '.1f')} (mean return, most probable actions)",
        "time": f"{summary['wall_seconds']:.0f} s, "
        f"{number('env_steps_per_second', ',.0f')} steps/s",
        "folder": str(run_dir),
        "look at it": board_command(run_dir),
    }.items():
        if name == "evaluation" and summary["eval_return"] is None:
            continue
        table.add_row(name, Text(value))  # brackets in a message are no markup
    # Neither wrapped nor cropped, so that paths and the command can be copied.
    Console(file=cast("TextIO", steady_stdout()), width=120 + len(str(run_dir))).print(table)

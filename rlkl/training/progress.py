"""Show the progress of a run, and its summary at the end."""

import math
import shlex
import shutil
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from rlkl.training.report import Report
from rlkl.utils.lines import WIDTH, paragraph
from rlkl.utils.streams import failsafe_stdout

REFRESH = 0.1  # seconds between two updates of the live line
MIN_BAR = 2  # columns that the live line needs besides its text


class NoProgress(AbstractContextManager["NoProgress"]):
    """Shows nothing; a resumed run has the `env_steps` of its checkpoint."""

    def __init__(self, title: str, total_env_steps: int, env_steps: int = 0) -> None:
        self.title, self.total_env_steps = title, total_env_steps
        self._env_steps_before, self._start = env_steps, time.monotonic()

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, report: Report) -> None:
        """Show the report of an iteration."""

    def _line(self, report: Report, width: int) -> str:
        """Return the progress in one line; the numbers that do not fit are left out."""
        env_steps, total = report.env_steps, self.total_env_steps
        elapsed = max(time.monotonic() - self._start, 1e-9)
        made = env_steps - self._env_steps_before
        mean, kl = report.scalars["return/train"], report.scalars["kl/old_new"]
        seconds = round(max(0, total - env_steps) * elapsed / made)
        fields = {
            "share": f"{min(100, 100 * env_steps // total):3d}%",
            "steps": f"{_count(env_steps)} steps",
            "speed": f"{_count(made / elapsed)} steps/s",
            "return": f"return {'-' if math.isnan(mean) else _decimal(mean, 1)}",
            "kl": f"KL {_decimal(kl, 4)}",
            "left": f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left",
        }
        for name in ("speed", "steps", "left"):
            if len("  ".join(fields.values())) > width:
                del fields[name]
        return "  ".join(fields.values())


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e7 else f"{number / 1e6:,.1f}M"


def _decimal(number: float, digits: int) -> str:
    return f"{number:.{digits}f}" if abs(number) < 1e5 else f"{number:.3g}"


class PlainProgress(NoProgress):
    """Prints a line every 5% of the run, and at least every 30 seconds."""

    def __init__(self, title: str, total_env_steps: int, env_steps: int = 0) -> None:
        super().__init__(title, total_env_steps, env_steps)
        self._last_time = self._start
        self._last_twentieth = 20 * env_steps // total_env_steps

    def __enter__(self) -> Self:
        title = f"{self.title}: {self.total_env_steps:,} environment steps"
        self._print("\n".join(paragraph(title, others="  ")))
        return self

    def show(self, report: Report) -> None:
        """Print a line if it is time."""
        twentieth = 20 * report.env_steps // self.total_env_steps
        now = time.monotonic()
        if twentieth > self._last_twentieth or now - self._last_time > 30:
            self._last_twentieth, self._last_time = twentieth, now
            self._print(f"  {self._line(report, WIDTH - 2)}")

    def _print(self, line: str) -> None:
        print(line, file=failsafe_stdout(), flush=True)


class LiveProgress(NoProgress):
    """Prints the title, and below it one line that is updated on a terminal."""

    def __init__(self, title: str, total_env_steps: int, env_steps: int = 0) -> None:
        super().__init__(title, total_env_steps, env_steps)
        self._shown = -math.inf
        # The bar takes the remaining width, so that a narrow terminal shows all numbers.
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True)),
            console=Console(file=cast("TextIO", failsafe_stdout())),
            # A refresh thread would take time from training, and its errors could not be handled.
            auto_refresh=False,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_env_steps, line="starting")

    def __enter__(self) -> Self:
        self._progress.console.print(Text(self.title, style="bold"))
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.refresh()
        self._progress.stop()

    def show(self, report: Report) -> None:
        """Update the line."""
        completed = min(report.env_steps, self.total_env_steps)
        line = self._line(report, self._progress.console.width - MIN_BAR)
        self._progress.update(self._task, completed=completed, line=line)
        if (now := time.monotonic()) - self._shown > REFRESH:
            self._shown = now
            self._progress.refresh()


def make_progress(kind: str, title: str, total_env_steps: int, env_steps: int = 0) -> NoProgress:
    """Make the display for a value of `logger.progress`."""
    if kind == "auto":
        kind = "live" if failsafe_stdout().isatty() else "plain"
    display = {"none": NoProgress, "live": LiveProgress, "plain": PlainProgress}[kind]
    return display(title, total_env_steps, env_steps)


def board_command(run_dir: Path) -> str:
    """Return the command that shows a run in TensorBoard, as it can be typed here.

    If `rlkl` is not on the PATH, as in an environment that is not activated, the command has the
    path of the `rlkl` beside the running Python.
    """
    program = "rlkl"
    installed = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and installed.exists():
        is_below = installed.is_relative_to(Path.cwd())
        program = str(installed.relative_to(Path.cwd()) if is_below else installed)
    return shlex.join([program, "board", str(run_dir)])


def print_summary(summary: dict[str, Any], run_dir: Path) -> None:
    """Print the results of a run, its folder, and the command that shows it."""

    def number(key: str, form: str) -> str:
        return "-" if summary[key] is None else format(summary[key], form)

    lines = {
        "status": summary["status"] + (f": {summary['reason']}" if summary["reason"] else ""),
        "steps": f"{summary['env_steps']:,} in {summary['episodes']:,} episodes",
        "training return": f"{number('return_mean', '.1f')} (mean of the last 100 episodes), "
        f"best {number('return_best', '.1f')}",
        "evaluation": f"{number('eval_return', '.1f')} (mean return, deterministic actions)",
        "time": f"{summary['wall_seconds']:.0f} s, "
        f"{number('env_steps_per_second', ',.0f')} steps/s",
        "folder": str(run_dir),
        "view with": board_command(run_dir),
    }
    if summary["eval_return"] is None:
        del lines["evaluation"]
    table = Table.grid(Column(style="bold", no_wrap=True), Column(no_wrap=True), padding=(0, 1))
    table.title, table.title_justify = f"{summary['algo']} on {summary['env_id']}", "left"
    for name, value in lines.items():
        table.add_row(name, Text(value))  # `Text`: brackets in a message are not markup
    out = failsafe_stdout()
    console = Console(
        file=cast("TextIO", out),
        # Prevents wrapping and cropping, so that paths and the command can be copied.
        width=120 + len(str(run_dir)),
        # Notebooks get plain text, like the lines before it, though their kernel asks for colors.
        force_jupyter=False,
        force_terminal=out.isatty(),
    )
    console.print(table)

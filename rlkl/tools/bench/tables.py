"""The benchmark's results as tables, on the screen and in Markdown."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table as ScreenTable

from rlkl.tools.bench.clock import PHASES, Measurement
from rlkl.tools.bench.compare import Result, added_megabytes, conclusions, rates, ratios, reference
from rlkl.tools.bench.work import RLKL, ROOFS, BenchConfig


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
        columns: headings.
        rows: as many cells each.
    """

    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [self.columns, ["---"] + ["--:"] * (len(self.columns) - 1), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def show(self, console: Console) -> None:
        """Print the table."""
        table = ScreenTable(box=None, pad_edge=False)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=not number)
        for cells in self.rows:
            table.add_row(*cells)
        console.print(table)


def speed_table(config: BenchConfig, results: list[Result]) -> Table:
    """Return who made how many environment steps per second, and what rlkl makes of each's."""
    columns = [
        "", "envs", "steps/s", f"{RLKL} {config.algos[0]} / this", "of the roof", "start-up s",
        "peak MB",
    ]  # fmt: skip
    rows = []
    for result in results:
        entry = result.entry
        cells = [f"{entry}", f"{entry.num_envs}"]
        if not result.measurements:
            rows.append([*cells, f"failed: {result.error}", "", "", "", ""])
            continue
        first = reference(results, entry.num_envs)
        roof = _roof(results, entry.num_envs)
        rows.append(
            [
                *cells,
                rates(result).text(",.0f"),
                "" if first in (None, result) else ratios(first, result).text(".2f"),
                "" if roof is None else f"{ratios(result, roof).median:.0%}",
                f"{result.median(lambda m: m.startup_seconds):.1f}",
                f"{result.median(lambda m: m.peak_megabytes):.0f}",
            ]
        )
    return Table(columns, rows)


def _roof(results: list[Result], num_envs: int) -> Result | None:
    """Return the measurement of rlkl's own environments without learning."""
    name = next(iter(ROOFS))
    for result in results:
        if (result.entry.contestant, result.entry.num_envs) == (name, num_envs):
            return result if result.measurements else None
    return None


def split_table(results: list[Result]) -> Table:
    """Return what an iteration of rlkl is made of: milliseconds, and share of the whole."""
    columns = ["", "envs", "iteration ms", *PHASES, "rollout MB", "training adds MB"]
    rows = []
    for result in results:
        if result.entry.contestant != RLKL or not result.measurements:
            continue
        whole = result.median(lambda m: m.seconds / m.iterations)
        parts = [result.median(partial(_seconds, phase)) for phase in PHASES]
        rows.append(
            [
                f"{result.entry}",
                f"{result.entry.num_envs}",
                f"{whole * 1000:.1f}",
                *(f"{part * 1000:.1f} ({part / whole:.0%})" for part in parts),
                f"{result.median(lambda m: m.rollout_megabytes or 0.0):.2f}",
                f"{result.median(added_megabytes):.1f}",
            ]
        )
    return Table(columns, rows)


def _seconds(phase: str, measurement: Measurement) -> float:
    """Return what a phase takes of an iteration."""
    return measurement.phases[phase] / measurement.iterations


def failures(results: Iterable[Result]) -> list[str]:
    """Return a line for each who did not come to the end."""
    return [f"{r.entry} × {r.entry.num_envs} failed: {r.error}" for r in results if r.error]


def markdown(config: BenchConfig, title: str, results: list[Result], left_out: list[str]) -> str:
    """Return a work's section of the page."""
    lines = [f"### {config.work}", "", title, ""]
    lines += [speed_table(config, results).markdown(), "", split_table(results).markdown(), ""]
    said = [*conclusions(config, results), *failures(results)]
    said += [f"Left out: {line}." for line in left_out]
    lines += [f"- {sentence}" for sentence in said]
    return "\n".join(lines) + "\n"


def show(
    console: Console, config: BenchConfig, title: str, results: list[Result], left_out: list[str]
) -> None:
    """Print a work's tables and what they come down to; rlkl against the fastest peer is last."""
    console.print(f"\n{config.work}: {title}\n")
    for table in (speed_table(config, results), split_table(results)):
        table.show(console)
        console.print()
    for line in [f"left out: {line}" for line in left_out] + failures(results):
        console.print(line, soft_wrap=True)
    for sentence in conclusions(config, results):
        console.print(sentence, soft_wrap=True)

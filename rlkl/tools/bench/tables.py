"""The benchmark's results as tables, on the screen and in Markdown."""

from statistics import median

from rich.console import Console
from rich.table import Table

from rlkl.tools.bench.clock import PHASES
from rlkl.tools.bench.compare import Result, conclusions, ratios, reference, spread
from rlkl.tools.bench.work import RLKL, UPPER_BOUNDS, BenchConfig
from rlkl.tools.rows import markdown_table

Texts = tuple[list[str], list[list[str]]]
"""Headings, and rows of text."""


def speed_table(results: list[Result], algo: str) -> Texts:
    """Return speed, ratio to rlkl's `algo`, start-up time and peak memory of each case."""
    columns = [
        "", "envs", "steps/s", f"{RLKL} {algo} / this", "of the upper bound",
        "start-up s", "peak MB",
    ]  # fmt: skip
    rows = []
    for result in results:
        case = result.case
        cells = [f"{case}", f"{case.num_envs}"]
        if not result.measurements:
            rows.append([*cells, f"failed: {result.error}", "", "", "", ""])
            continue
        first = reference(results, case.num_envs)
        bound = reference(results, case.num_envs, UPPER_BOUNDS[0])
        cells += [
            spread(result.rates, ",.0f"),
            "" if first in (None, result) else spread(ratios(first, result), ".2f"),
            "" if bound is None else f"{median(ratios(result, bound)):.0%}",
            f"{result.median(lambda m: m.startup_seconds):.1f}",
            f"{result.median(lambda m: m.peak_megabytes):.0f}",
        ]
        rows.append(cells)
    return columns, rows


def split_table(results: list[Result]) -> Texts:
    """Return the phases of an iteration of rlkl: milliseconds and share of the iteration."""
    columns = ["", "envs", "iteration ms", *PHASES, "rollout MB", "training adds MB"]
    rows = []
    for result in results:
        if result.case.library != RLKL or not result.measurements:
            continue
        whole = result.median(lambda m: m.seconds / m.iterations)
        cells = [f"{result.case}", f"{result.case.num_envs}", f"{whole * 1000:.1f}"]
        for phase in PHASES:
            part = median(m.phases[phase] / m.iterations for m in result.measurements)
            cells.append(f"{part * 1000:.1f} ({part / whole:.0%})")
        cells.append(f"{result.median(lambda m: m.rollout_megabytes or 0.0):.2f}")
        cells.append(f"{result.median(lambda m: m.added_megabytes):.1f}")
        rows.append(cells)
    return columns, rows


def failures(results: list[Result]) -> list[str]:
    """Return a line for each case that failed."""
    return [f"{r.case} × {r.case.num_envs} failed: {r.error}" for r in results if r.error]


def markdown(config: BenchConfig, title: str, results: list[Result], left_out: list[str]) -> str:
    """Return the section of a work."""
    lines = [f"### {config.work}", "", title, ""]
    for columns, rows in (speed_table(results, config.algos[0]), split_table(results)):
        lines += [markdown_table(columns, rows, "--:"), ""]
    sentences = [*conclusions(config, results), *failures(results)]
    sentences += [f"Left out: {line}." for line in left_out]
    lines += [f"- {sentence}" for sentence in sentences]
    return "\n".join(lines) + "\n"


def show(
    console: Console, config: BenchConfig, title: str, results: list[Result], left_out: list[str]
) -> None:
    """Print the tables of a work, then what was left out or failed, then the conclusions."""
    console.print(f"\n{config.work}: {title}\n")
    for columns, rows in (speed_table(results, config.algos[0]), split_table(results)):
        table = Table(box=None, pad_edge=False)
        table.add_column(columns[0], no_wrap=True)
        for column in columns[1:]:
            table.add_column(column, justify="right")
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
        console.print()
    lines = [f"left out: {line}" for line in left_out]
    for line in lines + failures(results) + conclusions(config, results):
        console.print(line, soft_wrap=True)

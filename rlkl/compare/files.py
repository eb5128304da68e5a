"""Writes a report's folder: the page, Markdown, figures, and a CSV file for each set of rows."""

import csv
import math
from pathlib import Path

from rlkl.compare import tables
from rlkl.compare.charts import Figure
from rlkl.compare.drawing import draw
from rlkl.compare.figures import figures
from rlkl.compare.page import page, title
from rlkl.compare.report import Comparison
from rlkl.compare.rows import Rows
from rlkl.lab.drawing import save

NAMES = ("report.html", "report.md", "figures", "data")
"""What a report's folder holds."""


def write(comparison: Comparison, folder: Path, command: str) -> list[Path]:
    """Write everything; return the files that are to be opened first.

    Args:
        comparison: what is written.
        folder: without any of `NAMES`.
        command: that the report is made by, named in it.
    """
    made = figures(comparison)
    for name in ("figures", "data"):
        (folder / name).mkdir(parents=True)
    for figure in made:
        drawing = draw(figure, comparison.labels)
        for suffix in ("png", "svg"):
            save(drawing, folder / "figures" / f"{figure.name}.{suffix}")
    for name, rows in comparison.tables.items():
        if rows:
            _write_rows(folder / "data" / f"{name}.csv", rows)
    texts = {
        "report.html": page(comparison, made, command),
        "report.md": markdown(comparison, made, command),
    }
    for name, text in texts.items():
        with (folder / name).open("x", encoding="utf-8") as file:
            file.write(text)
    return [folder / name for name in texts]


def _write_rows(path: Path, rows: Rows) -> None:
    """Write rows; numbers so that they are read back to the last bit, NaN as an empty field."""
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _field(value) for key, value in row.items()})


def _field(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value


def markdown(comparison: Comparison, made: list[Figure], command: str) -> str:
    """Return findings, cautions, figures and tables in Markdown.

    Args:
        comparison: what is shown.
        made: its figures.
        command: that the report is made by.
    """
    shown = tables.tables(comparison)
    parts = [f"# {title(comparison)}", f"    {command}", "## In short"]
    parts.append(
        "\n".join(f"- {finding}" for finding in comparison.findings) or "Nothing to compare."
    )
    if comparison.cautions:
        parts.append("## Be wary")
        parts.append("\n".join(f"- **{c.kind}**: {c.text}" for c in comparison.cautions))
    for figure in made:
        parts += [
            f"## {figure.title}",
            f"![{figure.title}](figures/{figure.name}.svg)",
            figure.caption,
        ]
        parts += _tables(tables.of(figure.name, shown))
    for name, heading in (("compared", "What was compared"), ("runs", "Runs")):
        parts += [f"## {heading}", *_tables(tables.of(name, shown))]
    return "\n\n".join(parts) + "\n"


def _tables(shown: list[tables.Table]) -> list[str]:
    parts = []
    for table in shown:
        parts += [f"### {table.title}", tables.markdown(table), *filter(None, [table.note])]
    return parts

"""Writes the folder of a report: page, Markdown, figures, and a CSV file for each table."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rlkl.tools.compare import tables
from rlkl.tools.compare.charts import Figure
from rlkl.tools.compare.drawing import draw
from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.page import page, title
from rlkl.tools.compare.report import Comparison
from rlkl.tools.experiments.drawing import save
from rlkl.tools.rows import csv_text
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import for_markdown

NAMES = ("report.html", "report.md", "figures", "data")
"""Content of a report folder."""


def check_free(folder: Path) -> None:
    """Raise unless a report can be written to a folder.

    Raises:
        ConfigError: it is a file, or contains a report.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output={folder} is a file; expected a new or an existing folder")
    for name in NAMES:
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} exists already and is not overwritten; choose another output"
            )


def write(comparison: Comparison, folder: Path, command: str) -> list[Path]:
    """Write everything or nothing to an existing folder; return the page and the Markdown file.

    Raises:
        ConfigError: the folder contains a report.
    """
    with TemporaryDirectory(prefix=".report-", dir=folder) as unfinished:
        _write(comparison, Path(unfinished), command)
        check_free(folder)  # again, because another command may have written a report meanwhile
        for name in NAMES:
            Path(unfinished, name).rename(folder / name)
    return [folder / name for name in NAMES[:2]]


def _write(comparison: Comparison, folder: Path, command: str) -> None:
    made = figures(comparison)
    for name in ("figures", "data"):
        (folder / name).mkdir()
    for figure in made:
        drawing = draw(figure, comparison.labels)
        for suffix in ("png", "svg"):
            save(drawing, folder / "figures" / f"{figure.name}.{suffix}")
    for name, rows in comparison.tables.items():
        if rows:
            (folder / "data" / f"{name}.csv").write_text(csv_text(rows), encoding="utf-8")
    for name, make in (("report.html", page), ("report.md", markdown)):
        (folder / name).write_text(make(comparison, made, command), encoding="utf-8")


def markdown(comparison: Comparison, made: list[Figure], command: str) -> str:
    """Return the report in Markdown, with the command line that made it."""
    parts = [f"# {for_markdown(title(comparison))}", f"    {command}", "## In short"]
    findings = [f"- {for_markdown(finding)}" for finding in comparison.findings]
    parts.append("\n".join(findings) or "Nothing to compare.")
    if comparison.cautions:
        cautions = [f"- **{c.kind}**: {for_markdown(c.text)}" for c in comparison.cautions]
        parts += ["## Warnings", "\n".join(cautions)]
    for name, heading, figure, shown in tables.sections(comparison, made):
        parts.append(f"## {heading}")
        if figure:
            parts += [f"![{heading}](figures/{name}.svg)", for_markdown(figure.caption)]
        for table in shown:
            parts += [f"### {table.title}", tables.markdown(table)]
            if table.note:
                parts.append(for_markdown(table.note))
    return "\n\n".join(parts) + "\n"

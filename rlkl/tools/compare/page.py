"""Writes the folder of a report: page, Markdown, figures, and a CSV file for each table."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2

from rlkl.tools.compare import svg, tables
from rlkl.tools.compare.charts import Figure, style
from rlkl.tools.compare.drawing import draw
from rlkl.tools.compare.figures import figures
from rlkl.tools.compare.report import Comparison
from rlkl.tools.compare.text import listed, plural
from rlkl.tools.experiments.drawing import save
from rlkl.tools.rows import csv_text
from rlkl.utils.errors import ConfigError
from rlkl.utils.safe_text import for_markdown
from rlkl.version import __version__

NAMES = ("report.html", "report.md", "figures", "data")
"""Content of a report folder."""

FOLDED = ("improvement", "runs")
"""Sections whose long tables are collapsed at first."""

MAX_TITLE = 100
"""Letters of the groups in a title; longer lists are replaced by their number."""

NUMBER = re.compile(r"[−–∞\d.,%\[\] ±]*( to [−\d.,]+| of \d+| min| h| s)?")
"""A cell with a number, with or without unit, interval or deviation."""


def check_free(folder: Path) -> None:
    """Raise `ConfigError` if a folder is a file, or contains a report."""
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
    made = figures(comparison)
    with TemporaryDirectory(prefix=".report-", dir=folder) as temporary:
        unfinished = Path(temporary)
        for name in ("figures", "data"):
            (unfinished / name).mkdir()
        for figure in made:
            drawing = draw(figure, comparison.labels)
            for suffix in ("png", "svg"):
                save(drawing, unfinished / "figures" / f"{figure.name}.{suffix}")
        for name, rows in comparison.tables.items():
            if rows:
                (unfinished / "data" / f"{name}.csv").write_text(csv_text(rows), encoding="utf-8")
        for name, make in (("report.html", page), ("report.md", markdown)):
            (unfinished / name).write_text(make(comparison, made, command), encoding="utf-8")
        check_free(folder)  # again, because another command may have written a report meanwhile
        for name in NAMES:
            (unfinished / name).rename(folder / name)
    return [folder / name for name in NAMES[:2]]


def title(comparison: Comparison) -> str:
    """Return a title of one line: groups and environments."""
    envs = listed((env.name for env in comparison.environments), 4)
    named = listed(comparison.labels)
    if len(named) > MAX_TITLE:
        entries = (entry for env in comparison.environments for entry in env.entries)
        algos = listed(dict.fromkeys(entry.run.algo for entry in entries))
        named = f"{plural(len(comparison.labels), 'group')} of {algos}"
    return f"{named} in {envs}"


def page(comparison: Comparison, figures: Sequence[Figure], command: str) -> str:
    """Return the page, which also shows the command line that made it."""
    warnings = [caution for caution in comparison.cautions if caution.is_warning]
    notes = [caution for caution in comparison.cautions if not caution.is_warning]
    return render(
        "page.html",
        title=title(comparison),
        runs=plural(sum(len(env.entries) for env in comparison.environments), "run"),
        command=command,
        envs=[env.name for env in comparison.environments],
        labels=comparison.labels,
        findings=comparison.findings,
        cautions=(("cautions", "Warnings", warnings), ("notes", "Notes", notes)),
        sections=tables.sections(comparison, figures),
        FOLDED=FOLDED,
        style_of=style,
        sample=svg.sample,
        draw=svg.draw,
    )


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


def render(name: str, *folders: Path, **values: Any) -> str:
    """Render a template of this folder, or of others, which may include those of this one."""
    loader = jinja2.FileSystemLoader([*folders, Path(__file__).parent])
    environment = jinja2.Environment(loader=loader, autoescape=True, keep_trailing_newline=True)
    environment.globals |= {"version": __version__, "kinds_of": _kinds}
    return environment.get_template(name).render(values)


def _kinds(table: tables.Table) -> list[str]:
    """Return the attribute of each column: columns of numbers are aligned to the right."""
    numeric = (all(map(NUMBER.fullmatch, column)) for column in zip(*table.cells, strict=True))
    return [" class=number" if is_number else "" for is_number in numeric]

"""The report as one HTML file with style, script and charts, which needs no network."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from rlkl.tools.compare import svg, tables
from rlkl.tools.compare.charts import Figure, style
from rlkl.tools.compare.report import Comparison
from rlkl.tools.compare.tables import Table
from rlkl.tools.compare.text import listed, plural
from rlkl.version import __version__

FOLDED = ("improvement", "runs")
"""Sections whose long tables are collapsed at first."""

MAX_TITLE = 100
"""Letters of the groups in a title; longer lists are replaced by their number."""

NUMBER = re.compile(r"[−–∞\d.,%\[\] ±]*( to [−\d.,]+| of \d+| min| h| s)?")
"""A cell with a number, with or without unit, interval or deviation."""


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


def render(name: str, *folders: Path, **values: Any) -> str:
    """Render a template of this folder, or of others, which may include those of this one."""
    loader = jinja2.FileSystemLoader([*folders, Path(__file__).parent])
    environment = jinja2.Environment(loader=loader, autoescape=True, keep_trailing_newline=True)
    environment.globals |= {"version": __version__, "kinds_of": _kinds}
    return environment.get_template(name).render(values)


def _kinds(table: Table) -> list[str]:
    """Return the attribute of each column: columns of numbers are aligned to the right."""
    numeric = (all(map(NUMBER.fullmatch, column)) for column in zip(*table.cells, strict=True))
    return [" class=number" if is_number else "" for is_number in numeric]

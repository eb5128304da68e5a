"""The report as one HTML file with style, script and charts, which needs no network."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

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
        script=Markup(_asset("page.js")),
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
    style = Markup(_asset("page.css"))
    values |= {"version": __version__, "style": style, "kinds_of": _kinds}
    return environment.get_template(name).render(values)


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _kinds(table: Table) -> list[Markup]:
    """Return the attribute of each column: columns of numbers are aligned to the right."""
    columns = zip(*table.cells, strict=True)
    return [Markup(" class=number" if all(map(_is_number, column)) else "") for column in columns]


def _is_number(text: str) -> bool:
    """Return whether a cell is a number, with or without unit, interval or deviation."""
    return re.fullmatch(r"[−–∞\d.,%\[\] ±]*( to [−\d.,]+| of \d+| min| h| s)?", text) is not None

"""The report as one HTML file with style, script and charts, which needs no network."""

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from rlkl.tools.compare import svg, tables
from rlkl.tools.compare.cautions import Caution
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
    nothing = ["There is one group in each environment: nothing to compare."]
    findings = _list(map(escape, comparison.findings or nothing))
    sections = [_section("findings", "In short", findings), *_cautions(comparison.cautions)]
    for name, shown, figure, below in tables.sections(comparison, figures):
        content = _charts(figure, comparison.labels) if figure else ""
        sections.append(_section(name, shown, content + "".join(map(_table, below))))
    runs = sum(len(env.entries) for env in comparison.environments)
    return Template(_asset("page.html")).substitute(
        title=escape(title(comparison)),
        version=__version__,
        style=_asset("page.css"),
        script=_asset("page.js"),
        runs=plural(runs, "run"),
        command=escape(command),
        controls=_controls(comparison),
        sections="".join(sections),
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _section(name: str, heading: str, content: str, kind: str = "") -> str:
    return f'<section id="{name}"{kind}>\n<h2>{escape(heading)}</h2>\n{content}</section>\n'


def _controls(comparison: Comparison) -> str:
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-group="{number}" '
        f'data-color="{style(number).color}" title="{escape(label)}">'
        f"{svg.sample(style(number))}<span>{escape(label)}</span></button>"
        for number, label in enumerate(comparison.labels)
    )
    envs = [env.name for env in comparison.environments]
    choice = ""
    if len(envs) > 1:
        options = "".join(f"<option>{escape(env)}</option>" for env in envs)
        choice = (
            '<select aria-label="Environment"><option value="">all environments</option>'
            f"{options}</select>"
        )
    return choice + buttons


def _cautions(cautions: Sequence[Caution]) -> Iterator[str]:
    for name, heading, is_warning in (("cautions", "Warnings", True), ("notes", "Notes", False)):
        items = [
            f"<b>{escape(c.kind[:1].upper() + c.kind[1:])}.</b> {escape(c.text)}"
            for c in cautions
            if c.is_warning == is_warning
        ]
        if items:
            kind = ' class="warning"' if is_warning else ""
            yield _section(name, heading, _list(items), kind)


def _list(items: Iterable[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{item}</li>\n" for item in items) + "</ul>\n"


def _charts(figure: Figure, labels: Sequence[str]) -> str:
    charts = "".join(
        f'<figure data-env="{escape(chart.env)}"><figcaption>{escape(chart.title)}</figcaption>'
        f"{svg.draw(chart, labels, narrow=figure.narrow)}</figure>\n"
        for chart in figure.charts
    )
    grid = "charts many" if figure.narrow else "charts"
    caption = f'<p class="caption">{escape(figure.caption)}</p>\n'
    return f'{caption}<div class="{grid}">\n{charts}</div>\n'


def _table(table: Table) -> str:
    columns = zip(*table.cells, strict=True)
    kinds = [" class=number" if all(map(_is_number, column)) else "" for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(heading)}</th>'
        for kind, heading in zip(kinds, table.headings, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, cells, strict=True))
        + "</tr>\n"
        for cells in table.cells
    )
    note = f'<p class="note">{escape(table.note)}</p>\n' if table.note else ""
    heading = escape(table.title)
    # Scrollable areas are accessible by keyboard.
    whole = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{heading}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n{note}"
    )
    if table.section in FOLDED:
        return f"<details><summary>{heading}</summary>\n{whole}</details>\n"
    return f"<h3>{heading}</h3>\n{whole}"


def _is_number(text: str) -> bool:
    """Return whether a cell is a number, with or without unit, interval or deviation."""
    return re.fullmatch(r"[−–∞\d.,%\[\] ±]*( to [−\d.,]+| of \d+| min| h| s)?", text) is not None

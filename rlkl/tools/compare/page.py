"""The report as one HTML file: style, script and charts inside, nothing asked of a network."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rlkl.tools.compare import svg, tables
from rlkl.tools.compare.cautions import Caution, listed, plural
from rlkl.tools.compare.charts import Figure, style
from rlkl.tools.compare.report import Comparison
from rlkl.tools.compare.tables import Table
from rlkl.version import __version__

HERE = Path(__file__).parent
FOLDED = ("improvement", "runs")
"""Long tables that open on request."""


LONGEST_TITLE = 100
"""Letters in which a title names the groups; where they do not fit it counts them."""


def title(comparison: Comparison) -> str:
    """Return what was compared, in a line."""
    envs = listed((field.env for field in comparison.fields), 4)
    named = listed(comparison.labels)
    if len(named) > LONGEST_TITLE:
        entries = (entry for field in comparison.fields for entry in field.entries)
        algos = listed(dict.fromkeys(entry.run.algo for entry in entries))
        named = f"{plural(len(comparison.labels), 'group')} of {algos}"
    return f"{named} in {envs}"


def page(comparison: Comparison, figures: Sequence[Figure], command: str) -> str:
    """Return the page.

    Args:
        comparison: what is shown.
        figures: in order.
        command: that made the report.
    """
    made = tables.tables(comparison)
    sections = [_findings(comparison), _cautions(comparison.cautions)]
    sections += [_figure(figure, tables.of(figure.name, made), comparison) for figure in figures]
    shown = {figure.name for figure in figures}
    rest = {table.name: None for table in made if table.name not in shown}
    names = {"aggregates": "Scores", "compared": "What was compared", "runs": "Runs"}
    sections += [_section(name, names[name], _tables(tables.of(name, made))) for name in rest]
    heading = escape(title(comparison))
    runs = sum(len(field.entries) for field in comparison.fields)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="rlkl {__version__}">
<title>{heading}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
<p class="soft">{plural(runs, "run")}, compared by rlkl {__version__}:
<code>{escape(command)}</code></p>
</header>
{_controls(comparison)}
<main>
{"".join(sections)}
</main>
<footer>
<p>The statistics follow Agarwal et al. 2021, <i>Deep reinforcement learning at the edge of the
statistical precipice</i>. All numbers behind the figures lie beside this page, in
<code>data/</code>, and the figures as PNG and SVG in <code>figures/</code>.</p>
</footer>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _section(name: str, heading: str, content: str, kind: str = "") -> str:
    top = f"<h2>{escape(heading)}</h2>\n" if heading else ""
    return f'<section id="{name}"{kind}>\n{top}{content}</section>\n'


def _controls(comparison: Comparison) -> str:
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-group="{number}" '
        f'data-color="{style(number).color}" title="{escape(label)}">'
        f"{svg.sample(number)}<span>{escape(label)}</span></button>"
        for number, label in enumerate(comparison.labels)
    )
    envs = [field.env for field in comparison.fields]
    choice = ""
    if len(envs) > 1:
        options = "".join(f"<option>{escape(env)}</option>" for env in envs)
        choice = (
            '<select aria-label="Environment"><option value="">all environments</option>'
            f"{options}</select>"
        )
    return (
        '<nav class="controls" aria-label="Groups: press one to hide or show it"><div>'
        f"{choice}{buttons}</div></nav>"
    )


def _findings(comparison: Comparison) -> str:
    told = comparison.findings or ["There is one group in each environment: nothing to compare."]
    return _section("findings", "In short", _list(map(escape, told)))


def _cautions(cautions: Sequence[Caution]) -> str:
    parts = ""
    for heading, grave in (("Be wary", True), ("Good to know", False)):
        these = [caution for caution in cautions if caution.grave == grave]
        if these:
            kind = ' class="grave"' if grave else ' class="mild"'
            items = (f"<b>{escape(_sentence(c.kind))}.</b> {escape(c.text)}" for c in these)
            parts += _section("cautions" if grave else "notes", heading, _list(items), kind)
    return parts


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _list(items: Iterable[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{item}</li>\n" for item in items) + "</ul>\n"


def _figure(figure: Figure, below: Sequence[Table], comparison: Comparison) -> str:
    charts = "".join(
        f'<figure data-env="{escape(chart.env)}"><figcaption>{escape(chart.title)}</figcaption>'
        f"{svg.draw(chart, comparison.labels, narrow=figure.narrow)}</figure>\n"
        for chart in figure.charts
    )
    grid = "charts many" if figure.narrow else "charts"
    content = f'<p class="caption">{escape(figure.caption)}</p>\n'
    content += f'<div class="{grid}">\n{charts}</div>\n'
    return _section(figure.name, figure.title, content + _tables(below))


def _tables(below: Sequence[Table]) -> str:
    return "".join(map(_table, below))


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
    # What scrolls can be reached and named without a mouse, too.
    whole = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{heading}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n{note}"
    )
    if table.name in FOLDED:
        return f"<details><summary>{heading}</summary>\n{whole}</details>\n"
    return f"<h3>{heading}</h3>\n{whole}"


def _is_number(text: str) -> bool:
    """Return whether a cell is a number, perhaps with its unit, its interval or its deviation."""
    return re.fullmatch(r"[−–∞\d.,%\[\] ±]*( to [−\d.,]+| of \d+| min| h| s)?", text) is not None

"""Draws charts with matplotlib, as files for papers."""

import math
import textwrap
from itertools import accumulate
from typing import Any

from rlkl.tools.compare import charts
from rlkl.tools.experiments.drawing import Axes, Figure, label, new_figure

LETTERS_PER_INCH, HANDLE_LETTERS = 12, 9
"""Approximate letters of an inch; width of a line sample in a legend, in letters."""

MAX_LETTERS, MAX_TITLE_LETTERS = 40, 27
"""Of a line of text beside a dot, and above a chart."""

ROW, TEXT_ROW, LEGEND_ROW = 0.3, 0.2, 0.21
"""Inches from a dot to the next, of each further line of its text, and of a line of a legend."""

LEVEL: dict[str, Any] = {"color": "#555555", "linewidth": 0.9, "dashes": (1, 2)}


def draw(figure: charts.Figure, labels: list[str]) -> Figure:
    """Return a figure with all its charts; the order of `labels` determines the looks of groups."""
    dots = [chart for chart in figure.charts if isinstance(chart, charts.DotChart)]
    lines = [chart for chart in figure.charts if isinstance(chart, charts.LineChart)]
    count = len(figure.charts)
    most = 2 if dots or (count == 4 and not figure.narrow) else 4 if figure.narrow else 3
    columns = min(count, most)
    rows = math.ceil(count / columns)
    width, height = (2.8, 2.3) if figure.narrow else (3.3, 2.6)
    if dots:
        texts = [line for chart in dots for dot in chart.dots for line in _wrapped(dot)]
        width = 2.4 + max(map(len, texts)) / LETTERS_PER_INCH
        height = 1.0 + ROW * max(_places(chart)[-1] for chart in dots)
    drawing = new_figure((max(width * columns, 4.5), height * rows + 0.6))
    drawn = {line.group for chart in lines for line in chart.lines}
    if groups := [label for label in labels if label in drawn]:
        legend_height = _add_legend(drawing, groups, labels)
        drawing.set_figheight(height * rows + max(0.6, 0.2 + legend_height))
    panels = drawing.subplots(rows, columns, squeeze=False)
    for chart, axes in zip(figure.charts, panels.flat, strict=False):
        if isinstance(chart, charts.LineChart):
            _draw_lines(axes, chart, labels)
        else:
            _draw_dots(axes, chart, labels)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    # Compute the layout once. Otherwise each file would, which takes as long as drawing it.
    layout = drawing.get_layout_engine()
    assert layout is not None
    layout.execute(drawing)
    drawing.set_layout_engine("none")
    return drawing


def _draw_lines(axes: Axes, chart: charts.LineChart, labels: list[str]) -> None:
    for line in chart.lines:
        number = labels.index(line.group)
        look = charts.style(number)
        for x, y in line.seeds:
            axes.plot(x, y, color=look.color, linewidth=0.6, alpha=0.35)
        if not line.x:
            continue
        if line.has_band:
            axes.fill_between(
                line.x, line.low, line.high, color=look.color, alpha=0.16, linewidth=0
            )
        axes.plot(
            line.x, line.y, look.dashes, color=look.color, linewidth=1.9, marker=look.marker,
            markersize=5, markevery=charts.marked(len(line.x), number, len(labels)),
            drawstyle="steps-post" if chart.steps else "default",
        )  # fmt: skip
    if chart.level is not None:
        axes.axhline(chart.level, **LEVEL)
        axes.text(
            0.02, 0.97, charts.level_note(chart), transform=axes.transAxes, va="top",
            color=LEVEL["color"], fontsize=8,
        )  # fmt: skip
    if chart.log:
        axes.set_yscale("log")
    axes.set_ylim(charts.extent(chart, "y"))
    # Long titles would overlap those beside them.
    is_long = len(chart.title) > MAX_TITLE_LETTERS
    title = chart.title.replace(": ", ":\n") if is_long else chart.title
    _label(axes, chart, title, chart.y_label)


def _label(axes: Axes, chart: charts.Chart, title: str, y_label: str) -> None:
    axes.set_xlim(charts.extent(chart, "x"))
    axes.xaxis.set_major_formatter(lambda value, _: charts.tick_text(value))
    axes.locator_params(axis="x", nbins=5)
    label(axes, *map(_plain, (title, chart.x_label, y_label)))


def _wrapped(dot: charts.Dot) -> list[str]:
    return charts.wrap(dot.text, MAX_LETTERS)


def _places(chart: charts.DotChart) -> list[float]:
    """Return the places of dots, each in the middle of its text, and the end, in rows."""
    heights = [1 + (len(_wrapped(dot)) - 1) * TEXT_ROW / ROW for dot in chart.dots]
    ends = list(accumulate(heights))
    middles = [end - height / 2 - 0.5 for end, height in zip(ends, heights, strict=True)]
    return [*middles, ends[-1]]


def _draw_dots(axes: Axes, chart: charts.DotChart, labels: list[str]) -> None:
    *places, end = _places(chart)
    for place, dot in zip(places, chart.dots, strict=True):
        look = charts.style(labels.index(dot.group))
        above = [place - 0.22] * len(dot.seeds)
        axes.plot(dot.seeds, above, "|", color=look.color, markersize=6, alpha=0.7)
        if not math.isnan(dot.low):
            axes.plot([dot.low, dot.high], [place, place], color=look.color, linewidth=2.2)
        axes.plot([dot.value], [place], look.marker, color=look.color, markersize=7)
    axes.set_yticks(places, [_plain("\n".join(_wrapped(dot))) for dot in chart.dots])
    axes.set_ylim(end - 0.4, -0.6)
    if chart.level is not None:
        axes.axvline(chart.level, **LEVEL)
    _label(axes, chart, textwrap.fill(chart.title, MAX_TITLE_LETTERS + 4), "")
    axes.grid(visible=False, axis="y")


def _add_legend(drawing: Figure, groups: list[str], labels: list[str]) -> float:
    """Add a legend below all charts and return its height in inches."""
    from matplotlib.lines import Line2D  # noqa: PLC0415

    letters = int(drawing.get_figwidth() * LETTERS_PER_INCH)
    texts = [charts.wrap(group, min(MAX_LETTERS, letters - HANDLE_LETTERS)) for group in groups]
    widest = HANDLE_LETTERS + max(len(line) for text in texts for line in text)
    columns = max(1, min(letters // widest, len(groups)))
    looks = [charts.style(labels.index(group)) for group in groups]
    handles = [Line2D([], [], **look.style, marker=look.marker, linewidth=1.9) for look in looks]
    drawing.legend(
        handles, [_plain("\n".join(text)) for text in texts], loc="outside lower center",
        ncols=columns, frameon=False, handlelength=3,
    )  # fmt: skip
    # matplotlib fills one column after the other.
    most = math.ceil(len(groups) / columns)
    heights = [sum(map(len, texts[i : i + most])) for i in range(0, len(groups), most)]
    return LEGEND_ROW * max(heights)


def _plain(text: str) -> str:
    """Return a text without formulas, which two `$` would make."""
    return text.replace("$", r"\$")

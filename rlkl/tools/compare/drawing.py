"""Draws charts with matplotlib, for files that go into papers: letters stand a page's width."""

import math
import textwrap
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from rlkl.tools.compare.charts import (
    DotChart,
    Figure,
    LineChart,
    Style,
    beyond,
    extent,
    style,
    tick_text,
    wrapped,
)
from rlkl.tools.experiments.drawing import label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LETTERS_OF_AN_INCH = 12
"""About."""

MOST_LETTERS = 40
"""Of a line of text beside a dot."""

MOST_OF_TITLE = 27
"""Letters of a line of text above a chart."""

ROW, TEXT_ROW = 0.3, 0.2
"""Inches from a dot to the next, and of each further line of its text."""

OF_HANDLE = 9
"""Letters' room that a legend's piece of line takes."""

LINE_OF_TEXT = 0.21
"""Inches that a line of a legend takes."""

MARKS = 8
"""Markers along a line, so that lines are told apart without colour."""


def draw(figure: Figure, labels: list[str]) -> "Drawing":
    """Return a figure with all its charts.

    Args:
        figure: what to draw.
        labels: of all groups, whose place decides their look.
    """
    charts = figure.charts
    dots = [chart for chart in charts if isinstance(chart, DotChart)]
    most = 2 if dots or (len(charts) == 4 and not figure.narrow) else 4 if figure.narrow else 3
    columns = min(len(charts), most)
    rows = math.ceil(len(charts) / columns)
    width, height = (2.8, 2.3) if figure.narrow else (3.3, 2.6)
    if dots:
        texts = [wrapped(dot.text, MOST_LETTERS) for chart in dots for dot in chart.dots]
        width = 2.4 + max(len(line) for text in texts for line in text) / LETTERS_OF_AN_INCH
        height = 1.0 + ROW * max(_places(chart)[-1] for chart in dots)
    width = max(width * columns, 4.5)
    drawn = {line.group for chart in charts if isinstance(chart, LineChart) for line in chart.lines}
    groups = [name for name in labels if name in drawn]
    legend = _legend(groups, width)
    drawing = new_figure((width, height * rows + max(0.6, 0.2 + legend.height)))
    panels = drawing.subplots(rows, columns, squeeze=False)
    for chart, axes in zip(charts, panels.flat, strict=False):
        if isinstance(chart, LineChart):
            _draw_lines(axes, chart, labels)
        else:
            _draw_dots(axes, chart, labels)
    for axes in panels.flat[len(charts) :]:
        axes.set_visible(False)
    if groups:
        _draw_legend(drawing, legend, [style(labels.index(group)) for group in groups])
    # Each file would lay it out anew, which takes as long as drawing it.
    layout = drawing.get_layout_engine()
    assert layout is not None
    layout.execute(drawing)
    drawing.set_layout_engine("none")
    return drawing


def _draw_lines(axes: "Axes", chart: LineChart, labels: list[str]) -> None:
    for line in chart.lines:
        number = labels.index(line.group)
        look = style(number)
        for x, y in line.thin:
            axes.plot(x, y, color=look.color, linewidth=0.6, alpha=0.35)
        if not line.x:
            continue
        if line.low and not math.isnan(line.low[0]):
            axes.fill_between(
                line.x, line.low, line.high, color=look.color, alpha=0.16, linewidth=0
            )
        every = max(1, len(line.x) // MARKS)
        axes.plot(
            line.x, line.y, look.dashes, color=look.color, linewidth=1.9, marker=look.marker,
            markersize=5, markevery=(number * every // max(1, len(labels)), every),
            drawstyle="steps-post" if chart.steps else "default",
        )  # fmt: skip
    if chart.level is not None:
        axes.axhline(chart.level[0], color="#555555", linewidth=0.9, dashes=(1, 2))
        axes.text(
            0.02, 0.97, _plain(beyond(chart)), transform=axes.transAxes, va="top", color="#555555",
            fontsize=8,
        )  # fmt: skip
    if chart.log:
        axes.set_yscale("log")
    axes.set_xlim(extent(chart, "x"))
    axes.set_ylim(extent(chart, "y"))
    axes.xaxis.set_major_formatter(lambda value, _: tick_text(value))
    axes.locator_params(axis="x", nbins=5)
    # A long name and what is seen of it would run into those beside them.
    title = chart.title.replace(": ", ":\n") if len(chart.title) > MOST_OF_TITLE else chart.title
    label(axes, *map(_plain, (title, chart.x_label, chart.y_label)))


def _places(chart: DotChart) -> list[float]:
    """Return where dots stand from the top down, and where the next would, in rows of one line.

    A dot stands in the middle of its text.
    """
    lines = [len(wrapped(dot.text, MOST_LETTERS)) for dot in chart.dots]
    heights = [1 + (count - 1) * TEXT_ROW / ROW for count in lines]
    ends = list(accumulate(heights))
    middles = [end - height / 2 - 0.5 for end, height in zip(ends, heights, strict=True)]
    return [*middles, ends[-1]]


def _draw_dots(axes: "Axes", chart: DotChart, labels: list[str]) -> None:
    *places, end = _places(chart)
    for place, dot in zip(places, chart.dots, strict=True):
        look = style(labels.index(dot.group))
        axes.plot(
            dot.seeds,
            [place - 0.22] * len(dot.seeds),
            "|",
            color=look.color,
            markersize=6,
            alpha=0.7,
        )
        if not math.isnan(dot.low):
            axes.plot([dot.low, dot.high], [place, place], color=look.color, linewidth=2.2)
        axes.plot([dot.value], [place], look.marker, color=look.color, markersize=7)
    axes.set_yticks(
        places, [_plain("\n".join(wrapped(dot.text, MOST_LETTERS))) for dot in chart.dots]
    )
    axes.set_ylim(end - 0.4, -0.6)
    axes.set_xlim(extent(chart, "x"))
    axes.xaxis.set_major_formatter(lambda value, _: tick_text(value))
    axes.locator_params(axis="x", nbins=5)
    if chart.level is not None:
        axes.axvline(chart.level[0], color="#555555", linewidth=0.9, dashes=(1, 2))
    title = "\n".join(textwrap.wrap(chart.title, MOST_OF_TITLE + 4))
    label(axes, _plain(title), _plain(chart.x_label), "")
    axes.grid(visible=False, axis="y")


class _Legend(NamedTuple):
    """What names the lines of a figure.

    Attributes:
        texts: of each group, in as many lines as it needs.
        columns: that they stand in.
        height: in inches.
    """

    texts: list[str]
    columns: int
    height: float


def _legend(groups: list[str], width: float) -> _Legend:
    """Return the legend of a figure that is so many inches wide."""
    room = int(width * LETTERS_OF_AN_INCH)
    lines = [wrapped(group, min(MOST_LETTERS, room - OF_HANDLE)) for group in groups]
    of_one = OF_HANDLE + max((len(line) for text in lines for line in text), default=0)
    columns = max(1, min(room // of_one, len(groups)))
    # matplotlib fills one column after the other.
    of_column = max(1, math.ceil(len(groups) / columns))
    starts = range(0, len(groups), of_column)
    tallest = max((sum(map(len, lines[i : i + of_column])) for i in starts), default=0)
    return _Legend(["\n".join(text) for text in lines], columns, LINE_OF_TEXT * tallest)


def _draw_legend(drawing: "Drawing", legend: _Legend, looks: list[Style]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    handles = [
        Line2D([], [], color=look.color, linestyle=look.dashes, marker=look.marker, linewidth=1.9)
        for look in looks
    ]
    drawing.legend(
        handles, list(map(_plain, legend.texts)), loc="outside lower center",
        ncols=legend.columns, frameon=False, handlelength=3,
    )  # fmt: skip


def _plain(text: str) -> str:
    """Return a text as matplotlib prints it; of two `$` it would make a formula."""
    return text.replace("$", r"\$")

"""Draws charts with matplotlib, for files that go into papers: letters stand a page's width."""

import math
from typing import TYPE_CHECKING

import numpy as np

from rlkl.compare.charts import (
    DotChart,
    Figure,
    LineChart,
    beyond,
    extent,
    style,
    tick_text,
    wrapped,
)
from rlkl.lab.drawing import label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LETTERS_OF_AN_INCH = 12
"""About."""

MOST_LETTERS = 40
"""Of a line of text beside a dot."""

MOST_OF_TITLE = 27
"""Letters of a line of text above a chart."""

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
        tallest = max(len(chart.dots) for chart in dots)
        height = 1.0 + (0.1 + 0.2 * max(map(len, texts))) * tallest
    drawing = new_figure((max(width * columns, 4.5), height * rows + 0.6))
    panels = drawing.subplots(rows, columns, squeeze=False)
    groups: dict[str, None] = {}
    for chart, axes in zip(charts, panels.flat, strict=False):
        if isinstance(chart, LineChart):
            _draw_lines(axes, chart, labels)
            groups |= dict.fromkeys(line.group for line in chart.lines)
        else:
            _draw_dots(axes, chart, labels)
    for axes in panels.flat[len(charts) :]:
        axes.set_visible(False)
    if groups:
        _legend(drawing, [name for name in labels if name in groups], labels)
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


def _draw_dots(axes: "Axes", chart: DotChart, labels: list[str]) -> None:
    places = np.arange(len(chart.dots))
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
    axes.set_ylim(len(chart.dots) - 0.4, -0.6)
    axes.set_xlim(extent(chart, "x"))
    axes.xaxis.set_major_formatter(lambda value, _: tick_text(value))
    axes.locator_params(axis="x", nbins=5)
    if chart.level is not None:
        axes.axvline(chart.level[0], color="#555555", linewidth=0.9, dashes=(1, 2))
    label(axes, _plain(chart.title), _plain(chart.x_label), "")
    axes.grid(visible=False, axis="y")


def _legend(drawing: "Drawing", groups: list[str], labels: list[str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    looks = [style(labels.index(group)) for group in groups]
    handles = [
        Line2D([], [], color=look.color, linestyle=look.dashes, marker=look.marker, linewidth=1.9)
        for look in looks
    ]
    of_one = (max(map(len, groups)) + 9) / LETTERS_OF_AN_INCH
    columns = int(drawing.get_figwidth() / of_one)
    drawing.legend(
        handles, list(map(_plain, groups)), loc="outside lower center",
        ncols=min(max(columns, 1), len(groups)), frameon=False, handlelength=3,
    )  # fmt: skip


def _plain(text: str) -> str:
    """Return a text as matplotlib prints it; of two `$` it would make a formula."""
    return text.replace("$", r"\$")

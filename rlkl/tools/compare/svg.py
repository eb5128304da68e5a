"""Draws charts as SVG for the page: with text, groups that can be hidden, and readable values."""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from rlkl.tools.compare import charts

WIDE, NARROW = (400, 285), (300, 235)
"""Width and height of a chart, in units of the SVG; the page scales it."""

LETTER = 7.4
"""Average width of a letter."""

ROW, TEXT_ROW = 27, 15
"""Height of a row of dots, and of each line of text above one."""

DASH_ARRAYS = {"-": "", "--": "8 4", "-.": "9 3 2 3", ":": "2 3"}

MARKERS = {
    "o": "circle", "s": "square", "^": "up", "v": "down", "D": "diamond", "X": "cross",
    "P": "plus", "*": "star",
}  # fmt: skip
"""Ids of their shapes in page.html."""

Point = tuple[float, float]

Ticks = Sequence[tuple[float, str]]
"""Positions on an axis and their names."""


class Frame(NamedTuple):
    """The area of the data in a chart, and the ranges of its axes."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: Point
    y_range: Point = (0, 1)
    log: bool = False

    def x(self, value: float) -> float:
        """Return the horizontal position of a number."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Return the vertical position of a number."""
        low, high = self.y_range
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def across(self, kind: str, y: float) -> str:
        """Return a horizontal line."""
        return f'<path class="{kind}" d="M{self.left:.1f} {y:.1f}H{self.right:.1f}"/>'

    def down(self, kind: str, x: float) -> str:
        """Return a vertical line."""
        return f'<path class="{kind}" d="M{x:.1f} {self.top}V{self.bottom:.1f}"/>'


def marker(look: charts.Style, x: float, y: float, size: float) -> str:
    """Return a marker at a point."""
    place = f"translate({x:.1f} {y:.1f}) scale({size})"
    return f'<use href="#{MARKERS[look.marker]}" transform="{place}"/>'


def sample(look: charts.Style) -> str:
    """Return a sample of a group's line, for the legend."""
    return (
        f'<svg class="sample" viewBox="0 0 44 14" width="44" height="14" aria-hidden="true" '
        f'stroke="{look.color}" fill="{look.color}"><line x1="1" x2="43" y1="7" y2="7" '
        f'stroke-width="2.4" stroke-dasharray="{DASH_ARRAYS[look.dashes]}"/>'
        f"{marker(look, 22, 7, 4)}</svg>"
    )


def draw(chart: charts.Chart, labels: Sequence[str], *, narrow: bool = False) -> str:
    """Return a chart as an SVG element.

    The order of `labels`, of all groups, determines their looks and their classes `g0`, `g1`, ...
    """
    width, height = NARROW if narrow else WIDE
    if isinstance(chart, charts.LineChart):
        return _lines(chart, labels, width, height)
    return _dots(chart, labels, width)


def element(width: int, height: float, words: str, content: Iterable[str], data: str = "") -> str:
    """Return an SVG element; `words` describe it for screen readers."""
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(words)}"{data}>{"".join(content)}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "middle", kind: str = "tick") -> str:
    """Return a line of text."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def _group(number: int, content: Iterable[str]) -> str:
    color = charts.style(number).color
    return f'<g class="g{number}" stroke="{color}" fill="{color}">{"".join(content)}</g>'


def axes(
    frame: Frame, height: float, x_label: str, y_label: str = "", x_ticks: Ticks | None = None
) -> list[str]:
    """Return grid, axes and names; `x_ticks` are round by default, and a y axis needs a name."""
    parts = []
    for tick in charts.ticks(*frame.y_range, log=frame.log) if y_label else ():
        y = frame.y(tick)
        name = charts.tick_text(tick)
        parts += [frame.across("grid", y), text(frame.left - 5, y + 4.5, name, "end")]
    if x_ticks is None:
        x_ticks = [(tick, charts.tick_text(tick)) for tick in charts.ticks(*frame.x_range, most=5)]
    for tick, name in x_ticks:
        x = frame.x(tick)
        parts += [frame.down("grid", x), text(x, frame.bottom + 17, name)]
    start = f"{frame.left:.1f} " + (f"{frame.top}V" if y_label else "")
    parts.append(f'<path class="axis" d="M{start}{frame.bottom:.1f}H{frame.right:.1f}"/>')
    parts.append(text((frame.left + frame.right) / 2, height - 6, x_label, kind="name"))
    if y_label:
        place = f"translate(13 {(frame.top + frame.bottom) / 2:.1f}) rotate(-90)"
        parts.append(
            f'<text class="name" transform="{place}" text-anchor="middle">{escape(y_label)}</text>'
        )
    return parts


def left_of(y_range: Point, *, log: bool = False) -> float:
    """Return the left edge of the data beside a y axis with a name and this range."""
    names = map(charts.tick_text, charts.ticks(*y_range, log=log))
    return 30 + LETTER * max(map(len, names), default=0)


def _lines(chart: charts.LineChart, labels: Sequence[str], width: int, height: int) -> str:
    x_range, y_range = charts.extent(chart, "x"), charts.extent(chart, "y")
    left = left_of(y_range, log=chart.log)
    frame = Frame(left, width - 19, 14, height - 42, x_range, y_range, chart.log)
    parts = axes(frame, height, chart.x_label, chart.y_label)
    note_y, note = frame.top + 10, charts.level_note(chart)
    if chart.level is not None and y_range[0] <= chart.level <= y_range[1]:
        y = frame.y(chart.level)
        parts.append(frame.across("level", y))
        note_y, note = y - 4, "threshold"
    parts += [_line(frame, chart, line, labels) for line in chart.lines]
    if note:
        parts.append(text(frame.left + 5, note_y, note, "start", "levelname"))
    ends = [f"{line.group} ends at {line.y[-1]:.4g}" for line in chart.lines if line.y]
    words = f"{chart.title}: {chart.y_label} along {chart.x_label}. {'; '.join(ends)}"
    return element(width, height, words, parts, _data(chart, frame, labels))


def _line(frame: Frame, chart: charts.LineChart, line: charts.Line, labels: Sequence[str]) -> str:
    number = labels.index(line.group)
    look = charts.style(number)
    drawn = []
    for x, y in line.seeds:
        points = _points(frame, x, y)
        drawn.append(f'<path class="thin" d="{_path(points)}"/>' if len(points) > 1 else "")
    if line.has_band:
        upper, lower = _points(frame, line.x, line.high), _points(frame, line.x, line.low)
        if upper and lower:
            drawn.append(f'<path class="band" d="{_path([*upper, *reversed(lower)])}Z"/>')
    if points := _points(frame, line.x, line.y):
        dashes, path = DASH_ARRAYS[look.dashes], _path(points, chart.steps)
        drawn.append(f'<path class="line" stroke-dasharray="{dashes}" d="{path}"/>')
        where = charts.marked(len(points), number, len(labels))
        drawn += [marker(look, x, y, 3.2) for x, y in points[where]]
    return _group(number, drawn)


def _points(frame: Frame, x: Sequence[float], y: Sequence[float]) -> list[Point]:
    """Return the positions of points; those beyond the chart are moved to its edge."""
    low, high = frame.y_range
    return [
        (frame.x(value_x), frame.y(min(max(value_y, low), high)))
        for value_x, value_y in zip(x, y, strict=True)
        if math.isfinite(value_y) and (value_y > 0 or not frame.log)
    ]


def _path(points: Sequence[Point], steps: bool = False) -> str:
    (x, y), *rest = points
    if steps:
        return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    return f"M{x:.1f} {y:.1f}L" + " ".join(f"{x:.1f} {y:.1f}" for x, y in rest)


def _data(chart: charts.LineChart, frame: Frame, labels: Sequence[str]) -> str:
    """Return what the script of the page needs to read off values: the frame and all curves."""

    def rounded(numbers: Iterable[float]) -> list[float | None]:
        return [float(f"{n:.5g}") if math.isfinite(n) else None for n in numbers]

    content = {key: getattr(frame, key) for key in ("left", "right", "top", "bottom")} | {
        "x": frame.x_range,
        "name": chart.x_label,
        "steps": chart.steps,
        "lines": [
            {"group": labels.index(line.group)}
            | {key: rounded(getattr(line, key)) for key in ("x", "y", "low", "high")}
            for line in chart.lines
            if line.x
        ],
    }
    return f' data-chart="{escape(json.dumps(content, separators=(",", ":")))}"'


def _dots(chart: charts.DotChart, labels: Sequence[str], width: int) -> str:
    longest = LETTER * max(len(dot.text) for dot in chart.dots)
    # Long texts are written above their rows, in as many lines as they need.
    above = longest > 0.45 * width
    most = int((width - 28) / LETTER)
    texts = [charts.wrap(dot.text, most) if above else [] for dot in chart.dots]
    height = 52 + ROW * len(texts) + TEXT_ROW * sum(map(len, texts))
    left = 14 if above else 14 + longest
    frame = Frame(left, width - 19, 4, height - 44, charts.extent(chart, "x"))
    parts = axes(frame, height, chart.x_label)
    if chart.level is not None:
        parts.append(frame.down("level", frame.x(chart.level)))
    top, words = frame.top, []
    for dot, lines in zip(chart.dots, texts, strict=True):
        y = top + TEXT_ROW * len(lines) + ROW / 2
        written = [
            text(frame.left, top + TEXT_ROW * i, line, "start", "row")
            for i, line in enumerate(lines, 1)
        ] or [text(frame.left - 7, y + 4.5, dot.text, "end", "row")]
        number = labels.index(dot.group)
        parts.append(_group(number, [*_dot(frame, dot, y, charts.style(number)), *written]))
        known = "" if math.isnan(dot.low) else f" ({dot.low:.4g} to {dot.high:.4g})"
        words.append(f"{dot.text} {dot.value:.4g}{known}")
        top = y + ROW / 2
    return element(width, height, f"{chart.title}, {chart.x_label}: {'; '.join(words)}", parts)


def _dot(frame: Frame, dot: charts.Dot, y: float, look: charts.Style) -> list[str]:
    drawn = [f'<path class="seed" d="M{frame.x(seed):.1f} {y - 5:.1f}v10"/>' for seed in dot.seeds]
    tip = f"{dot.text}: {dot.value:.4g}"
    if not math.isnan(dot.low):
        low, high = frame.x(dot.low), frame.x(dot.high)
        drawn.append(f'<path class="interval" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
        tip += f" [{dot.low:.4g}, {dot.high:.4g}]"
    drawn.append(marker(look, frame.x(dot.value), y, 4.6))
    return [f"<title>{escape(tip)}</title>", *drawn]

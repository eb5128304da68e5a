"""Draws charts as SVG for the page: letters stay letters, groups can be hidden and read off."""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from rlkl.tools.compare.charts import (
    Dot,
    DotChart,
    LineChart,
    beyond,
    extent,
    style,
    tick_text,
    ticks,
    wrapped,
)

WIDE, NARROW = (400, 285), (300, 235)
"""Width and height of a chart, in the units of a page; the page scales it to the room there is."""

LETTER = 7.4
"""Width of a letter, on average."""

MARKS = 8
"""Markers along a line, so that lines are told apart without colour."""

DASH_ARRAYS = {"-": "", "--": "8 4", "-.": "9 3 2 3", ":": "2 3"}


class Frame(NamedTuple):
    """Where the data lie in a chart, and how numbers become places."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def across(self, value: float) -> float:
        """Return the horizontal place of a number."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def up(self, value: float) -> float:
        """Return the vertical place of a number."""
        low, high = self.y
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def marker(shape: str, x: float, y: float, size: float, color: str) -> str:
    """Return a marker around a place."""
    s = size
    shapes: dict[str, list[tuple[float, float]]] = {
        "s": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "^": [(0, -1.2 * s), (1.15 * s, s), (-1.15 * s, s)],
        "v": [(0, 1.2 * s), (1.15 * s, -s), (-1.15 * s, -s)],
        "D": [(0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)],
    }
    tips = ((s * (1.5 if i % 2 == 0 else 0.6), math.pi * i / 5) for i in range(10))
    shapes["*"] = [(r * math.sin(angle), -r * math.cos(angle)) for r, angle in tips]
    if shape == "o":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.1 * s:.1f}" fill="{color}"/>'
    if shape in shapes:
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[shape])
        return f'<polygon points="{points}" fill="{color}"/>'
    d = s * (1.0 if shape == "X" else 1.3)
    arms = f"M{-d} {-d}L{d} {d}M{-d} {d}L{d} {-d}" if shape == "X" else f"M{-d} 0H{d}M0 {-d}V{d}"
    return (
        f'<path transform="translate({x:.1f} {y:.1f})" d="{arms}" stroke="{color}" '
        f'stroke-width="2.6" fill="none"/>'
    )


def sample(number: int) -> str:
    """Return a stretch of a group's line, for the legend."""
    look = style(number)
    return (
        f'<svg class="sample" viewBox="0 0 44 14" width="44" height="14" aria-hidden="true">'
        f'<line x1="1" x2="43" y1="7" y2="7" stroke="{look.color}" stroke-width="2.4" '
        f'stroke-dasharray="{DASH_ARRAYS[look.dashes]}"/>'
        f"{marker(look.marker, 22, 7, 4, look.color)}</svg>"
    )


def draw(chart: LineChart | DotChart, labels: Sequence[str], *, narrow: bool = False) -> str:
    """Return a chart as an SVG element.

    Args:
        chart: what to draw.
        labels: of all groups, whose place decides their look and their class, `g0`, `g1`, ...
        narrow: whether it is one of four side by side.
    """
    width, height = NARROW if narrow else WIDE
    if isinstance(chart, LineChart):
        return _lines(chart, labels, width, height)
    return _dots(chart, labels, width)


def _element(
    chart: LineChart | DotChart, width: int, height: float, content: Iterable[str], data: str = ""
) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(_described(chart))}"{data}>{"".join(content)}</svg>'
    )


def _described(chart: LineChart | DotChart) -> str:
    """Return a chart in words, for those who do not see it: what it shows, and where lines end."""
    if isinstance(chart, DotChart):
        parts = [
            f"{dot.text} {dot.value:.4g}"
            + ("" if math.isnan(dot.low) else f" ({dot.low:.4g} to {dot.high:.4g})")
            for dot in chart.dots
        ]
        return f"{chart.title}, {chart.x_label}: {'; '.join(parts)}"
    ends = [f"{line.group} ends at {line.y[-1]:.4g}" for line in chart.lines if line.y]
    return f"{chart.title}: {chart.y_label} along {chart.x_label}. {'; '.join(ends)}"


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _lines(chart: LineChart, labels: Sequence[str], width: int, height: int) -> str:
    x_range, y_range = extent(chart, "x"), extent(chart, "y")
    y_ticks = ticks(*y_range, log=chart.log)
    widest = max((len(tick_text(tick)) for tick in y_ticks), default=0)
    frame = Frame(
        left=30 + LETTER * widest, right=width - 19, top=14, bottom=height - 42,
        x=x_range, y=y_range, log=chart.log,
    )  # fmt: skip
    parts = [*_axes(frame, y_ticks), _text((frame.left + frame.right) / 2, height - 6,
             chart.x_label, kind="name")]  # fmt: skip
    middle = (frame.top + frame.bottom) / 2
    parts.append(
        f'<text class="name" transform="translate(13 {middle:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_label)}</text>'
    )
    if chart.level is not None and frame.y[0] <= chart.level[0] <= frame.y[1]:
        y = frame.up(chart.level[0])
        parts.append(f'<path class="level" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>')
    for line in chart.lines:
        number = labels.index(line.group)
        look = style(number)
        drawn = [_thin(frame, thin) for thin in line.thin]
        if line.low and not math.isnan(line.low[0]):
            drawn.append(_band(frame, line.x, line.low, line.high))
        points = _places(frame, line.x, line.y)
        if points:
            path = _path(points, chart.steps)
            dashes = DASH_ARRAYS[look.dashes]
            drawn.append(f'<path class="line" stroke-dasharray="{dashes}" d="{path}"/>')
            every = max(1, len(points) // MARKS)
            start = number * every // max(1, len(labels))
            drawn += [marker(look.marker, x, y, 3.2, look.color) for x, y in points[start::every]]
        parts.append(
            f'<g class="g{number}" stroke="{look.color}" fill="{look.color}">{"".join(drawn)}</g>'
        )
    if chart.level is not None and frame.y[0] <= chart.level[0] <= frame.y[1]:
        y = frame.up(chart.level[0])
        parts.append(_text(frame.left + 5, y - 4, chart.level[1], "start", "levelname"))
    elif told := beyond(chart):
        parts.append(_text(frame.left + 5, frame.top + 10, told, "start", "levelname"))
    return _element(chart, width, height, parts, _data(chart, frame, labels))


def _axes(frame: Frame, y_ticks: Sequence[float]) -> list[str]:
    parts = []
    for tick in y_ticks:
        y = frame.up(tick)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(_text(frame.left - 5, y + 4.5, tick_text(tick), "end"))
    for tick in ticks(*frame.x, most=5):
        x = frame.across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {frame.top}V{frame.bottom:.1f}"/>')
        parts.append(_text(x, frame.bottom + 17, tick_text(tick)))
    parts.append(
        f'<path class="axis" d="M{frame.left:.1f} {frame.top}V{frame.bottom:.1f}'
        f'H{frame.right:.1f}"/>'
    )
    return parts


def _places(frame: Frame, x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    """Return where points lie; what is beyond the chart is put at its edge."""
    found = []
    for value_x, value_y in zip(x, y, strict=True):
        if math.isfinite(value_y) and (value_y > 0 or not frame.log):
            inside = min(max(value_y, frame.y[0]), frame.y[1])
            found.append((frame.across(value_x), frame.up(inside)))
    return found


def _path(points: Sequence[tuple[float, float]], steps: bool = False) -> str:
    (x, y), *rest = points
    if steps:
        return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)
    return f"M{x:.1f} {y:.1f}L" + " ".join(f"{x:.1f} {y:.1f}" for x, y in rest)


def _thin(frame: Frame, points: tuple[list[float], list[float]]) -> str:
    places = _places(frame, *points)
    return f'<path class="thin" d="{_path(places)}"/>' if len(places) > 1 else ""


def _band(frame: Frame, x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> str:
    upper, lower = _places(frame, x, high), _places(frame, x, low)
    if not upper or not lower:
        return ""
    return f'<path class="band" d="{_path([*upper, *reversed(lower)])}Z"/>'


def _data(chart: LineChart, frame: Frame, labels: Sequence[str]) -> str:
    """Return what the page's script needs to read points off: the frame, and each group's curve."""

    def shown(numbers: Iterable[float]) -> list[float | None]:
        return [float(f"{n:.5g}") if math.isfinite(n) else None for n in numbers]

    content = {
        "left": frame.left,
        "right": frame.right,
        "top": frame.top,
        "bottom": frame.bottom,
        "x": frame.x,
        "name": chart.x_label,
        "steps": chart.steps,
        "lines": [
            {"group": labels.index(line.group), "x": shown(line.x), "y": shown(line.y),
             "low": shown(line.low), "high": shown(line.high)}
            for line in chart.lines if line.x
        ],
    }  # fmt: skip
    return f' data-chart="{escape(json.dumps(content, separators=(",", ":")))}"'


ROW, TEXT_ROW = 27, 15
"""Height of a row of dots, and of each line of text above one."""


def _dots(chart: DotChart, labels: Sequence[str], width: int) -> str:
    longest = max(len(dot.text) for dot in chart.dots)
    # Long texts stand above their rows, on as many lines as they need.
    above = LETTER * longest > 0.45 * width
    texts = [wrapped(dot.text, int((width - 28) / LETTER)) if above else [] for dot in chart.dots]
    height = 52 + ROW * len(texts) + TEXT_ROW * sum(map(len, texts))
    frame = Frame(
        left=14 if above else 14 + LETTER * longest, right=width - 19, top=4, bottom=height - 44,
        x=extent(chart, "x"), y=(0, 1),
    )  # fmt: skip
    parts = []
    for tick in ticks(*frame.x, most=5):
        x = frame.across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {frame.top}V{frame.bottom:.1f}"/>')
        parts.append(_text(x, frame.bottom + 17, tick_text(tick)))
    parts.append(f'<path class="axis" d="M{frame.left:.1f} {frame.bottom:.1f}H{frame.right:.1f}"/>')
    parts.append(_text((frame.left + frame.right) / 2, height - 6, chart.x_label, kind="name"))
    if chart.level is not None:
        x = frame.across(chart.level[0])
        parts.append(f'<path class="level" d="M{x:.1f} {frame.top}V{frame.bottom:.1f}"/>')
    top = frame.top
    for dot, text in zip(chart.dots, texts, strict=True):
        number = labels.index(dot.group)
        y = top + TEXT_ROW * len(text) + ROW / 2
        written = (
            [_text(frame.left, top + TEXT_ROW * (i + 1), words, "start", "row")
             for i, words in enumerate(text)]
            if above
            else [_text(frame.left - 7, y + 4.5, dot.text, "end", "row")]
        )  # fmt: skip
        parts.append(_dot(frame, dot, y, number, written))
        top = y + ROW / 2
    return _element(chart, width, height, parts)


def _dot(frame: Frame, dot: Dot, y: float, number: int, written: Sequence[str]) -> str:
    look = style(number)
    drawn = [
        f'<path class="seed" d="M{frame.across(value):.1f} {y - 5:.1f}v10"/>' for value in dot.seeds
    ]
    tip = f"{dot.text}: {dot.value:.4g}"
    if not math.isnan(dot.low):
        low, high = frame.across(dot.low), frame.across(dot.high)
        drawn.append(f'<path class="interval" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
        tip += f" [{dot.low:.4g}, {dot.high:.4g}]"
    drawn.append(marker(look.marker, frame.across(dot.value), y, 4.6, look.color))
    return (
        f'<g class="g{number}" stroke="{look.color}" fill="{look.color}">'
        f"<title>{escape(tip)}</title>{''.join(drawn)}{''.join(written)}</g>"
    )

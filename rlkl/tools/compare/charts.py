"""What a chart is, before anybody draws it: lines with bands, or dots with intervals, as data."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rlkl.tools.experiments.drawing import BLACK, COLORS


class Style(NamedTuple):
    """How a group looks everywhere: told apart by colour, by dashes and by markers, each alone."""

    color: str
    dashes: Literal["-", "--", "-.", ":"]
    marker: str


_NAMES = ("blue", "vermilion", "green", "purple", "orange", "sky", "grey")
_COLORS = [*(COLORS[name] for name in _NAMES), BLACK]
_DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")


def style(number: int) -> Style:
    """Return the look of a group by its place; from the ninth on colours come again.

    Dashes and markers then pair differently with colours, so that 32 groups look different, also
    where there is but a marker to see.
    """
    turn, place = divmod(number, len(_COLORS))
    marker = _MARKERS[(place + 3 * turn) % len(_MARKERS)]
    return Style(_COLORS[place], _DASHES[(place + turn) % len(_DASHES)], marker)


@dataclass(frozen=True)
class Line:
    """A group's curve.

    Attributes:
        group: its label.
        x, y: points.
        low, high: of the band at each point; empty for none, NaN where there is none.
        thin: points of each seed's own curve.
    """

    group: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    thin: list[tuple[list[float], list[float]]] = field(default_factory=list)


@dataclass(frozen=True)
class LineChart:
    """Curves of several groups.

    Attributes:
        title: what is seen, usually the environment.
        x_label, y_label: names of the axes, with units.
        lines: one for each group.
        env: the environment, or empty.
        log: whether the vertical axis is logarithmic; points at 0 and below are then left out.
        level: a value to draw across, and what it is.
        y_range: of the vertical axis; None for what the points need.
        steps: whether lines go in steps.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    env: str = ""
    log: bool = False
    level: tuple[float, str] | None = None
    y_range: tuple[float, float] | None = None
    steps: bool = False


@dataclass(frozen=True)
class Dot:
    """A number with its interval.

    Attributes:
        group: whose look it has.
        text: written beside it.
        value: the dot.
        low, high: the interval; NaN for none.
        seeds: numbers of single runs, drawn small.
    """

    group: str
    text: str
    value: float
    low: float
    high: float
    seeds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class DotChart:
    """Numbers one below the other.

    Attributes:
        title: what is seen.
        x_label: name of the axis, with its unit.
        dots: from the top down.
        env: the environment, or empty.
        level: a value to draw across, and what it is.
        x_range: of the axis; None for what the dots need.
    """

    title: str
    x_label: str
    dots: list[Dot]
    env: str = ""
    level: tuple[float, str] | None = None
    x_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Figure:
    """Charts that belong together.

    Attributes:
        name: of its files.
        title: above it on the page.
        caption: how to read it.
        charts: side by side.
        narrow: whether four of them go side by side, and not three.
    """

    name: str
    title: str
    caption: str
    charts: Sequence[LineChart | DotChart]
    narrow: bool = False


LEVEL_WITHIN = 0.3
"""A level is drawn if it lies no further beyond the points than this share of their range; one far
off would leave the curves a strip of the chart."""


def extent(chart: LineChart | DotChart, axis: str) -> tuple[float, float]:
    """Return the least and the greatest number of an axis, with some room, or the range set.

    Args:
        chart: which.
        axis: `x` or `y`.
    """
    numbers: list[float] = []
    if isinstance(chart, DotChart):
        if chart.x_range is not None:
            return chart.x_range
        for dot in chart.dots:
            numbers += [dot.value, dot.low, dot.high, *dot.seeds]
    else:
        if axis == "y" and chart.y_range is not None:
            return chart.y_range
        for line in chart.lines:
            numbers += line.x if axis == "x" else [*line.y, *line.low, *line.high]
            for x, y in line.thin:
                numbers += x if axis == "x" else y
    log = isinstance(chart, LineChart) and chart.log and axis == "y"
    finite = [n for n in numbers if math.isfinite(n) and (n > 0 or not log)]
    if not finite:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(finite), max(finite)
    if chart.level is not None and not (isinstance(chart, LineChart) and axis == "x"):
        reach, level = LEVEL_WITHIN * (high - low) or abs(high), chart.level[0]
        if low - reach <= level <= high + reach:
            low, high = min(low, level), max(high, level)
    if log:
        return low / 1.3, high * 1.3
    if isinstance(chart, LineChart) and axis == "x":
        return (min(0.0, low), high if high > low else low + 1)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def beyond(chart: LineChart) -> str:
    """Return what is written at the upper edge of a chart whose level lies above it, or nothing."""
    if chart.level is None or chart.level[0] <= extent(chart, "y")[1]:
        return ""
    value, name = chart.level
    return f"{name} {value:,.4g} is above"


def ticks(low: float, high: float, log: bool = False, most: int = 6) -> list[float]:
    """Return round numbers within an interval: multiples of 1, 2, 2.5 or 5 times a power of ten.

    Args:
        low: lower end.
        high: upper end, above it.
        log: whether to return powers of ten instead, with 2 and 5 between where they are few.
        most: how many there may be.
    """
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        decades = [10.0**e for e in exponents if low <= 10.0**e <= high]
        if len(decades) > most:
            return decades[:: -(-len(decades) // most)]
        if len(decades) < 3:
            decades = [f * 10.0**e for e in exponents for f in (1, 2, 5)]
        return [tick for tick in decades if low <= tick <= high]
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(f * unit for f in (1, 2, 2.5, 5, 10, 20) if (high - low) / (f * unit) <= most)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick_text(value: float) -> str:
    """Return a number as it stands at an axis: 20k, 1.5M, 0.01, 1e−5."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            number = value / (unit if letter != "k" else 1e3)
            return f"{number:g}{letter}".replace("-", "−")
    if size and size < 1e-3:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{float(f'{value:.6g}'):g}".replace("-", "−")


def wrapped(text: str, letters: int) -> list[str]:
    """Return a text in lines of so many letters; a pair that needs several breaks between the two.

    Args:
        text: a label, or `FIRST > SECOND`.
        letters: at most, in a line.
    """
    if len(text) <= letters:
        return [text]
    first, arrow, second = text.partition(" > ")
    return [*textwrap.wrap(first, letters), *textwrap.wrap(arrow.lstrip() + second, letters)]

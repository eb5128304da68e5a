"""Charts as data, before they are drawn: lines with bands, or dots with intervals."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from rlkl.tools.experiments import drawing
from rlkl.tools.experiments.drawing import BLACK, COLORS

Style = drawing.Line
"""The look of a group in all charts."""

_NAMES = ("blue", "vermilion", "green", "purple", "orange", "sky", "grey")
_COLORS = [*(COLORS[name] for name in _NAMES), BLACK]
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")

MARKERS_PER_LINE = 8

LEVEL_MARGIN = 0.3
"""A level is drawn if it lies at most this share of the points' range beyond them."""


def style(number: int) -> Style:
    """Return the look of a group by its place.

    From the ninth group on, colours repeat with other dashes and markers, so 32 groups differ.
    """
    turn, place = divmod(number, len(_COLORS))
    marker = _MARKERS[(place + 3 * turn) % len(_MARKERS)]
    return Style(_COLORS[place], _DASHES[(place + turn) % len(_DASHES)], marker)


def marked(points: int, number: int, groups: int) -> slice:
    """Return which points of a group's line have a marker; groups have theirs at other places."""
    every = max(1, points // MARKERS_PER_LINE)
    return slice(number * every // max(1, groups), None, every)


@dataclass(frozen=True)
class Line:
    """A group's curve, its band (empty or NaN for none), and x and y of each seed's curve."""

    group: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    seeds: list[tuple[list[float], list[float]]] = field(default_factory=list)

    @property
    def has_band(self) -> bool:
        """Whether it has a band."""
        return bool(self.low) and not math.isnan(self.low[0])


@dataclass(frozen=True)
class LineChart:
    """Curves of several groups.

    Attributes:
        env: the environment, or empty.
        log: whether the y axis is logarithmic; values of 0 and below are then left out.
        level: value of a horizontal line, the threshold.
        y_range: None to fit the points.
        steps: whether to draw step functions.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    env: str = ""
    log: bool = False
    level: float | None = None
    y_range: tuple[float, float] | None = None
    steps: bool = False


@dataclass(frozen=True)
class Dot:
    """A number of a group, its interval (NaN for none), and the numbers of single runs."""

    group: str
    text: str
    value: float
    low: float = math.nan
    high: float = math.nan
    seeds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class DotChart:
    """Numbers with intervals, one row each; `level` is the value of a vertical line."""

    title: str
    x_label: str
    dots: list[Dot]
    env: str = ""
    level: float | None = None
    x_range: tuple[float, float] | None = None


Chart = LineChart | DotChart


@dataclass(frozen=True)
class Figure:
    """Charts side by side: four if they are narrow, else three."""

    name: str
    title: str
    caption: str
    charts: Sequence[Chart]
    narrow: bool = False


def extent(chart: Chart, axis: str) -> tuple[float, float]:
    """Return the range of an axis, `x` or `y`: the one that was set, or the data with a margin."""
    log = isinstance(chart, LineChart) and chart.log and axis == "y"
    fixed = chart.x_range if isinstance(chart, DotChart) else chart.y_range if axis == "y" else None
    if fixed is not None:
        return fixed
    finite = [n for n in _numbers(chart, axis) if math.isfinite(n) and (n > 0 or not log)]
    if not finite:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(finite), max(finite)
    if isinstance(chart, LineChart) and axis == "x":
        return (min(0.0, low), high if high > low else low + 1)
    if chart.level is not None:
        reach = LEVEL_MARGIN * (high - low) or abs(high)
        if low - reach <= chart.level <= high + reach:
            low, high = min(low, chart.level), max(high, chart.level)
    if log:
        return low / 1.3, high * 1.3
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _numbers(chart: Chart, axis: str) -> list[float]:
    if isinstance(chart, DotChart):
        return [n for dot in chart.dots for n in (dot.value, dot.low, dot.high, *dot.seeds)]
    if axis == "x":
        return [n for line in chart.lines for n in chain(line.x, *(x for x, _ in line.seeds))]
    ys = (chain(line.y, line.low, line.high, *(y for _, y in line.seeds)) for line in chart.lines)
    return list(chain.from_iterable(ys))


def level_note(chart: LineChart) -> str:
    """Return a note for the upper edge of a chart if the level lies above it, or nothing."""
    is_above = chart.level is not None and chart.level > extent(chart, "y")[1]
    return f"threshold {chart.level:,.4g} is above" if is_above else ""


def ticks(low: float, high: float, log: bool = False, most: int = 6) -> list[float]:
    """Return at most `most` round numbers within an interval.

    On a logarithmic axis they are powers of ten, with 2 and 5 in between if those are few.
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
    """Return a number as it is written at an axis: 20k, 1.5M, 0.01, 1e−5."""
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            number = value / (unit if letter != "k" else 1e3)
            return f"{number:g}{letter}".replace("-", "−")
    if size and size < 1e-3:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{float(f'{value:.6g}'):g}".replace("-", "−")


def wrap(text: str, width: int) -> list[str]:
    """Return a label in lines of limited width; a long pair `FIRST > SECOND` breaks before `>`."""
    if len(text) <= width:
        return [text]
    first, arrow, second = text.partition(" > ")
    return [*textwrap.wrap(first, width), *textwrap.wrap(arrow.lstrip() + second, width)]

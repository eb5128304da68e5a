"""Charts as SVG elements of the page."""

import html
import json
import math
import re
from pathlib import Path

import pytest

from rlkl.tools.compare import svg
from rlkl.tools.compare.charts import Dot, DotChart, Line, LineChart, style


def line_chart(y: list[float], level: float | None = None, *, log: bool = False) -> LineChart:
    line = Line("b", [float(x) for x in range(len(y))], y)
    return LineChart("T", "steps", "return", [line], level=level, log=log, y_range=(1.0, 100.0))


def path_of(drawn: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'class="line"[^>]* d="M([^"]*)"', drawn)
    numbers = [float(text) for text in path.replace("L", " ").split()]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_points_are_placed_within_the_frame() -> None:
    drawn = svg.draw(line_chart([1.0, 50.5, 100.0, 1000.0, math.nan]), ["a", "b"])
    (data,) = re.findall(r'data-chart="([^"]*)"', drawn)
    frame = json.loads(html.unescape(data))
    assert (frame["x"], frame["lines"][0]["group"]) == ([0, 4], 1)
    assert frame["lines"][0]["y"] == [1, 50.5, 100, 1000, None]
    left, right = frame["left"], frame["right"]
    top, bottom = frame["top"], frame["bottom"]
    places = [(left + (right - left) * x / 4, y) for x, y in
              ((0, bottom), (1, (top + bottom) / 2), (2, top), (3, top))]  # fmt: skip
    assert path_of(drawn) == [pytest.approx(place, abs=0.06) for place in places]


def test_logarithmic_axis_leaves_out_zeros() -> None:
    low, middle, high = path_of(svg.draw(line_chart([1.0, 0.0, 10.0, 100.0], log=True), ["b"]))
    assert middle[1] == pytest.approx((low[1] + high[1]) / 2, abs=0.1)


@pytest.mark.parametrize(("level", "drawn"), [(50.0, True), (200.0, False), (None, False)])
def test_level_beyond_the_chart_is_only_written(level: float | None, drawn: bool) -> None:
    shown = svg.draw(line_chart([1.0, 2.0], level), ["b"])
    assert ('class="level"' in shown) == drawn
    assert ("threshold 200 is above" in shown) == (level == 200)


def test_dot_has_a_description_and_a_tip() -> None:
    dots = [Dot("a", "a > <b>", 0.5, 0.25, 0.75, [0.4, 0.6]), Dot("b", "b", 1.0)]
    drawn = svg.draw(DotChart("T", "score", dots), ["b", "a"])
    assert 'aria-label="T, score: a &gt; &lt;b&gt; 0.5 (0.25 to 0.75); b 1"' in drawn
    assert "<title>a &gt; &lt;b&gt;: 0.5 [0.25, 0.75]</title>" in drawn
    assert re.findall(r'<g class="(g\d)"', drawn) == ["g1", "g0"]
    assert (drawn.count('class="seed"'), drawn.count('class="interval"')) == (2, 1)


def test_long_texts_are_written_above_their_rows() -> None:
    short, long = (DotChart("T", "x", [Dot("a", text, 1.0)]) for text in ("a", "word " * 20))
    assert svg.draw(short, ["a"]).count('text-anchor="end"') == 1
    drawn = svg.draw(long, ["a"], narrow=True)
    assert drawn.count('class="row"') > 1
    assert 'text-anchor="end"' not in drawn


def test_page_has_the_shape_of_every_marker() -> None:
    shapes = re.findall(
        r'<(?:circle|path) id="(\w+)"', Path(svg.__file__).with_name("head.html").read_text()
    )
    used = {re.findall(r'href="#(\w+)"', svg.sample(style(number)))[0] for number in range(32)}
    assert used == set(shapes)

"""Figures of a comparison."""

import math
from pathlib import Path

from comparisons import FINALS, compared
from made_runs import make_grid, make_run

from rlkl.tools.compare.charts import DotChart, LineChart, extent
from rlkl.tools.compare.figures import figures


def test_many_pairs_are_reduced_to_the_best_group(tmp_path: Path) -> None:
    for place in range(9):
        make_run(tmp_path / str(place), [float(place)] * 2, settings={"gamma": 0.9 + place / 100})
    found = compared(tmp_path)
    assert len(found.tables["improvement"]) == 36
    (figure,) = (figure for figure in figures(found) if figure.name == "improvement")
    (chart,) = figure.charts
    assert isinstance(chart, DotChart)
    assert len(chart.dots) == 8
    assert {dot.group for dot in chart.dots} == {"ppo_clip gamma=0.98"}
    assert "those with ppo_clip gamma=0.98 are drawn" in figure.caption


def test_axes_include_everything_drawn(tmp_path: Path) -> None:
    found = compared(make_grid(tmp_path, FINALS))
    for figure in figures(found):
        for chart in figure.charts:
            low, high = extent(chart, "y" if isinstance(chart, LineChart) else "x")
            assert math.isfinite(low)
            assert low < high
            if isinstance(chart, DotChart):
                assert all(low <= dot.value <= high for dot in chart.dots)

"""Figures of a comparison, and how they are drawn."""

import itertools
import math
from pathlib import Path

import pytest
from comparisons import FINALS, compared
from made_runs import make_grid, make_run

from rlkl.tools.compare.charts import DotChart, LineChart, extent
from rlkl.tools.compare.drawing import draw
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


@pytest.mark.slow
def test_figures_fit_many_groups_with_long_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    details = {"gamma": 0.5, "gae_lambda": 0.5, "rollout_steps": 64, "scale_rewards": True,
               "normalize_observations": True, "algo.entropy_coefficient": 0.1}  # fmt: skip
    each = [{}, *({key: value} for key, value in details.items()), details]
    for algo, (place, settings) in itertools.product(("ppo_clip", "trpo"), enumerate(each)):
        folder = tmp_path / f"{algo}{place}"
        make_run(folder, [1.0, float(place)], algo=algo, settings=settings)
    found = compared(tmp_path)
    assert len(found.labels) == 16
    for figure in figures(found):
        drawing = draw(figure, found.labels)  # warns, which is an error here, if it does not fit
        drawing.draw_without_rendering()
        renderer = FigureCanvasAgg(drawing).get_renderer()
        page, panels = drawing.bbox, [axes for axes in drawing.axes if axes.get_visible()]
        for axes in panels:
            assert axes.bbox.width > 100
            assert axes.bbox.height > 100
            for part in (axes.title, axes.xaxis, axes.yaxis):
                box = part.get_tightbbox(renderer)
                assert page.x0 - 1 <= box.x0
                assert box.x1 <= page.x1 + 1
                assert page.y0 - 1 <= box.y0
                assert box.y1 <= page.y1 + 1
            # Texts beside dots do not overlap.
            rows = sorted(
                (text.get_window_extent(renderer) for text in axes.get_yticklabels()),
                key=lambda box: box.y0,
            )
            if any(isinstance(chart, DotChart) for chart in figure.charts):
                assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(rows))
        for legend in drawing.legends:
            box = legend.get_window_extent(renderer)
            assert page.x0 - 1 <= box.x0
            assert box.x1 <= page.x1 + 1
            assert box.y1 <= min(axes.bbox.y0 for axes in panels)


@pytest.mark.slow
def test_dollars_in_names_make_no_formula(tmp_path: Path) -> None:
    text = pytest.importorskip("matplotlib.text")
    env = r"of $\frac$"
    for algo in ("ppo_clip", "trpo"):
        make_run(tmp_path / algo, [1.0, 2.0], env=env, algo=algo,
                 settings={"policy.actor_hidden_sizes": env})  # fmt: skip
    found = compared(tmp_path)
    for figure in figures(found):
        drawing = draw(figure, found.labels)
        drawing.draw_without_rendering()
        assert not any(env in letters.get_text() for letters in drawing.findobj(text.Text))

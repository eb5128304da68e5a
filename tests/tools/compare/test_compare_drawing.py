"""Figures drawn with matplotlib: sizes, texts."""

import itertools
from pathlib import Path

import pytest
from comparisons import compared
from made_runs import make_run

from rlkl.tools.compare.charts import DotChart
from rlkl.tools.compare.drawing import draw
from rlkl.tools.compare.figures import figures


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

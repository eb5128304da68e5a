"""The page of a study: points of its charts, and how it looks in a browser."""

import math
import re
from pathlib import Path

import pytest
from browsing import Pages
from made_studies import SPACE, FakeLearner, failing_curve, run, study_in

from rlkl.tools.tuning.page import along, history, write_page
from rlkl.tools.tuning.space import Choice, Interval
from rlkl.tools.tuning.study import Trial

pytest.importorskip("optuna")


def trial(number: int, state: str, value: float, **params: float | str) -> Trial:
    texts = {key: str(param) for key, param in params.items()}
    return Trial(number, state, texts, params, value, {100: value}, [], "", 1.0)


TRIALS = [
    trial(1, "complete", 0.0, lr=1e-4, net="mlp"),
    trial(2, "failed", math.nan, lr=1e-3, net="mlp"),
    trial(3, "complete", 100.0, lr=1e-2, net="gru"),
    trial(4, "pruned", 50.0, lr=1e-2, net="gru"),
]


def points(chart: str) -> list[tuple[str, float, float]]:
    """Shape and position of each trial."""
    found = re.findall(r'href="#(\w+)" transform="translate\(([\d.]+) ([\d.]+)\)', chart)
    return [(shape, float(x), float(y)) for shape, x, y in found]


def test_trials_have_places_on_a_log_axis() -> None:
    chart = along("lr", Interval(1e-4, 1e-2, log=True), TRIALS)
    shapes, x, y = zip(*points(chart), strict=True)
    assert shapes == ("circle", "cross", "circle", "down")
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert x[2] == x[3]
    # 285 high; the data from 14 to 243 hold values from -6 to 106.
    assert y == pytest.approx((230.7, 237, 26.3, 128.5), abs=0.06)
    assert "trial 3, complete: 100; lr=0.01, net=gru" in chart
    assert "trial 2, failed: no return; lr=0.001" in chart


def test_choices_have_a_place_each() -> None:
    chart = along("net", Choice(("gru", "mlp")), TRIALS)
    x = [place for _, place, _ in points(chart)]
    assert x[0] == x[1] > x[2] == x[3]
    assert [">gru<" in chart, ">mlp<" in chart] == [True, True]


def test_line_shows_best_complete_trial() -> None:
    shown = history([*TRIALS, trial(5, "pruned", 500.0)])
    first, second, third, fourth, fifth = (place[1:] for place in points(shown))
    (line,) = re.findall(r'class="line" stroke="\S+" d="([^"]+)"', shown)
    places = [float(number) for number in re.findall(r"[\d.]+", line)]
    best = third[1]
    assert places == [*first, second[0], first[1], *third, fourth[0], best, fifth[0], best]


def test_trials_without_the_key_are_left_out() -> None:
    chart = along("lr", Interval(1e-4, 1e-2), [*TRIALS, trial(5, "failed", 1)])
    assert len(points(chart)) == 4


def test_page_names_trials_and_escapes_text(tmp_path: Path, fake: type[FakeLearner]) -> None:
    fake.curve = failing_curve(4, "<script>alert(1)</script>\x1b[31m")
    study = study_in(tmp_path / "a", trials=2, seeds=2)
    run(study)
    write_page(study, tmp_path, "Tuning <x>", "rlkl tune 'a&b'", ["    rlkl train y", "With:"])
    text = (tmp_path / "report.html").read_text()
    assert "<h1>Tuning &lt;x&gt;</h1>" in text
    assert "rlkl tune &#39;a&amp;b&#39;" in text
    assert "2 of 2 trials: 1 complete, 0 pruned, 1 failed; 2 seeds each" in text
    assert "<p><code>rlkl train y</code></p>" in text
    assert "<p>With:</p>" in text
    assert "ValueError: &lt;script&gt;" in text
    assert "<script" not in text
    assert "\x1b" not in text
    assert "Importance" not in text  # fewer than 8 complete trials
    assert "http" not in text


def test_page_without_values_has_no_charts(tmp_path: Path, fake: type[FakeLearner]) -> None:
    fake.curve = lambda config, steps: 1 / 0
    study = study_in(tmp_path / "a", trials=2)
    run(study)
    write_page(study, tmp_path, "x", "y")
    text = (tmp_path / "report.html").read_text()
    assert "No trial was completed, so there is no best one." in text
    assert "<figure" not in text


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_width_of_the_screen(
    width: int, pages: Pages, tmp_path: Path, fake: type[FakeLearner]
) -> None:
    study = study_in(tmp_path / "a", SPACE, trials=20, pruner="none")
    run(study)
    long = "rlkl tune " + " ".join(f"'algo.key_{n}=interval(0.0001,0.01)'" for n in range(9))
    write_page(study, tmp_path, "Tuning ppo_clip on CartPole-v1", long, [f"    {long}"])
    shown = pages.open((tmp_path / "report.html").as_uri(), width=width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    charts_shown = shown.locator("figure svg.chart")
    assert charts_shown.count() == 2 + len(SPACE) + 1
    for number in range(charts_shown.count()):
        box = charts_shown.nth(number).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    assert shown.screenshot(path=tmp_path / "page.png", full_page=True)

"""The report of a study: warnings, tables and figures."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_studies import SPACE, FakeLearner, failing_curve, run, study_in

from rlkl.tools.tuning.report import _history, _values, warnings, write_report
from rlkl.tools.tuning.space import Interval
from rlkl.tools.tuning.study import Trial

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("gamma", "is_near"), [(0.5, True), (0.505, True), (0.7, False), (0.895, True), (0.9, True)]
)
def test_best_value_near_an_edge_is_reported(gamma: float, is_near: bool) -> None:
    study: Any = SimpleNamespace(
        config=SimpleNamespace(seeds=5), space={"gamma": Interval(0.5, 0.9)}, first=None
    )
    values, params = {"gamma": str(gamma)}, {"gamma": gamma}
    trial = Trial(1, "complete", values, params, 1.0, {}, [1.0], "", 0.0)
    assert any("is at the edge" in line for line in warnings(study, [trial])) == is_near


@pytest.mark.slow
def test_report_contains_trials_and_warnings(tmp_path: Path, fake: type[FakeLearner]) -> None:
    fake.curve = failing_curve(3, "it broke")
    first = {"gamma": 0.75, "rollout_steps": 4, "algo.clip_ratio": "0.3"}
    study = study_in(tmp_path / "a", first=first, trials=2, seeds=1)
    FakeLearner.made = [None]  # type: ignore[list-item]  # so that trial 1 uses the second learner
    trials = run(study)
    write_report(study, tmp_path, "rlkl tune x", ["    rlkl train y"])
    page = (tmp_path / "report.md").read_text()
    assert "2 of 2 trials: 1 complete, 0 pruned, 1 failed; 1 seed each" in page
    assert "Trial 1: 502; your config, trial 1: 502." in page
    assert "- `gamma=0.75`" in page
    assert "- 2: ValueError: it broke" in page
    assert "    rlkl train y" in page
    assert "| 1 | complete | 502 | 1,000 | 0.75 | 4 | 0.3 |" in page
    found = " ".join(warnings(study, trials))
    for part in ("the value is optimistic", "Values of 1 seed vary", "1 of 2 trials failed"):
        assert part in found
    assert "edge" not in found
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["complete", "failed"]
    assert (rows[0]["value"], rows[0]["env_steps"], rows[0]["gamma"]) == ("502.0", "1000", "0.75")
    assert rows[1]["reason"] == "ValueError: it broke"
    assert (tmp_path / "history.png").exists()
    assert not (tmp_path / "importance.png").exists()


def test_pruned_trials_are_drawn_at_last_value() -> None:
    def trial(number: int, state: str, value: float, gamma: float) -> Trial:
        texts = {"gamma": str(gamma), "rollout_steps": "4", "algo.clip_ratio": "0.2"}
        params = {"gamma": gamma, "rollout_steps": 4, "algo.clip_ratio": "0.2"}
        return Trial(number, state, texts, params, value, {100: value}, [], "", 1.0)

    trials = [
        trial(1, "complete", 30.0, 0.6),
        trial(2, "pruned", 12.0, 0.7),
        trial(3, "failed", math.nan, 0.8),
        trial(4, "pruned", -5.0, 0.9),
    ]

    def points(axes: Any, marker: str) -> list[list[float]]:
        (line,) = (line for line in axes.lines if line.get_marker() == marker)
        return [list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))]

    history, values = _history(trials, 1).axes[0], _values(trials, SPACE).axes
    assert points(history, "o") == [[1.0], [30.0]]
    assert points(history, "v") == [[2.0, 4.0], [12.0, -5.0]]
    assert points(history, "x") == [[3.0], [0.03]]  # relative to the height
    assert points(values[0], "v") == [[0.7, 0.9], [12.0, -5.0]]
    assert points(values[2], "v") == [[1.0, 1.0], [12.0, -5.0]]
    (line,) = (line for line in history.lines if line.get_marker() == "v")
    assert "pruned" in str(line.get_label())

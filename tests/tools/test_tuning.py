"""Studies: sampled, pruned and failed trials, interruptions, and the report."""

import csv
import itertools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlkl
from rlkl.tools.tuning import training as module
from rlkl.tools.tuning.report import _history, _values, warnings, write_report
from rlkl.tools.tuning.space import Choice, Interval, Space
from rlkl.tools.tuning.study import Study, Trial, TuneConfig, best_of, importances
from rlkl.tools.tuning.training import Plan, Stop, train, train_in_parallel
from rlkl.utils.errors import ConfigError

optuna = pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

SPACE: Space = {
    "gamma": Interval(0.5, 0.9),
    "rollout_steps": Interval(2, 8, step=2),
    "algo.clip_ratio": Choice(("0.1", "0.2", "0.3")),
}


def configure(values: dict[str, str]) -> rlkl.TrainConfig:
    return rlkl.TrainConfig(
        algo=rlkl.PPOClipConfig(clip_ratio=float(values.get("algo.clip_ratio", 0.2))),
        gamma=float(values.get("gamma", 0.5)),
        rollout_steps=int(values.get("rollout_steps", 4)),
        total_env_steps=1000,
        seed=5,
    )


class FakeLearner:
    """100 steps per iteration; the return is γ · steps, minus 10 for the second seed."""

    made: list["FakeLearner"]
    curve: Callable[[rlkl.TrainConfig, int], float]

    def __init__(self, config: rlkl.TrainConfig) -> None:
        self.config, self.env_steps, self.closed = config, 0, False
        self.tracker = self  # its `return_mean`
        FakeLearner.made.append(self)

    def close(self) -> None:
        self.closed = True

    def iterate(self) -> None:
        self.env_steps += 100

    @property
    def return_mean(self) -> float:
        return FakeLearner.curve(self.config, self.env_steps)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeLearner]:
    FakeLearner.made = []
    FakeLearner.curve = lambda config, steps: config.gamma * steps - 10 * (config.seed - 5)
    monkeypatch.setattr(module, "Learner", FakeLearner)
    return FakeLearner


def study_in(folder: Path, space: Space = SPACE, first: Any = None, **settings: Any) -> Study:
    folder.mkdir(exist_ok=True)
    settings = {"trials": 4, "startup_trials": 2, "reports": 10} | settings
    return Study(folder, TuneConfig(**settings), space, 5, configure, first)


def never() -> bool:
    return False


def run(study: Study, stop: Stop = never) -> list[Trial]:
    study.run(stop, lambda trial, best: None)
    return study.trials


def timeless(trials: list[Trial]) -> list[Trial]:
    """Return trials without their durations."""
    return [replace(trial, seconds=0.0) for trial in trials]


def test_texts_and_positions_of_intervals_and_choices() -> None:
    rates = Interval(1e-4, 1e-2, log=True)
    assert rates.text(1e-3) == "0.001"
    assert rates.position(1e-3) == pytest.approx(0.5)
    assert str(rates) == "numbers from 0.0001 to 0.01, logarithmic"
    steps = Interval(2, 8, step=2)
    assert (steps.text(4.0), steps.corners, steps.position(8)) == ("4", ("2", "8"), 1)
    assert str(steps) == "whole numbers from 2 to 8 in steps of 2"
    assert Choice(("a", "b")).corners == ("a", "b")
    for low, high, log in ((1, 1, False), (2, 1, False), (0, 1, True), (0, math.inf, False)):
        with pytest.raises(ConfigError):
            Interval(low, high, log)
    with pytest.raises(ConfigError, match="at least two"):
        Choice(("a", "a"))


def test_trial_value_is_mean_over_seeds(tmp_path: Path, fake: type[FakeLearner]) -> None:
    first = {"gamma": 0.75, "rollout_steps": 4, "algo.clip_ratio": "0.3"}
    study = study_in(tmp_path / "a", first=first, trials=2, pruner="none")
    trial, other = run(study)
    assert trial.values == {"gamma": "0.75", "rollout_steps": "4", "algo.clip_ratio": "0.3"}
    assert (trial.state, trial.value, trial.returns) == ("complete", 745.0, [750.0, 740.0])
    assert list(trial.curve) == [100 * mark for mark in range(1, 11)]
    assert list(trial.curve.values())[:2] == [70.0, 145.0]
    assert other.values["rollout_steps"] in ("2", "4", "6", "8")
    assert 0.5 <= float(other.values["gamma"]) <= 0.9
    assert [learner.config.seed for learner in fake.made] == [5, 6, 5, 6]
    assert [learner.config.gamma for learner in fake.made[:2]] == [0.75, 0.75]
    assert all(learner.closed for learner in fake.made)
    best = best_of(study.trials)
    assert best is not None
    assert best.value == max(trial.value, other.value)


def test_best_trial_is_complete() -> None:
    def trial(number: int, state: str, value: float) -> Trial:
        return Trial(number, state, {}, {}, value, {}, [], "", 0.0)

    pruned, failed = trial(1, "pruned", 9.0), trial(2, "failed", 8.0)
    complete = [trial(3, "complete", 1.0), trial(4, "complete", 2.0)]
    assert best_of([pruned, failed, *complete]) == complete[1]
    assert best_of([pruned, failed]) is None


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


def test_trial_below_median_is_pruned(tmp_path: Path, fake: type[FakeLearner]) -> None:
    def curve(config: rlkl.TrainConfig, steps: int) -> float:
        number = (len(fake.made) - 1) // 2  # of the trial
        return (3.0, 1.0, 2.0, 4.0, 2.25)[number] * steps

    fake.curve = curve
    found = run(study_in(tmp_path / "a", trials=5))
    # Medians before the third, fourth and fifth: 2, 2 and 2.5. The first reports prune nothing.
    assert [trial.state for trial in found] == [
        "complete", "complete", "complete", "complete", "pruned",
    ]  # fmt: skip
    assert max(found[-1].curve) == 200
    assert found[-1].value == 450.0


def test_failed_trial_is_recorded_and_study_continues(
    tmp_path: Path, fake: type[FakeLearner]
) -> None:
    def curve(config: rlkl.TrainConfig, steps: int) -> float:
        if len(fake.made) <= 2:
            raise ValueError("it broke\nin two lines")
        return math.nan if len(fake.made) <= 4 or steps < 500 else 1.0

    fake.curve = curve
    first, second, third = run(study_in(tmp_path / "a", trials=3))
    assert (first.state, first.reason) == ("failed", "ValueError: it broke in two lines")
    assert second.state == "failed"
    assert "no episode ended" in second.reason
    assert math.isnan(second.value)
    assert third.state == "complete"
    assert min(third.curve) == 500  # before that there was nothing to report
    assert all(learner.closed for learner in fake.made)


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_interrupted_study_gives_the_same_trials(
    sampler: str, tmp_path: Path, fake: type[FakeLearner]
) -> None:
    settings = {"trials": 6, "sampler": sampler}
    whole = run(study_in(tmp_path / "whole", **settings))
    assert len({trial.values["gamma"] for trial in whole}) == 6
    checks = itertools.count()  # each trial makes at most 20, so the fourth is stopped
    part = run(study_in(tmp_path / "parts", **settings), lambda: next(checks) >= 60)
    assert 2 <= len(part) < 6
    killed = study_in(tmp_path / "parts", **settings)
    killed.study.ask()  # and its process is killed while it writes a line
    with (tmp_path / "parts" / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":')
    (tmp_path / "parts" / "journal.log.lock").symlink_to("journal.log")
    ended = run(study_in(tmp_path / "parts", **settings))
    assert timeless(ended) == timeless(whole)
    assert timeless(ended)[: len(part)] == timeless(part)
    more = run(study_in(tmp_path / "parts", **settings | {"trials": 7}))
    assert timeless(more)[:6] == timeless(whole)
    assert len(more) == 7


def test_first_trial_uses_users_config(tmp_path: Path, fake: type[FakeLearner]) -> None:
    first = {"gamma": 0.75, "rollout_steps": 4, "algo.clip_ratio": "0.3"}
    settings: dict[str, Any] = {"trials": 3, "first": first}
    whole = run(study_in(tmp_path / "whole", **settings))
    assert whole[0].params == first
    for name in ("a", "b"):
        looks = itertools.count()
        study = study_in(tmp_path / name, **settings)
        assert run(study, lambda: next(looks) > 3) == []  # noqa: B023 (called at once)
    assert timeless(run(study_in(tmp_path / "a", **settings))) == timeless(whole)
    killed = study_in(tmp_path / "b", **settings)
    killed.study.enqueue_trial(first)  # and its process is killed before it starts the trial
    assert timeless(run(study_in(tmp_path / "b", **settings))) == timeless(whole)


def test_damaged_study_is_named(tmp_path: Path) -> None:
    study_in(tmp_path / "a")
    journal = tmp_path / "a" / "journal.log"
    journal.write_bytes(b"garbage\n" + journal.read_bytes())
    with pytest.raises(ConfigError, match=r"journal\.log cannot be read .*; restore it"):
        study_in(tmp_path / "a")


def test_parallel_random_trials_equal_sequential_ones(
    tmp_path: Path, fake: type[FakeLearner]
) -> None:
    settings = {"trials": 5, "sampler": "random", "pruner": "none"}
    sequential = run(study_in(tmp_path / "sequential", **settings))
    parallel = run(study_in(tmp_path / "parallel", parallel=3, **settings))
    assert timeless(parallel) == timeless(sequential)
    assert multiprocessing.active_children() == []


def test_interrupted_parallel_study_gives_same_trials(
    tmp_path: Path, fake: type[FakeLearner]
) -> None:
    settings = {"trials": 8, "parallel": 3, "startup_trials": 3}
    whole = run(study_in(tmp_path / "whole", **settings))
    assert len({trial.values["gamma"] for trial in whole}) == 8
    assert {trial.state for trial in whole[:3]} == {"complete"}  # nothing to compare with yet
    cut, looks = study_in(tmp_path / "parts", **settings), itertools.count()
    part = run(cut, lambda: len(cut.trials) == 3 and next(looks) > 3)  # while the next three run
    assert timeless(part) == timeless(whole)[:3]
    assert multiprocessing.active_children() == []
    assert timeless(run(study_in(tmp_path / "parts", **settings))) == timeless(whole)


def test_last_report_prunes_nothing(fake: type[FakeLearner]) -> None:
    plan = Plan(configure({}), seeds=1, reports=5)
    for refused, state, value in ((5, "complete", 500.0), (4, "pruned", 400.0)):

        def should_continue(report: int, value: float, refused: int = refused) -> bool:
            return report != refused

        outcome = train(plan, should_continue, never)
        assert (outcome.state, outcome.value) == (state, value)


def test_outcomes_keep_the_order_of_plans(fake: type[FakeLearner]) -> None:
    def curve(config: rlkl.TrainConfig, steps: int) -> float:
        time.sleep(0.2 if config.gamma == 0.5 else 0)
        return config.gamma * steps

    fake.curve = curve
    plans = [Plan(configure({"gamma": text}), 1, 2) for text in ("0.5", "0.6", "0.7")]
    outcomes = train_in_parallel(plans, lambda *_: True, never)
    assert [outcome.value for outcome in outcomes] == [500, 600, 700]


def test_parallel_trials_stop_between_reports(
    fake: type[FakeLearner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "iterate", lambda self: time.sleep(0.01))  # makes no steps
    looks = itertools.count()
    plans = [Plan(configure({}), 1, 2)] * 2
    outcomes = train_in_parallel(plans, lambda *_: True, lambda: next(looks) > 1)
    assert [outcome.state for outcome in outcomes] == ["stopped", "stopped"]
    assert multiprocessing.active_children() == []


def test_killed_process_fails_only_its_trial(tmp_path: Path, fake: type[FakeLearner]) -> None:
    def curve(config: rlkl.TrainConfig, steps: int) -> float:
        if config.gamma == 0.75 and steps == 300:
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == 500 and config.gamma < 0.75:
            raise ValueError("it broke")
        return config.gamma * steps

    fake.curve = curve
    first = {"gamma": 0.75, "rollout_steps": 4, "algo.clip_ratio": "0.3"}
    found = run(study_in(tmp_path / "a", first=first, trials=4, parallel=4, pruner="none"))
    assert found[0].state == "failed"
    assert "its process was killed by SIGKILL" in found[0].reason
    assert found[0].curve == {100: 75.0, 200: 150.0}
    for trial in found[1:]:
        low = trial.params["gamma"] < 0.75
        assert trial.reason == ("ValueError: it broke" if low else "")
        assert trial.state == ("failed" if low else "complete")
    assert {trial.state for trial in found[1:]} == {"failed", "complete"}


@pytest.mark.slow
def test_influential_key_is_tuned_and_important(tmp_path: Path, fake: type[FakeLearner]) -> None:
    study = study_in(tmp_path / "a", trials=60, startup_trials=10, pruner="none")
    trials = run(study)
    shares = importances(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["gamma"] > 0.8  # only gamma determines the return
    random, guided = trials[:10], trials[10:]
    high = [float(trial.values["gamma"]) > 0.8 for trial in guided]
    assert sum(high) / len(high) > 0.5  # a quarter at random
    best = best_of(trials)
    assert best is not None
    assert best.value > max(trial.value for trial in random)
    write_report(study, tmp_path, "rlkl tune ...", ["    use it"])
    page = (tmp_path / "report.md").read_text()
    assert "gamma=0.8" in page or "gamma=0.9" in page
    assert "is at the edge of numbers from 0.5 to 0.9" in page
    for name in ("history", "importance", "values"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert f"({name}.png)" in page


@pytest.mark.slow
def test_report_contains_trials_and_warnings(tmp_path: Path, fake: type[FakeLearner]) -> None:
    def curve(config: rlkl.TrainConfig, steps: int) -> float:
        if len(fake.made) == 3:
            raise ValueError("it broke")
        return 0.5 * steps + len(fake.made)

    fake.curve = curve
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

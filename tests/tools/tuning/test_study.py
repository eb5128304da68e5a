"""Studies: sampled, pruned and failed trials, interruptions, and the report."""

import itertools
import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from made_studies import FakeLearner, run, study_in, timeless

import rlkl
from rlkl.tools.tuning.report import write_report
from rlkl.tools.tuning.study import Trial, best_of, importances
from rlkl.utils.errors import ConfigError

optuna = pytest.importorskip("optuna")
pytest.importorskip("matplotlib")


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

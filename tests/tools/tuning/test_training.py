"""Training of a trial: pruned, side by side, and stopped."""

import itertools
import multiprocessing
import time

import pytest
from made_studies import FakeLearner, configure, never

import rlkl
from rlkl.tools.tuning.training import Plan, train, train_in_parallel


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

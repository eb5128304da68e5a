"""Start and end of schedules."""

import pytest

from rlkl.numerics.schedules import SCHEDULES, scheduled


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_start_at_the_value(schedule: str) -> None:
    assert scheduled(0.3, schedule, 0.0) == 0.3


def test_linear_schedule_ends_at_zero() -> None:
    assert scheduled(0.3, "linear", 0.5) == 0.15
    assert scheduled(0.3, "linear", 1.0) == 0.0
    assert scheduled(0.3, "constant", 1.0) == 0.3


def test_warmup_rises_from_one_percent() -> None:
    assert scheduled(0.3, "constant", 0.0, 0.1) == pytest.approx(0.003)
    assert scheduled(0.3, "constant", 0.05, 0.1) == pytest.approx(0.1515)
    assert scheduled(0.3, "constant", 0.1, 0.1) == 0.3
    assert scheduled(0.3, "linear", 0.1, 0.2) == pytest.approx(0.13635)
    assert scheduled(0.3, "linear", 0.5, 0.2) == 0.15

"""Schedules: where they start, where they end."""

import pytest

from rlkl.numerics.schedules import SCHEDULES, scheduled


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_starts_at_the_value(schedule: str) -> None:
    assert scheduled(0.3, schedule, 0.0) == 0.3


def test_linear_is_half_way_down_at_half_time_and_0_at_the_end() -> None:
    assert scheduled(0.3, "linear", 0.5) == 0.15
    assert scheduled(0.3, "linear", 1.0) == 0.0
    assert scheduled(0.3, "constant", 1.0) == 0.3

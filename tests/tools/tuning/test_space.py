"""Intervals and choices of a search space."""

import math

import pytest

from rlkl.tools.tuning.space import Choice, Interval
from rlkl.utils.errors import ConfigError


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

"""Multipliers: their steps, bounds and state."""

import math

import pytest

from rlkl.algos.multipliers import HIGHEST, LOWEST, Multipliers


def test_steps_multiply_in_the_direction_of_descent() -> None:
    multipliers = Multipliers([2.0, 0.5], learning_rate=0.1)
    multipliers.step([3.0, -1e-4])
    # Adam's first step has the length of its learning rate, here of the logarithm.
    expected = [2 * math.exp(-0.1), 0.5 * math.exp(0.1)]
    assert multipliers.values == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_derivatives_change_nothing(bad: float) -> None:
    multipliers = Multipliers([2.0, 0.5], learning_rate=0.1)
    multipliers.step([bad, 1.0])
    assert multipliers.values == pytest.approx([2.0, 0.5])


def test_numbers_stay_within_bounds() -> None:
    multipliers = Multipliers([1.0, 1.0], learning_rate=5.0)
    for _ in range(10):
        multipliers.step([1.0, -1.0])
    assert multipliers.values == pytest.approx([LOWEST, HIGHEST])


def test_loaded_multipliers_continue_identically() -> None:
    first, second = Multipliers([1.0], 0.1), Multipliers([7.0], 0.1)
    first.step([0.3])
    second.load_state_dict(first.state_dict())
    for multipliers in (first, second):
        multipliers.step([-0.2])
    assert second.values == first.values != [1.0]

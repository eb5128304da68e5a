"""Checks name the key, the value and what was expected."""

import math

import pytest

from rlkl.validation import ConfigError, check_choice, check_range, nearest, one_line


def test_a_value_within_its_bounds_passes() -> None:
    check_range("x", 1, at_least=1, at_most=1)
    check_range("x", 0.5, above=0, below=1)
    check_range("x", -1e300)


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [
        (0, {"above": 0}, "x=0: expected a number above 0"),
        (1, {"below": 1, "above": 0}, "x=1: expected a number above 0 and below 1"),
        (-1, {"at_least": 0}, "x=-1: expected a number at least 0"),
        (2, {"at_most": 1.5}, "x=2: expected a number at most 1.5"),
        (math.inf, {}, "x=inf: expected a number that is finite"),
        (math.nan, {"at_least": 0}, "x=nan: expected a number at least 0"),
    ],
)
def test_a_value_outside_is_named_with_its_bounds(
    value: float, bounds: dict[str, float], expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_range("x", value, **bounds)
    assert str(error.value) == expected


def test_a_choice_is_one_of_its_choices() -> None:
    check_choice("x", "linear", ["constant", "linear"])
    with pytest.raises(ConfigError) as error:
        check_choice("x", "Linaer", ["constant", "linear"])
    assert str(error.value) == ("x=Linaer: expected one of constant, linear (did you mean linear?)")


def test_nearest_is_silent_where_nothing_is_near() -> None:
    assert nearest("zzz", ["constant", "linear"]) == ""


def test_one_line_has_no_line_breaks() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"

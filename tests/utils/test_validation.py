"""Errors name the key, the value and the expectation."""

import math

import pytest

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import (
    check_choice,
    check_divides,
    check_range,
    check_text,
    nearest,
    one_line,
)


def test_value_within_bounds_passes() -> None:
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
def test_value_out_of_bounds_is_rejected(
    value: float, bounds: dict[str, float], expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_range("x", value, **bounds)
    assert str(error.value) == expected


def test_unknown_choice_suggests_the_nearest() -> None:
    check_choice("x", "linear", ["constant", "linear"])
    with pytest.raises(ConfigError) as error:
        check_choice("x", "Linaer", ["constant", "linear"])
    assert str(error.value) == ("x=Linaer: expected one of constant, linear (did you mean linear?)")


def test_huge_integers_are_compared_exactly() -> None:
    with pytest.raises(ConfigError, match=r"^x=10{400}: expected a number at most 5$"):
        check_range("x", 10**400, at_most=5)
    check_range("x", 10**400, at_least=5)


def test_text_is_no_number() -> None:
    with pytest.raises(ConfigError, match="x=two: expected a number at least 1"):
        check_range("x", "two", at_least=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "whole", "nearest_two"),
    [(7, 1024, "4 and 8"), (2000, 1024, "512 and 1024"), (3, 49, "1 and 7"), (2, 13, "1 and 13")],
)
def test_nearest_divisors_are_named(parts: int, whole: int, nearest_two: str) -> None:
    check_divides("x", 1, whole, "it")
    check_divides("x", whole, whole, "it")
    with pytest.raises(ConfigError) as error:
        check_divides("x", parts, whole, "it")
    assert str(error.value) == f"x={parts} does not divide it; the nearest that do: {nearest_two}"


def test_blank_text_and_control_characters_are_rejected() -> None:
    check_text("x", "Ünïcødé 🤖 $(x) ../..")
    for bad in ("", " ", "a\nb", "a\0", "\x1b[31m", "\udcff"):
        with pytest.raises(ConfigError) as error:
            check_text("x", bad)
        assert str(error.value).startswith(f"x={bad!r}: expected ")
        assert str(error.value).isprintable()


def test_nearest_without_similar_word_is_empty() -> None:
    assert nearest("zzz", ["constant", "linear"]) == ""


def test_one_line_has_no_line_breaks() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"


def test_one_line_escapes_and_shortens() -> None:
    assert one_line(ValueError("é \x1b[31m\0 🤖")) == r"é \x1b[31m\x00 🤖"
    assert one_line(ValueError("a " + "x" * 300 + " b")) == "a " + "x" * 300 + " b"
    shortened = "y" * 120 + "..." + "y" * 40
    assert one_line(ValueError("a " + "y" * 301 + " b")) == f"a {shortened} b"

"""Lists of numbers in the settings of experiments."""

import pytest

from rlkl.tools.experiments.base import check_numbers
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"x=\[\]: expected at least one number, such as x=\[0.01\]"),
        ([1.0, 0.0], "x=0.0: expected a number above 0"),
    ],
)
def test_empty_or_invalid_lists_are_rejected(values: list[float], message: str) -> None:
    check_numbers("x", [0.5, 2.0], above=0)
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check_numbers("x", values, above=0)

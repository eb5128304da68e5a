"""Lists of numbers in the settings of experiments."""

import pytest

from rlkl.tools.experiments.clip import ClipConfig
from rlkl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"=\[\]: expected at least one number, such as learning_rates=\[0.01\]"),
        ([1.0, 0.0], "=0.0: expected a number above 0"),
    ],
)
def test_empty_or_invalid_lists_are_rejected(values: list[float], message: str) -> None:
    assert ClipConfig(learning_rates=[0.5, 2]).learning_rates == [0.5, 2.0]
    with pytest.raises(ConfigError, match=f"^learning_rates{message}$"):
        ClipConfig(learning_rates=values)

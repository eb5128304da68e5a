"""Numbers as text."""

import math

from comparisons import NAN

from rlkl.tools.compare.text import number, spread


def test_width_of_an_interval_determines_the_digits() -> None:
    assert spread(0.7063, 0.5538, 0.8331) == "0.71 [0.55, 0.83]"
    assert spread(-1104.84, -1153.8, -1051.77) == "−1,105 [−1,154, −1,052]"
    assert spread(500, 500, 500) == "500.000 [500.000, 500.000]"
    assert spread(3.14159, NAN, NAN) == "3.14"
    assert [number(x) for x in (NAN, math.inf, 12, True, -0.5)] == ["–", "∞", "12", "yes", "−0.5"]

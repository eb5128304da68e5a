"""Search spaces: an interval or a choice for each key, with values in command-line syntax."""

import math
from dataclasses import dataclass

from rlkl.utils.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False  # uniform in the logarithm
    step: int = 0  # distance of whole numbers; 0 for real numbers

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ConfigError("expected finite bounds")
        if not self.low < self.high:
            raise ConfigError(f"expected {self.low:g} to be below {self.high:g}")
        if self.log and self.low <= 0:
            raise ConfigError(f"a logarithmic interval starts above 0, not at {self.low:g}")

    def __str__(self) -> str:
        kind = "whole numbers" if self.step else "numbers"
        apart = f" in steps of {self.step}" * (self.step > 1)
        return f"{kind} from {self.low:g} to {self.high:g}{apart}{', logarithmic' * self.log}"

    @property
    def corners(self) -> tuple[str, ...]:
        """Values that are checked before the study starts."""
        return self.text(self.low), self.text(self.high)

    def text(self, value: float) -> str:
        """Return a value in command-line syntax."""
        return repr(int(value) if self.step else float(value))

    def position(self, value: float) -> float:
        """Return the relative position of a value: 0 at `low`, 1 at `high`."""
        low, high = self.low, self.high
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Choice:
    """One of several unordered values, in command-line syntax."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < 2:
            raise ConfigError("expected at least two values that differ")

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"

    @property
    def corners(self) -> tuple[str, ...]:
        """Values that are checked before the study starts."""
        return self.values

    def text(self, value: str) -> str:
        """Return a value in command-line syntax."""
        return value


Dimension = Interval | Choice
Space = dict[str, Dimension]
"""Dimensions by key of the config."""

"""What may be tried: for each key an interval or a choice, values as a command line types them."""

import math
from dataclasses import dataclass

from rlkl.utils.validation import ConfigError


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both among them.

    Attributes:
        low: the least.
        high: the greatest.
        log: whether small and large ones are as likely: uniform in the logarithm.
        step: 0 for real numbers; else whole ones, so far apart.
    """

    low: float
    high: float
    log: bool = False
    step: int = 0

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
        """The values that are checked before anything is tried."""
        return self.text(self.low), self.text(self.high)

    def text(self, value: float) -> str:
        """Return a value as a command line has it."""
        return repr(int(value) if self.step else float(value))

    def position(self, value: float) -> float:
        """Return where a value lies, 0 at `low` and 1 at `high`."""
        low, high = self.low, self.high
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Choice:
    """One of several values, none nearer to another than the rest.

    Attributes:
        values: as a command line has them.
    """

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < 2:
            raise ConfigError("expected at least two values that differ")

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"

    @property
    def corners(self) -> tuple[str, ...]:
        """The values that are checked before anything is tried."""
        return self.values

    def text(self, value: str) -> str:
        """Return a value as a command line has it."""
        return value


Dimension = Interval | Choice
Space = dict[str, Dimension]
"""By key of the config."""

"""Made measurements for the tests of `rlkl bench`."""

from typing import Any

from rlkl.tools.bench.clock import Measurement


def measured(rate: float, **known: Any) -> Measurement:
    """Return a measurement of 100 environment steps in ten iterations."""
    values = {"startup_seconds": 2.0, "start_megabytes": 200.0, "peak_megabytes": 210.0}
    return Measurement(
        env_steps=100, iterations=10, seconds=100 / rate, optimizer_steps=4, **values | known
    )

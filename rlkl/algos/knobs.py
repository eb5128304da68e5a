"""The hyperparameter that limits the updates of each algorithm, and the values of its sweep."""

from rlkl.algos import ALGORITHMS

KNOBS = {name: algo.config.knob for name, algo in ALGORITHMS.items() if algo.config.knob}
"""The knob of each algorithm, and keys that are multiplied by the same factor."""

FACTORS = {"lowest": 0.1, "low": 10**-0.5, "default": 1.0, "high": 10**0.5, "highest": 10.0}
"""Multiples of the default: two decades, evenly spaced in their logarithm."""

LARGEST_RATIO_BOUND = 0.99
"""The bound of a ratio must be below 1, so the largest value of its sweep is this."""


def knob_value(algo: str, position: str, key: str | None = None) -> float:
    """Return the value at a position of `FACTORS`, of the knob or a key beside it; three digits."""
    key = key or KNOBS[algo][0]
    value = getattr(ALGORITHMS[algo].config(), key) * FACTORS[position]
    if key in ("clip_ratio", "ratio_bound"):
        value = min(value, LARGEST_RATIO_BOUND)
    return float(f"{value:.3g}")


def knob_settings(algo: str, position: str) -> dict[str, float | str]:
    """Return hyperparameters: the values at a position of `FACTORS`, and constant schedules."""
    defaults = vars(ALGORITHMS[algo].config()).items()
    schedules = {
        key: "constant"
        for key, value in defaults
        if key.endswith("_schedule") and value != "constant"
    }
    return schedules | {key: knob_value(algo, position, key) for key in KNOBS[algo]}


def family() -> dict[str, tuple[str, str]]:
    """Return the algorithm and the position of each option of `family=`, such as `trpo_low`."""
    return {f"{algo}_{at}": (algo, at) for algo in KNOBS for at in FACTORS}

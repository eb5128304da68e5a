"""The one hyperparameter that limits the updates of each algorithm, and the values of its sweep."""

from dataclasses import fields
from typing import Any

from rlkl.algos import ALGORITHMS

KNOBS = {
    "vanilla_pg": "learning_rate",
    "ppo_clip": "clip_ratio",
    "ppo_kl": "target_kl",
    "ppo_kl_fixed": "kl_coefficient",
    "ppo_kl_lr": "target_kl",
    "truly_ppo": "clip_kl",
    "trpo": "max_kl",
    "npg": "max_kl",
    "spo": "ratio_bound",
    "klip_ppo": "clip_ratio",
    "mdpo": "step_size",
    "fixpo": "max_state_kl",
    "vmpo": "target_kl",
    "ppo_ewma": "clip_ratio",
}
"""The hyperparameter of each algorithm; vanilla PG has no bound, so its learning rate stands in."""

FACTORS = {"lowest": 0.1, "low": 10**-0.5, "default": 1.0, "high": 10**0.5, "highest": 10.0}
"""Multiples of the default: two decades, evenly spaced in their logarithm."""

LARGEST_RATIO_BOUND = 0.99
"""The bound of a ratio must be below 1, so the largest value of its sweep is this."""


def knob_value(algo: str, position: str) -> float:
    """Return the value at a position of `FACTORS`, with three digits."""
    key = KNOBS[algo]
    value = getattr(ALGORITHMS[algo].config(), key) * FACTORS[position]
    if key in ("clip_ratio", "ratio_bound"):
        value = min(value, LARGEST_RATIO_BOUND)
    return float(f"{value:.3g}")


def constant_schedules(algo: str) -> dict[str, str]:
    """Return the overrides that keep the algorithm's step size the same over the budget."""
    defaults: dict[str, Any] = {f.name: f.default for f in fields(ALGORITHMS[algo].config)}
    linear = {key for key, value in defaults.items() if key.endswith("_schedule")}
    return {key: "constant" for key in sorted(linear) if defaults[key] != "constant"}


def family() -> dict[str, tuple[str, str]]:
    """Return the algorithm and the position of each option of `family=`, such as `trpo_low`."""
    return {f"{algo}_{at}": (algo, at) for algo in KNOBS for at in FACTORS}

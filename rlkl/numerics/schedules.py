"""Schedules of hyperparameters over a training."""

SCHEDULES = ("constant", "linear")


WARMUP_START = 0.01
"""Share of the value with which a warm-up starts."""


def scheduled(value: float, schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Return a hyperparameter's current value: constant, or linear from `value` to 0.

    The progress is the fraction of the environment steps that are done, 0 to 1. During the first
    `warmup` of it the value is also multiplied by a factor that rises linearly from 0.01 to 1.
    """
    scheduled_value = value * (1 - progress) if schedule == "linear" else value
    if progress < warmup:
        scheduled_value *= WARMUP_START + (1 - WARMUP_START) * progress / warmup
    return scheduled_value

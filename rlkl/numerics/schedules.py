"""Schedules of hyperparameters over a training."""

SCHEDULES = ("constant", "linear")


def scheduled(value: float, schedule: str, progress: float) -> float:
    """Return a hyperparameter's current value: constant, or linear from `value` to 0.

    The progress is the fraction of the environment steps that are done, 0 to 1.
    """
    return value * (1 - progress) if schedule == "linear" else value

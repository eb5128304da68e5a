"""Schedules of hyperparameters over a training."""

SCHEDULES = ("constant", "linear")


def scheduled(value: float, schedule: str, progress: float) -> float:
    """Return a hyperparameter's current value.

    Args:
        value: at the start.
        schedule: `constant`, or `linear` to 0 at the end.
        progress: fraction of the environment steps that are done, 0 to 1.
    """
    return value * (1 - progress) if schedule == "linear" else value

"""How a hyperparameter changes while the training budget is spent."""

SCHEDULES = ("constant", "linear")


def scheduled(value: float, schedule: str, progress: float) -> float:
    """Return a hyperparameter's value at a moment of training.

    Args:
        value: at the start.
        schedule: `constant`, or `linear` to 0 at the end.
        progress: environment steps made over the whole budget, 0 to 1.
    """
    return value * (1 - progress) if schedule == "linear" else value

"""Schedules of hyperparameters over a training."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, one_line

SCHEDULES = ("constant", "linear")


WARMUP_START = 0.01
"""Share of the value with which a warm-up starts."""

_registered: dict[str, Callable[[float], float]] = {}


def register_schedule(schedule: Callable[[float], float]) -> str:
    """Make a function known as a schedule, and return its name, which configs hold.

    Args:
        schedule: returns a factor of at least 0, given the fraction of the environment steps that
            are done, 0 to 1. Registering another function of the same name replaces it.

    Raises:
        ConfigError: it has no name of its own.
    """
    name = getattr(schedule, "__name__", "")
    if not name.isidentifier() or name in SCHEDULES:
        raise ConfigError(
            f"schedule {name or schedule!r}: expected a function with a name of its own, which the "
            "config can hold: def my_schedule(progress): ..."
        )
    _registered[name] = schedule
    return name


def name_schedules(config: Any) -> None:
    """Replace functions in the `*_schedule` fields of a config by their names, in place."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_schedule") and callable(value):
            object.__setattr__(config, field.name, register_schedule(value))


def check_schedules(prefix: str, config: Any) -> None:
    """Raise ConfigError unless each `*_schedule` is one of `SCHEDULES`, or registered."""
    for key, schedule in vars(config).items():
        try:
            if key.endswith("_schedule"):
                check_choice(f"{prefix}{key}", schedule, (*SCHEDULES, *_registered))
        except ConfigError as error:
            remedy = "make a function of your own known before: rlkl.register_schedule(FUNCTION)"
            raise ConfigError(f"{error}; {remedy}") from None


def scheduled(value: float, schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Return a hyperparameter's current value: constant, linear from `value` to 0, or by a factor.

    The progress is the fraction of the environment steps that are done, 0 to 1. A registered
    function gives the factor. During the first `warmup` of it the value is also multiplied by a
    factor that rises linearly from 0.01 to 1.

    Raises:
        ConfigError: a registered function is missing, failed, or returned no factor.
    """
    if schedule in SCHEDULES:
        scheduled_value = value * (1 - progress) if schedule == "linear" else value
    else:
        scheduled_value = value * _factor(schedule, progress)
    if progress < warmup:
        scheduled_value *= WARMUP_START + (1 - WARMUP_START) * progress / warmup
    return scheduled_value


def scheduled_field(config: Any, key: str, progress: float) -> float:
    """Return the current value of a field, by `KEY_schedule` and perhaps `KEY_warmup` beside it."""
    schedule, warmup = getattr(config, f"{key}_schedule"), getattr(config, f"{key}_warmup", 0.0)
    return scheduled(getattr(config, key), schedule, progress, warmup)


def _factor(schedule: str, progress: float) -> float:
    if schedule not in _registered:
        raise ConfigError(f"schedule {schedule}: call rlkl.register_schedule({schedule}) first")
    try:
        factor = float(_registered[schedule](progress))
    except Exception as error:
        text = f"schedule {schedule} failed at {progress:g}: {type(error).__name__}: "
        raise ConfigError(text + one_line(error)) from error
    if not 0 <= factor < math.inf:
        raise ConfigError(
            f"schedule {schedule} returned {factor:g} at {progress:g}; expected a factor of at "
            "least 0"
        )
    return factor

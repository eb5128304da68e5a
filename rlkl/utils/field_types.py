"""Converts the fields of a config to their declared types, or rejects them by their key."""

from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_choice, check_range

EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
}


def limited(default: Any, **limits: Any) -> Any:
    """Return a field that `check_fields` checks: its value unless it is None, or each in a list.

    The limits are the bounds of `check_range`, or `choices`. They hold also where a subclass
    changes the default.
    """
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=limits)
    return field(default=default, metadata=limits)


def check_fields(config: Any, prefix: str = "") -> None:
    """Convert the fields of a dataclass in place to their declared types, and check their limits.

    NumPy numbers become Python numbers, whole floats ints, paths strings, enums their values,
    tuples and arrays lists. The config can then be written to a file. Fields other than numbers,
    strings, lists of them and dicts are not changed.

    Raises:
        ConfigError: naming the key, such as `env.id` with the prefix `env.`.
    """
    kind: Any = type(config)
    for name, convert in _converters(kind).items():
        converted = convert(f"{prefix}{name}", getattr(config, name))
        object.__setattr__(config, name, converted)
    for name, limits in _limits(kind).items():
        check = check_choice if "choices" in limits else check_range
        value = getattr(config, name)
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            check(f"{prefix}{name}", each, **limits)


@cache
def _converters(kind: Any) -> dict[str, Callable[[str, Any], Any]]:
    hints = get_type_hints(kind)
    found = {field.name: _converter(hints[field.name]) for field in fields(kind)}
    return {name: convert for name, convert in found.items() if convert is not None}


@cache
def _limits(kind: Any) -> dict[str, Mapping[str, Any]]:
    every = [each for base in reversed(kind.__mro__) if is_dataclass(base) for each in fields(base)]
    return {each.name: each.metadata for each in every if each.metadata}


def _converter(hint: Any) -> Callable[[str, Any], Any] | None:
    """Return a function that converts values to a type, or None for other types."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType and NoneType in inner:
        (expected,) = (each for each in inner if each is not NoneType)
        convert = _converter(expected)
        return convert and (lambda key, value: None if value is None else convert(key, value))
    if hint in EXPECTED:
        return lambda key, value: _scalar(key, value, hint)
    if hint is Any:
        return lambda key, value: _plain(value)
    if origin is list and inner[0] is not Any:
        return lambda key, value: _list(key, value, inner[0])
    if origin in (list, dict):
        return lambda key, value: _container(key, value, origin)
    return None


def _scalar(key: str, value: Any, expected: Any) -> Any:
    plain = _plain(value)
    if type(plain) is expected or (expected is float and type(plain) is int):
        return plain
    if expected is int and type(plain) is float and plain.is_integer():
        return int(plain)
    raise ConfigError(f"{key}={value!r}: expected {EXPECTED[expected]}")


def _list(key: str, value: Any, expected: Any) -> Any:
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    kind, example = ("whole numbers", "[64,64]") if expected is int else ("strings", "[a,b]")
    try:
        if not isinstance(plain, list | tuple):
            raise ConfigError
        return [_scalar(key, item, expected) for item in plain]
    except ConfigError:
        text = f"{key}={value}: expected a list of {kind}, such as {example}"
        raise ConfigError(text) from None


def _container(key: str, value: Any, expected: Any) -> Any:
    if not isinstance(value, Mapping if expected is dict else list | tuple):
        raise ConfigError(f"{key}={value!r}: expected a {expected.__name__}")
    return _converted(expected(value))


def _converted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _converted(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_converted, value))
    return _plain(value)


def plain_data(value: Any, key: str = "") -> Any:
    """Return data that YAML can hold, with lists for tuples.

    Raises:
        ConfigError: naming the key of a value that is no number, string, None, list or dict.
    """
    if isinstance(value, Mapping):
        return {name: plain_data(part, f"{key}.{name}".lstrip(".")) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(part, key) for part in value]
    if value is None or type(value) in EXPECTED:
        return value
    raise ConfigError(
        f"{key} is of type {type(value).__name__}: expected numbers, strings, or lists and dicts "
        "of them, which config.yaml can store; register an environment that creates the object"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value

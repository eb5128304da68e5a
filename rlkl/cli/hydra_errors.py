"""Errors of Hydra, OmegaConf and YAML, as one line each."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import yaml
from hydra.errors import HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rlkl.utils.errors import ConfigError

OF_VALUES_AND_FILES = (
    TypeError, ValueError, OverflowError, RecursionError, yaml.YAMLError, OSError,
)  # fmt: skip
"""Errors that Hydra and OmegaConf do not wrap when they read a value or a file."""


@contextmanager
def one_line_errors(what: str = "") -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf into a `ConfigError` of one line, led by `what`."""
    try:
        yield
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, *OF_VALUES_AND_FILES) as error:
        raise ConfigError(f"{what}: {_explain(error)}" if what else _explain(error)) from error


def _explain(error: BaseException) -> str:
    """Return one line about an error and its cause."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; expected a path that can be read or created"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, line = getattr(cause, "full_key", None), first_line(cause)
    if key is None and (named := re.search(r"full_key: (\S+)", str(cause))):
        key = named[1]
    owner = getattr(cause, "object_type", None)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and is_dataclass(owner):
        names = ", ".join(field.name for field in fields(owner) if field.name != "name")
        return f"{key}: {getattr(owner, 'name', 'the config')} has no such key; it has {names}"
    if option := re.search(r"In '(.+)/(.+)': .*Key '\w+' not in ", line):
        which = "the chosen algorithm" if str(key).startswith("algo.") else "the config"
        return f"{option[1]}={option[2]}: sets {key}, which {which} does not have"
    if wrong := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        whole = "whole " * (wrong[2] == "Integer")
        return f"{key}={wrong[1]}: expected a {whole}number"
    if "is not a ListConfig" in line:
        line = "expected a list, such as [64,64]"
    elif "is not Optional" in line:
        line = "expected a value; null is not one"
    return f"{key}: {line}" if key and key not in line else line


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, and the second if the first is a heading."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])

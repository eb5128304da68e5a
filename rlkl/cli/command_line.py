"""Reads overrides as they are typed, and expands sweeps into jobs."""

import itertools
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException

from rlkl.cli.hydra_errors import first_line, one_line_errors
from rlkl.cli.schema import FREE_KEYS, GROUPS, known_keys, options
from rlkl.utils.errors import ConfigError

MOST_JOBS = 10_000
LARGEST_WHOLE_FLOAT = 10**15  # whole floats up to this are exact


def expand(
    overrides: list[str], *, multirun: bool, config_dirs: Iterable[Path] = ()
) -> Iterator[list[str]]:
    """Yield the overrides of each job: one job, or with `multirun` every combination of a sweep.

    A `glob` also finds options in `config_dirs`.
    """
    choices: list[list[str]] = []
    for text in overrides:
        override = parse(text)
        if not override.is_sweep_override():
            choices.append([for_hydra(text)])
        elif not multirun:
            raise ConfigError(f"{text}: several values for one key make a sweep; add --multirun")
        else:
            key, values = override.get_key_element(), _swept(override, config_dirs)
            choices.append([for_hydra(f"{key}={value}") for value in values])
        if math.prod(map(len, choices)) > MOST_JOBS:
            raise ConfigError(
                f"{text}: a sweep of too many jobs; expected at most {MOST_JOBS} jobs"
            )
    for combination in itertools.product(*choices):
        yield list(combination)


def _swept(override: Override, config_dirs: Iterable[Path]) -> list[str]:
    """Return the values of a sweep, at most one more than the limit of jobs."""
    text, key = override.input_line, override.key_or_group
    if not override.is_discrete_sweep():
        raise ConfigError(f"{text}: an interval cannot be swept; list values or use range(...)")
    value: Any = override.value()
    parts = value.list if isinstance(value, ChoiceSweep) else [value]
    if not any(isinstance(part, Glob) for part in parts):
        with one_line_errors(text or ""):
            values = list(itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        if not values:
            raise ConfigError(f"{text}: a sweep of no values; expected at least one")
        return values
    if key not in GROUPS:
        raise ConfigError(
            f"{text}: glob(...) chooses among the options of {', '.join(GROUPS)}; "
            "list values or use range(...)"
        )
    known = list(options(key, config_dirs))
    found: list[str] = []
    for part in parts:
        names = part.filter(known) if isinstance(part, Glob) else [str(part)]
        if not names:
            raise ConfigError(
                f"{text}: {key} has no such option; expected some of {', '.join(known)}"
            )
        found += names
    return list(dict.fromkeys(found))


def parse(text: str) -> Override:
    """Parse an override; raise `ConfigError` if it is none."""
    if "=" not in text and not text.startswith("~"):
        raise ConfigError(f"{text}: not an override; {_suggest_override(text)}")
    try:
        parsed: Override = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError) as error:
        key, reason = text.partition("=")[0], first_line(error).partition(" expecting ")[0]
        raise ConfigError(
            f"{text}: not an override; expected key=value, where a list is [1,2] and a text with "
            f"special characters has two kinds of quotes, \"{key}='TEXT'\": {reason}"
        ) from error
    number = parsed.value()
    if isinstance(number, int) and abs(number) > sys.float_info.max:
        raise ConfigError(f"{text}: expected a number within ±{sys.float_info.max:.1e}")
    return parsed


def _suggest_override(text: str) -> str:
    """Return what to type instead of an argument without an equals sign."""
    group = next((group for group in GROUPS if text.lower() in options(group)), None)
    if group is not None:
        return f"did you mean {group}={text.lower()}?"
    if re.fullmatch(r"[\w/:.]+-v\d+", text):
        return f"did you mean env.id={text}?"
    return "expected key=value, without spaces around the equals sign; see rlkl train --help"


def for_hydra(text: str, keys: Mapping[str, bool] | None = None) -> str:
    """Return an override as Hydra accepts it.

    Keys below `env.kwargs` and the like get `++`, `None` becomes `null`, and `1e4` becomes 10000
    for keys that hold whole numbers, as `keys` says; without it, for those of `rlkl train`.
    """
    if text.startswith("reference="):
        text = text.replace("reference=", "reference.run_dir=", 1)
    override = parse(text)
    key, equals, typed = text.partition("=")
    if typed == "None":
        typed = "null"
    elif (known_keys() if keys is None else keys).get(override.key_or_group):
        value = override.value()
        whole = _whole(value)
        typed = typed if whole is value else str(whole).replace(" ", "")
    free = tuple(start for key in FREE_KEYS for start in (key, key.rstrip(".") + "="))
    return ("++" if text.startswith(free) else "") + key + equals + typed


def _whole(value: Any) -> Any:
    """Return a whole float, or a list of them, as int; anything else unchanged."""
    if isinstance(value, list) and value:
        numbers = [_whole(number) for number in value]
        return numbers if all(type(number) is int for number in numbers) else value
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_WHOLE_FLOAT
    return int(value) if is_whole else value

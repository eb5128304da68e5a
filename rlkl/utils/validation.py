"""Checks of user input, with messages that say what was wrong and how to fix it."""

import difflib
import importlib.util
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from operator import ge, gt, le, lt
from typing import Any, TypedDict, Unpack

from rlkl.utils.errors import ConfigError, MissingPackageError

_COMPARISONS = {"above": gt, "at_least": ge, "below": lt, "at_most": le}


class Bounds(TypedDict, total=False):
    """The least and the largest value; None is no bound."""

    above: float | None
    at_least: float | None
    below: float | None
    at_most: float | None


def check_range(key: str, value: float, **bounds: Unpack[Bounds]) -> None:
    """Raise unless `value` is finite and within the bounds.

    Raises:
        ConfigError: naming the key, the value and the bounds.
    """
    numbers: dict[str, Any] = {**bounds}
    given = [(word, b) for word, b in sorted(numbers.items()) if b is not None]
    fits = (
        isinstance(value, Real)
        and -math.inf < value < math.inf  # math.isfinite fails for ints above 1.8e308
        and all(_COMPARISONS[word](value, bound) for word, bound in given)
    )
    if not fits:
        expected = " and ".join(f"{word.replace('_', ' ')} {bound:g}" for word, bound in given)
        raise ConfigError(f"{key}={value}: expected a number {expected or 'that is finite'}")


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of `choices`.

    Raises:
        ConfigError: naming the key, the value, the choices and the most similar one.
    """
    choices = list(choices)
    if value not in choices:
        raise ConfigError(
            f"{key}={value}: expected one of {', '.join(choices)}{nearest(value, choices)}"
        )


def check_installed(package: str, extra: str, what: str) -> None:
    """Raise unless a package, by its import name, is installed.

    Raises:
        MissingPackageError: `what` needs the package, which the `extra` of rlkl installs.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"{what} needs the package {package}, which the extra {extra!r} installs: "
            f"pip install 'rlkl[{extra}]', or in a checkout "
            f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
        )


def check_divides(key: str, parts: int, whole: int, what: str) -> None:
    """Raise unless `parts` divides `whole`, which is `what` in words; both are at least 1.

    Raises:
        ConfigError: naming the two divisors nearest to `parts`.
    """
    if whole % parts:
        small = [n for n in range(1, math.isqrt(whole) + 1) if whole % n == 0]
        near = sorted({*small, *(whole // n for n in small)}, key=lambda n: abs(n - parts))[:2]
        raise ConfigError(
            f"{key}={parts} does not divide {what}; "
            f"the nearest that do: {' and '.join(map(str, sorted(near)))}"
        )


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(key: str, text: str) -> float:
    """Return a time such as `90`, `30m` or `1.5h` in seconds.

    Raises:
        ConfigError: naming the key and the units.
    """
    found = re.fullmatch(r"(\d+\.?\d*)([smhd]?)", text.strip(), re.ASCII)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{key}={text}: expected seconds, or a time such as 30m, 2h, 1d")
    return seconds


def check_text(key: str, value: str) -> None:
    """Raise unless a name or path is not blank and has no control characters.

    Raises:
        ConfigError: naming the key and the escaped value.
    """
    if not value.strip():
        raise ConfigError(f"{key}={value!r}: expected at least one character")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(
            f"{key}={value!r}: expected text without line breaks, NUL or other control characters"
        )


def nearest(word: str, words: Iterable[str], most: int = 3) -> str:
    """Return ` (did you mean ...?)` with the most similar words, or an empty string."""
    by_lower_case = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), by_lower_case, most)
    return f" (did you mean {' or '.join(by_lower_case[w] for w in close)}?)" if close else ""


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of printable characters.

    Words of more than 300 characters are shortened.
    """
    line = " ".join(str(error).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return re.sub(r"\S{301,}", lambda word: f"{word[0][:120]}...{word[0][-40:]}", line)


def described(error: BaseException) -> str:
    """Return the type and the message of an error as one line."""
    return f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def reading_parts(problem: str, remedy: str) -> Iterator[None]:
    """Turn errors of missing or malformed parts into a ConfigError: problem, error and remedy."""
    try:
        yield
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError(f"{problem}: {described(error)}; {remedy}") from error


def check_between(key: str, value: float, lowest: float, highest: float) -> None:
    """Check that a number lies between `KEY_min` and `KEY_max`, which are above 0."""
    check_range(f"{key}_min", lowest, above=0)
    check_range(f"{key}_max", highest, above=0)
    if not lowest <= value <= highest:
        raise ConfigError(
            f"{key}={value:g}: expected between {key}_min={lowest:g} and {key}_max={highest:g}"
        )

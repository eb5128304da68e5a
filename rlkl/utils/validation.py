"""Checks of what a user asked for, with messages that say what was wrong and how to mend it."""

import difflib
import importlib.util
import math
import re
import unicodedata
from collections.abc import Iterable
from numbers import Real


class ConfigError(ValueError):
    """What the user asked for cannot be done.

    The message is one line: what was given, what was expected, how to mend it. Commands print it
    without a traceback and exit with a code other than 0.
    """


class BrokenEnvironmentError(Exception):
    """An environment broke while it ran: an exception of its own, NaN, or what it never declared.

    The message is one line and names the environment.
    """


def check_range(
    key: str,
    value: float,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Raise unless a finite `value` lies within the bounds that are given.

    Raises:
        ConfigError: naming the key, the value and the interval expected.
    """
    fits = (
        isinstance(value, Real)
        and -math.inf < value < math.inf  # `isfinite` knows no whole number above 1.8e308
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    )
    if not fits:
        bounds = {
            "above": above,
            "at least": at_least,
            "below": below,
            "at most": at_most,
        }
        expected = " and ".join(f"{word} {b:g}" for word, b in bounds.items() if b is not None)
        raise ConfigError(f"{key}={value}: expected a number {expected or 'that is finite'}")


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of `choices`, suggesting the nearest.

    Raises:
        ConfigError: naming the key, the value and the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise ConfigError(
            f"{key}={value}: expected one of {', '.join(choices)}{nearest(value, choices)}"
        )


def check_installed(package: str, extra: str, what: str) -> None:
    """Raise unless a package is there.

    Args:
        package: as it is imported.
        extra: of rlkl, that installs it.
        what: needs it, as the message begins.

    Raises:
        ConfigError: naming the package and how to install it.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{what} needs the package {package}, which the extra {extra!r} installs: "
            f"pip install 'rlkl[{extra}]', or in a checkout "
            f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
        )


def check_divides(key: str, parts: int, whole: int, what: str) -> None:
    """Raise unless `whole` can be cut into `parts` equal parts.

    Args:
        key: of `parts`.
        parts: at least 1.
        whole: at least 1.
        what: the whole in words.

    Raises:
        ConfigError: naming the two numbers nearest to `parts` that divide `whole`.
    """
    if whole % parts:
        small = [n for n in range(1, math.isqrt(whole) + 1) if whole % n == 0]
        near = sorted({*small, *(whole // n for n in small)}, key=lambda n: abs(n - parts))[:2]
        raise ConfigError(
            f"{key}={parts} does not divide {what}; "
            f"the nearest that do: {' and '.join(map(str, sorted(near)))}"
        )


def check_text(key: str, value: str) -> None:
    """Raise unless `value`, a name or a path, has characters and none that controls a terminal.

    Raises:
        ConfigError: naming the key, and the value with such characters spelled out.
    """
    if not value.strip():
        raise ConfigError(f"{key}={value!r}: expected at least one character")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ConfigError(
            f"{key}={value!r}: expected text without line breaks, NUL or other control characters"
        )


def nearest(word: str, words: Iterable[str], most: int = 3) -> str:
    """Return ` (did you mean ...?)` naming the words that look like `word`, or an empty string."""
    by_lower_case = {w.lower(): w for w in words}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=most, cutoff=0.6)
    return f" (did you mean {' or '.join(by_lower_case[w] for w in close)}?)" if close else ""


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks and other characters that do not print.

    Words of more than 300 characters are shortened, so that the rest can be seen.
    """
    line = " ".join(str(error).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return re.sub(r"\S{301,}", lambda word: f"{word[0][:120]}...{word[0][-40:]}", line)

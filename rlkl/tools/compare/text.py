"""Numbers and lists as text, the same in findings, tables and charts."""

import math
from collections.abc import Iterable, Mapping, Sequence

MAX_LISTED = 6
"""Items that a sentence lists before it only counts the others."""


def listed(names: Iterable[str], most: int = MAX_LISTED) -> str:
    """Return `a, b and c`, or `a, b and 5 more`."""
    items = list(names)
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def listed_items(items: Mapping[str, object], most: int = MAX_LISTED) -> str:
    """Return `a: 1, b: 2 and c: 3`."""
    return listed((f"{name}: {value}" for name, value in items.items()), most)


def plural(count: int, what: str) -> str:
    """Return `1 run` or `3 runs`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def seeds_text(seeds: Sequence[int]) -> str:
    """Return `0–4` for consecutive seeds, else `0, 2, 5`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def number(value: float | str) -> str:
    """Return a number with three or four significant digits, without an exponent if possible."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    form = ",.0f" if size >= 1000 else ".4g" if size >= 100 else ".3g"
    return f"{value:{form}}".replace("-", "−")


def spread(value: float, low: float, high: float) -> str:
    """Return a number and its interval, with two significant digits of the interval's width."""
    if math.isnan(low):
        return number(value)
    width = high - low
    decimals = 1 - math.floor(math.log10(width)) if width > 0 else 3
    each = (f"{x:,.{min(max(decimals, 0), 6)}f}".replace("-", "−") for x in (value, low, high))
    return "{} [{}, {}]".format(*each)


def share(value: float) -> str:
    """Return a share as a percentage."""
    return "–" if math.isnan(value) else f"{100 * value:.3g}%"


def time_unit(seconds: float) -> tuple[float, str, str]:
    """Return a unit for a time: its length in seconds, its name and its abbreviation."""
    units = ((3600.0, "hours", "h"), (60.0, "minutes", "min"))
    return next((unit for unit in units if seconds >= 3 * unit[0]), (1.0, "seconds", "s"))


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    unit, _, letters = time_unit(seconds)
    return f"{seconds / unit:.3g} {letters}"

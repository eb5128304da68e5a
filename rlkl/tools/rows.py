"""Rows of named values, from which tables, figures and CSV files are made."""

from operator import itemgetter
from typing import Any

Row = dict[str, Any]
Rows = list[Row]


def select(rows: Rows, **wanted: str | float) -> Rows:
    """Return the rows whose columns have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def column(rows: Rows, key: str) -> list[float]:
    """Return a column of numbers."""
    return [float(row[key]) for row in rows]


def distinct(rows: Rows, key: str) -> list[Any]:
    """Return the different values of a column in order of first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def grouped(rows: Rows, *keys: str) -> dict[Any, Rows]:
    """Return the rows of each value of a column, or of each combination of several columns."""
    groups: dict[Any, Rows] = {}
    value_of = itemgetter(*keys)
    for row in rows:
        groups.setdefault(value_of(row), []).append(row)
    return groups

"""Rows of named values, from which tables, figures and CSV files are made."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
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


def csv_text(rows: Rows) -> str:
    """Return rows, at least one, as a CSV file: numbers with all digits, NaN as an empty field."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        values = row.values()
        writer.writerow("" if isinstance(v, float) and math.isnan(v) else v for v in values)
    return file.getvalue()


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], mark: str = "---"
) -> str:
    """Return a table of texts in Markdown; `mark` aligns all columns but the first."""
    lines = [headings, ["---", *[mark] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

"""Tables in the pages of docs/, between the markers of the script that makes them."""

import argparse
import csv
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from rlkl.tools.rows import Row, Rows, distinct, grouped, markdown_table
from rlkl.utils.errors import ConfigError
from rlkl.utils.validation import check_installed

END = "<!-- end of table -->"


def markdown(rows: Rows) -> str:
    """Return rows of texts as a table."""
    if not rows:
        return "No such run yet."
    return markdown_table(list(rows[0]), ([*row.values()] for row in rows))


def fill(page: Path, parts: dict[str, str], script: str) -> str:
    """Return the text of a page with new text between the markers of each part.

    Raises:
        ConfigError: the page lacks a marker.
    """
    text = page.read_text()
    for name, part in parts.items():
        begin = f"<!-- {name}: made by scripts/{script} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        found = pattern.search(text)
        if found is None:
            raise ConfigError(f"{page.name} lacks the lines {begin!r} and {END!r} around a table")
        first, last = found.span()
        text = f"{text[:first]}{begin}\n{part}\n{END}{text[last:]}"
    return text


def earlier(file: Path, like: Row) -> Rows:
    """Return the rows that a script wrote before, with the types of a row that it has now.

    A page keeps its rows, so that a grid can be made in parts, also when run folders are gone.

    Raises:
        ConfigError: the file has other columns.
    """

    def typed(text: str, value: Any) -> Any:
        return math.nan if not text and isinstance(value, float) else type(value)(text)

    if not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    if any(row.keys() != like.keys() for row in rows):
        raise ConfigError(f"{file} has not the columns that are written now; move it elsewhere")
    return [{key: typed(text, like[key]) for key, text in row.items()} for row in rows]


def merged(first: Rows, second: Rows, *keys: str) -> Rows:
    """Return the rows of both, one for each value of the keys: that of `first` if it has one."""
    key_of = itemgetter(*keys)
    return list({key_of(row): row for row in (*second, *first)}.values())


def ordered(rows: Rows, keys: Sequence[str], names: Iterable[str] = ()) -> Rows:
    """Return rows sorted by some columns, whose values are in the order of `names` if they are."""
    order = {name: place for place, name in enumerate(names)}
    return sorted(rows, key=lambda row: [order.get(row[key], row[key]) for key in keys])


def check_budgets(rows: Rows) -> None:
    """Raise if runs of an environment have different budgets."""
    for env, group in grouped(rows, "environment").items():
        budgets = " and ".join(f"{budget:,}" for budget in sorted(distinct(group, "budget")))
        if " " in budgets:
            raise ConfigError(
                f"{env}: runs of {budgets} environment steps; expected the folder of one grid"
            )


def run_script(
    make: Callable[[list[str], Path | None], str], purpose: str | None, draws: bool = False
) -> None:
    """Run a script `FOLDER... [--output=FOLDER]`; print what `make` returns, or an error's line.

    If it `draws`, it ends at once without the extra `plots`.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=purpose, formatter_class=raw)
    parser.add_argument("runs", nargs="+", help="folders to search")
    parser.add_argument("--output", type=Path, help="folder for everything, page and all")
    arguments = parser.parse_args()
    try:
        if draws:
            check_installed("matplotlib", "plots", parser.prog)
        print(make(arguments.runs, arguments.output))
    except ConfigError as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")

"""Tables in the pages of docs/, between the markers of the script that makes them."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from rlkl.tools.rows import Rows, markdown_table
from rlkl.utils.errors import ConfigError

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


def run_script(make: Callable[[list[str], Path | None], str], purpose: str | None) -> None:
    """Run a script `FOLDER... [--output=FOLDER]`; print what `make` returns, or an error's line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=purpose, formatter_class=raw)
    parser.add_argument("runs", nargs="+", help="folders to search")
    parser.add_argument("--output", type=Path, help="folder for everything, page and all")
    arguments = parser.parse_args()
    try:
        print(make(arguments.runs, arguments.output))
    except ConfigError as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")

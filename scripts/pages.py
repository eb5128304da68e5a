"""Tables in the pages of docs/, between the markers of the script that makes them."""

import re
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

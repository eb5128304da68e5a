"""Help texts, wrapped to 80 columns."""

import textwrap
from collections.abc import Mapping

WIDTH = 80
LONGEST_NAME = 30
"""The meaning of a longer name goes on the next line."""


def rows(content: Mapping[str, str], indent: str = "  ") -> list[str]:
    """Return lines that list names and their meanings."""
    width = max((len(name) for name in content if len(name) <= LONGEST_NAME), default=0)
    lines = []
    for name, meaning in content.items():
        start = f"{indent}{name:<{width}}  "
        if len(name) > width:
            lines.append(f"{indent}{name}")
            start = f"{indent}    "
        lines += paragraph(meaning, start, " " * len(start)) or [start.rstrip()]
    return lines


def paragraph(text: str, first: str = "", others: str = "") -> list[str]:
    """Return a text in lines, the first indented by `first`, the others by `others`."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )

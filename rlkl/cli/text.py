"""Help texts in the 80 columns of a plain terminal."""

import textwrap
from collections.abc import Mapping

WIDTH = 80
LONGEST_NAME = 30
"""Longer ones have a line of their own, and what they mean on the next."""


def rows(content: Mapping[str, str], indent: str = "  ") -> list[str]:
    """Return the lines of a list of names and what each means."""
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
    """Return a text in lines, the first one indented by `first`, the others by `others`."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )

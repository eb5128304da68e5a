"""Lines that fit a terminal of 80 columns."""

import textwrap

WIDTH = 80


def paragraph(text: str, first: str = "", others: str = "") -> list[str]:
    """Return a text in lines, the first indented by `first`, the others by `others`.

    A word that is longer than a line stays whole, so that paths can be copied.
    """
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )

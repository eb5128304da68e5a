"""Makes the text of a stranger safe to show: names, paths and reasons that were read from files."""

import re

LONGEST = 300
"""Characters of a text in a terminal."""


def for_terminal(text: str, longest: int = LONGEST) -> str:
    """Return a text as one line of bounded length that steers no terminal.

    Control characters, escape sequences, marks that change the direction of writing, and bytes
    that are not UTF-8 are spelled out. A text that is too long loses its middle.

    Args:
        text: from a file, or the name of one.
        longest: characters that are kept.
    """
    if len(text) > longest:
        kept = longest - 3
        text = f"{text[: kept - kept // 3]}...{text[-(kept // 3) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def for_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is: no HTML, no links or images, no emphasis."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"\](?=[(\[])|\[(?<=!\[)", r"\\\g<0>", text)

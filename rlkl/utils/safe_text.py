"""Makes untrusted text safe to print: names, paths and reasons that were read from files."""

import re

MAX_LENGTH = 300
"""Characters of one text in a terminal."""


def for_terminal(text: str, max_length: int = MAX_LENGTH) -> str:
    """Return a text as one line of bounded length, without control sequences.

    Characters that do not print, marks of the writing direction and bytes that are not UTF-8 are
    escaped. A text that is too long loses its middle.
    """
    if len(text) > max_length:
        kept = max_length - 3
        text = f"{text[: kept - kept // 3]}...{text[-(kept // 3) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def for_markdown(text: str) -> str:
    """Escape a text for Markdown: no HTML, links, images or emphasis."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"\](?=[(\[])|\[(?<=!\[)", r"\\\g<0>", text)

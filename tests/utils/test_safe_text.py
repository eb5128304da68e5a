"""Untrusted text is escaped for a terminal and for Markdown."""

import pytest

from rlkl.utils.safe_text import for_markdown, for_terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CartPole-v1 clip_ratio=0.3 π", "CartPole-v1 clip_ratio=0.3 π"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\u202ec\ud800", "a\\nb\\u202ec\\ud800"),
        ("x" * 400, "x" * 198 + "..." + "x" * 99),
    ],
)
def test_terminal_text_is_one_printable_line(text: str, shown: str) -> None:
    assert for_terminal(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clip_ratio=0.3, 1 [0, 2]", "clip_ratio=0.3, 1 [0, 2]"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[a](b) ![c][d]", "[a\\](b) !\\[c\\][d]"),
        ("`a` *b* _c_", "\\`a\\` \\*b\\* \\_c\\_"),
    ],
)
def test_markdown_text_has_no_markup(text: str, shown: str) -> None:
    assert for_markdown(text) == shown

"""The browser of the tests: it shows pages, and fails those that complain."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import Pages, strict_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def written(folder: Path, body: str) -> str:
    """The URL of a page with this body."""
    path = folder / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>p ‖ q</title>{body}", "utf-8")
    return path.as_uri()


def test_page_has_the_requested_width(pages: Pages, tmp_path: Path) -> None:
    page = pages.open(
        written(tmp_path, "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>"), 390
    )
    assert page.title() == "p ‖ q"
    assert page.evaluate("innerWidth") == 390


@pytest.mark.parametrize(
    ("body", "complaint"),
    {
        "<script>console.error('no good')</script>": "console: no good",
        "<script>throw new Error('no good')</script>": "uncaught: no good",
        "<link rel=stylesheet href='https://fonts.invalid/a.css'>": "asks fonts.invalid for /a.css",
    }.items(),
)
def test_a_page_that_complains_fails(
    body: str, complaint: str, browser: "Browser", tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=complaint), strict_pages(browser) as pages:
        pages.open(written(tmp_path, body))

"""A browser for tests of pages: headless Chromium, where a page that complains fails its test."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Headless Chromium, from a file's first test that needs it to the end of the file.

    It does not live for the whole session, because workers that other tests fork would inherit
    the pipes to it and the event loop that playwright keeps running.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra: browser)"
    )
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        pytest.skip("Chromium is not installed (Debian package: chromium)")
    # As root Chromium refuses to start with its sandbox.
    sandbox = os.geteuid() != 0
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=executable, chromium_sandbox=sandbox) as chromium,
    ):
        yield chromium


class Pages:
    """Opens pages, each with a profile of its own, and notes what they complain of.

    Console errors, uncaught exceptions, and requests to any host but that of the page itself,
    which are refused.
    """

    def __init__(self, browser: "Browser", contexts: ExitStack) -> None:
        self.browser = browser
        self.contexts = contexts
        self.complaints: list[str] = []

    def open(self, url: str, width: int = 1200, height: int = 900, **options: Any) -> "Page":
        """Open a page once it has loaded; options are those of playwright's `new_context`."""
        context: BrowserContext = self.contexts.enter_context(
            self.browser.new_context(viewport={"width": width, "height": height}, **options)
        )
        home = urlsplit(url)[:2]

        def admit(route: "Route") -> None:
            asked = urlsplit(route.request.url)
            if asked[:2] == home or asked.scheme in ("data", "blob"):
                route.continue_()
            else:
                self.complaints.append(f"asks {asked.netloc} for {asked.path}")
                route.abort()

        def listen(message: Any) -> None:
            if message.type == "error":
                self.complaints.append(f"console: {message.text}")

        context.route("**/*", admit)
        context.on("console", listen)
        context.on("weberror", lambda error: self.complaints.append(f"uncaught: {error.error}"))
        page = context.new_page()
        page.goto(url)
        return page


@contextmanager
def strict_pages(browser: "Browser") -> Iterator[Pages]:
    """Give what opens pages, close them at the end, and fail if any of them has complained."""
    with ExitStack() as contexts:
        opened = Pages(browser, contexts)
        yield opened
    assert not opened.complaints, "; ".join(opened.complaints)


@pytest.fixture
def pages(browser: "Browser") -> Iterator[Pages]:
    """Opens pages; the test fails if any of them has complained by its end."""
    with strict_pages(browser) as opened:
        yield opened

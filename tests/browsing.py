"""Headless Chromium for tests of pages, which fail if a page reports an error."""

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
    """Headless Chromium for the tests of one file.

    Not for the whole session: processes that other tests fork would inherit its pipes and the event
    loop of playwright.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra: browser)"
    )
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        pytest.skip("Chromium is not installed (Debian package: chromium)")
    # Chromium's sandbox does not work as root.
    sandbox = os.geteuid() != 0
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=executable, chromium_sandbox=sandbox) as chromium,
    ):
        yield chromium


class Pages:
    """Opens pages in separate profiles, blocks requests to other hosts, and records complaints.

    A complaint is a console error, an uncaught exception, or a blocked request.
    """

    def __init__(self, browser: "Browser", contexts: ExitStack) -> None:
        self.browser = browser
        self.contexts = contexts
        self.complaints: list[str] = []

    def open(self, url: str, width: int = 1200, height: int = 900, **options: Any) -> "Page":
        """Open a page and wait until it has loaded; `options` are of playwright's `new_context`."""
        context: BrowserContext = self.contexts.enter_context(
            self.browser.new_context(viewport={"width": width, "height": height}, **options)
        )
        origin = urlsplit(url)[:2]

        def route_request(route: "Route") -> None:
            target = urlsplit(route.request.url)
            if target[:2] == origin or target.scheme in ("data", "blob"):
                route.continue_()
            else:
                self.complaints.append(f"asks {target.netloc} for {target.path}")
                route.abort()

        def on_console(message: Any) -> None:
            if message.type == "error":
                self.complaints.append(f"console: {message.text}")

        context.route("**/*", route_request)
        context.on("console", on_console)
        context.on("weberror", lambda error: self.complaints.append(f"uncaught: {error.error}"))
        page = context.new_page()
        page.goto(url)
        return page


@contextmanager
def strict_pages(browser: "Browser") -> Iterator[Pages]:
    """Open pages, close them at the end, and fail after any complaint."""
    with ExitStack() as contexts:
        opened = Pages(browser, contexts)
        yield opened
    assert not opened.complaints, "; ".join(opened.complaints)


@pytest.fixture
def pages(browser: "Browser") -> Iterator[Pages]:
    """Opens pages; the test fails after any complaint."""
    with strict_pages(browser) as opened:
        yield opened

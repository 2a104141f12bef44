"""A real browser: Debian's Chromium, driven by Playwright; tests skip where either is missing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """A page, with what it said on its console and which addresses it asked."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", self._refuse)
        page.on("request", lambda request: self.asked.append(request.url))

    def _refuse(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, url: str) -> Page:
        """Open a gallery and wait until it can be used."""
        self.page.goto(url)
        self.until("document.documentElement.dataset.ready === 'yes'")
        return self

    def until(self, condition: str) -> None:
        """Wait for a condition of JavaScript; the page's policy forbids Playwright's own way of waiting."""
        for _ in range(400):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"not so after 10 s: {condition} {self.faults}")

    def text(self, selector: str) -> str:
        """The text of an element."""
        return str(self.page.locator(selector).first.text_content())

    def count_shown(self) -> int:
        """How many requests meet search and filters."""
        return int(self.text("#count").split(" of ")[0].replace(",", ""))


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser for the tests of a module; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A static server as `python -m http.server` is: it ignores ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

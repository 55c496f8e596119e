"""A headless browser for tests of pages: what it asked for, and whatever went wrong in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ELSEWHERE = "video.example"
"""A name that leads to this machine in this browser, as a proxy's would."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FLAGS += [f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"]


@dataclass
class Watched:
    """A page of a browser; ``requests`` are addresses it asked for, ``problems`` errors of scripts and console."""

    page: Any
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def begin(self) -> Watched:
        self.page.on("request", lambda each: self.requests.append(each.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._said)
        return self

    def _said(self, message: Any) -> None:
        gone = (
            message.location.get("url", "").partition("?")[0].endswith("/preview")
        )  # the video ended meanwhile
        if message.type in ("error", "warning") and not gone:
            self.problems.append(f"{message.type}: {message.text}")

    def hosts(self) -> set[str]:
        """Hosts that the page asked; what it made itself (blob:) has none."""
        return {urlsplit(each).netloc for each in self.requests if not each.startswith(("blob:", "data:"))}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()

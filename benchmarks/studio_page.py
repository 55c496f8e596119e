"""The page of the studio in a headless browser: how soon it is there, how heavy it is, and strings that are scripts.

    python benchmarks/studio_page.py                  start, first paint, weight, one video from an empty page
    python benchmarks/studio_page.py --strings 500    the same, then so many prompts and names of files that are scripts

Prints one line of JSON. Times are of this machine: from the start of the command to the first answer and to the model
being ready, from the address to the first paint, from the click on Make to the video.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
WEIGHT = """() => performance.getEntriesByType("resource").filter((each) => each.name.includes("/page/"))
    .reduce((sum, each) => sum + each.encodedBodySize, performance.getEntriesByType("navigation")[0].encodedBodySize)"""
SHOWN = "(text) => [...document.querySelectorAll('.said')].some((each) => each.textContent === text)"
TOLD = "(text) => [...document.querySelectorAll('.notice')].some((each) => each.textContent.includes(text))"
DROP = """(text) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["no record"], text + ".json", { type: "application/json" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
PATTERNS = (
    "<script>window.ran={n}</script>", "<img src=x onerror=window.ran={n}>", '"><svg onload=window.ran={n}>',
    "'-window.ran={n}-'", "javascript:window.ran={n}", "</title><script>window.ran={n}</script>",
    "<iframe srcdoc='<script>parent.ran={n}</script>'></iframe>", "</textarea><script>window.ran={n}</script>",
    "{{{{constructor.constructor('window.ran={n}')()}}}}", "<details open ontoggle=window.ran={n}>\u202e",
    "\\u003cscript\\u003ewindow.ran={n}\\u003c/script\\u003e", "${{window.ran={n}}}",
    "<input autofocus onfocus=window.ran={n}>",
    "<svg><animate onbegin=window.ran={n} attributeName=x dur=1s>", "<a href=javascript:window.ran={n} id=prompt>x</a>",
)  # fmt: skip


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON that the server answers; with a body it is a POST."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait(url: str, good: Any, seconds: float = 120.0) -> None:
    """Ask until ``good`` of the answer holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with (
            suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(url, timeout=10) as answer,
        ):
            if good(answer):
                return
        time.sleep(0.02)
    raise SystemExit(f"{url}: not there in {seconds:g} s")


def visit(page: Any, url: str) -> dict[str, Any]:
    """First paints, weight, and a video from an empty page."""
    paints = []
    for _ in range(3):
        page.goto(url)
        page.wait_for_selector("body[data-ready=true]", timeout=120_000)
        paints.append(round(page.evaluate(PAINT)))
    weight = page.evaluate(WEIGHT)
    page.click(".example")
    began = time.monotonic()
    page.click("#go")
    page.wait_for_selector(".card[data-state=completed]", timeout=300_000)
    return {
        "first paint ms": paints, "bytes": weight, "click to video s": round(time.monotonic() - began, 1),
    }  # fmt: skip


def strings(page: Any, url: str, count: int) -> dict[str, int]:
    """Every string as a prompt that is searched and shown, and as the name of a dropped file; none may run."""
    for number in range(1, count + 1):
        text = PATTERNS[number % len(PATTERNS)].format(n=number)
        video = ask(f"{url}v1/videos", {"prompt": text})
        ask(f"{url}v1/videos/{video['id']}/cancel", {})
        page.fill("#prompt", text)
        page.fill("#search", text)
        page.wait_for_function(SHOWN, arg=text)
        page.evaluate(DROP, text)
        page.wait_for_function(TOLD, arg=text)
        ran = page.evaluate("() => window.ran")
        assert ran is None, (ran, text)
    assert page.evaluate("() => document.scripts.length") == 2
    return {"strings": count, "ran": 0}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strings", type=int, default=0)
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, figures = f"http://127.0.0.1:{port}/", {}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "cogvideox",
            "studio",
            "--out",
            str(Path(folder) / "s"),
            "--port",
            str(port),
        ]
        began = time.monotonic()
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
        )
        try:
            wait(url, lambda answer: answer.status == 200)
            figures["page s"] = round(time.monotonic() - began, 2)
            wait(f"{url}health", lambda answer: json.load(answer)["ready"])
            figures["ready s"] = round(time.monotonic() - began, 2)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page, problems, hosts = browser.new_page(), [], set()
                page.on("pageerror", lambda error: problems.append(str(error)))
                page.on("console", lambda each: problems.append(each.text) if each.type == "error" else None)
                page.on("request", lambda each: hosts.add(each.url.split("/")[2] if "//" in each.url else ""))
                figures |= visit(page, url)
                if arguments.strings:
                    figures |= strings(page, url, arguments.strings)
                figures |= {"problems": problems, "other hosts": len(hosts - {f"127.0.0.1:{port}", ""})}
                browser.close()
        finally:
            server.terminate()
            server.wait(60)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

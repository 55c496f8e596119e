"""The rating page in a real browser: raters at the keyboard, a server killed under them, strings that are scripts.

python tests/rating/walk.py --raters 3 --videos 20 --kills 3 --strings 500 --shots FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cogvideox.rating.grades import ASPECTS, capped_total
from cogvideox.rating.ledger import RatingLedger
from cogvideox.rating.study import LEDGER, Study, make_study
from cogvideox.video import Video
from cogvideox.world import caption, render, sample_scene

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
GRADES = (0.0, 0.5, 1.0)


@dataclass
class Server:
    """``cogvideox rate serve`` as a process that can be killed and started again on its port."""

    out: Path
    arguments: list[str]
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "cogvideox", "rate", "serve", *self.arguments]
        command += ["--out", str(self.out), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(1200):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(self.url, timeout=5).read()
                return
            assert self.process.poll() is None, "the server did not start"
            time.sleep(0.1)
        raise AssertionError("the server did not answer in two minutes")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def served(out: Path, *arguments: str) -> Iterator[Server]:
    server = Server(out, list(arguments))
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield opened
        finally:
            opened.close()


def models(root: Path, videos: int) -> list[str]:
    """Two models' videos of the same prompts: half of ``videos`` each."""
    for model, salt in (("ours", 0), ("theirs", 1)):
        for place in range(videos // 2):
            scene = sample_scene(salt, place)
            prompt = caption(sample_scene(0, place), 0, place)
            Video(render(scene), 8, {"config": {"prompt": prompt}}).save(root / model / f"{place:02d}.mp4")
    return [f"{name}={root / name}" for name in ("ours", "theirs")]


def rate_everything(page, server: Server, rater: str, kills: int) -> dict[str, dict]:
    """One rater at the keyboard; the server dies ``kills`` times while ratings are sent. -> unit -> what was said."""
    rng = random.Random(rater)
    said: dict[str, dict] = {}
    page.goto(server.url)
    page.fill("#name", rater)
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt")
    deaths = set(rng.sample(range(1, 4 if kills < 2 else 10), kills))
    for number in range(10_000):
        if page.query_selector("#finished"):
            return said
        unit = page.evaluate("unit.assignment").split(".")[0]
        steps = {name: rng.randrange(3) for name in ASPECTS}
        whole = rng.randrange(6)
        for name in ASPECTS:
            page.keyboard.press(str(steps[name] + 1))
        page.keyboard.press(str(whole))
        half = whole < 5 and rng.random() < 0.5
        if half:
            page.keyboard.press("+")
        grades = {name: GRADES[step] for name, step in steps.items()}
        said[unit] = {"aspects": grades, "total": whole + 0.5 * half}
        warned = bool(page.text_content("#cap"))
        assert warned == (grades["instruction"] == 0 and said[unit]["total"] > 2)
        if number in deaths:
            server.kill()
            page.keyboard.press("Enter")
            page.wait_for_function("document.getElementById('state').textContent.includes('trying again')")
            server.start()
        else:
            page.keyboard.press("Enter")
        page.wait_for_function(
            "before => !unit || unit.finished || unit.assignment.split('.')[0] !== before",
            arg=unit,
            timeout=120_000,
        )
    raise AssertionError("never finished")


def walk_raters(root: Path, raters: int, videos: int, kills: int, shots: Path | None) -> dict:
    """Everything every rater said, against what the study holds. Raises AssertionError where they differ."""
    out = root / "study"
    with served(out, *models(root, videos)) as server, browser() as chromium:
        said = {}
        for number in range(raters):
            page = chromium.new_page()
            said[f"rater {number}"] = rate_everything(
                page, server, f"rater {number}", kills if number == 1 else 0
            )
            page.close()
        if shots is not None:
            picture(chromium, server, shots)
    study = Study.read(out)
    kept = {(entry.rater, entry.unit): entry.said for entry in RatingLedger(out / LEDGER).entries()}
    for rater, units in said.items():
        for unit, expected in units.items():
            found = kept.pop((study.rater(rater), unit))
            assert {key: found[key] for key in ("aspects", "total")} == expected
    assert not kept, "ratings nobody gave"
    command = [sys.executable, "-m", "cogvideox", "rate", "report", str(out), "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    totals = _expected_totals(study, said)
    for model, total in totals.items():
        assert abs(report["models"][model]["total"]["value"] - total) < 1e-9, (model, total)
    return {"ratings": sum(map(len, said.values())), "totals": totals, "alpha": report["alpha"]}


def _expected_totals(study: Study, said: dict[str, dict[str, dict]]) -> dict[str, float]:
    """The capped means, worked out from what was typed."""
    values: dict[str, list[float]] = {}
    models = {unit.id: unit.models[0] for unit in study.units}
    for units in said.values():
        for unit, each in units.items():
            values.setdefault(models[unit], []).append(
                capped_total(each["total"], each["aspects"]["instruction"])
            )
    return {model: float(np.mean(each)) for model, each in values.items()}


def picture(chromium, server: Server, folder: Path) -> None:
    """Screenshots of the page, wide and on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"wide": (1280, 860), "phone": (390, 844)}
    for name, (width, height) in sizes.items():
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.goto(server.url)
        page.screenshot(path=str(folder / f"{name}-start.png"))
        page.fill("#name", f"picture {name}")
        page.keyboard.press("Enter")
        page.wait_for_selector("video")
        page.wait_for_timeout(1500)
        for key in "3123":
            page.keyboard.press(key)
        page.keyboard.press("4")
        page.screenshot(path=str(folder / f"{name}.png"), full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name}: {wide} pixels wide"
        page.close()


PATTERNS = (
    "<script>window.ran={n}</script>",
    "<img src=x onerror=window.ran={n}>",
    '"><svg onload=window.ran={n}>',
    "'-window.ran={n}-'",
    "javascript:window.ran={n}",
    "</title><script>window.ran={n}</script>",
    "<iframe srcdoc='<script>parent.ran={n}</script>'></iframe>",
    "{{{{constructor.constructor('window.ran={n}')()}}}}",
    "<details open ontoggle=window.ran={n}>\u202e",
    "\\u003cscript\\u003ewindow.ran={n}\\u003c/script\\u003e",
)


def walk_strings(root: Path, strings: int) -> int:
    """Scripts as prompts, models' names, raters' names and notes; none may run in the page or stand in a report."""
    texts = [PATTERNS[n % len(PATTERNS)].format(n=n + 1) for n in range(strings)]
    names = ("<script>window.run(1)</script>", '"><svg/onload>')
    for side in ("a", "b"):
        Video(np.zeros((2, 16, 16, 3), np.uint8), 8).save(root / side / "0.mp4")
    made = make_study(dict(zip(names, (root / "a", root / "b"), strict=True)), root / "study", "pairs")
    one = made.units[0]  # the same two videos for every prompt
    units = tuple(replace(one, id=f"{n:016x}", item=text, prompt=text) for n, text in enumerate(texts))
    replace(made, units=units).save(root / "study")
    with served(root / "study") as server, browser() as chromium:
        page = chromium.new_page()
        page.goto(server.url)
        for text in texts:
            page.evaluate("name => begin(name)", text)
        page.wait_for_selector("#prompt")
        seen = set()
        for text in texts:
            seen.add(page.text_content("#prompt"))
            before = page.evaluate("unit.assignment")
            page.evaluate("text => { document.getElementById('note').value = text; }", text)
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("Enter")
            page.wait_for_function(
                "before => unit.finished || unit.assignment !== before", arg=before, timeout=60_000
            )
            assert page.evaluate("window.ran") is None
        assert page.evaluate("document.querySelectorAll('script').length") == 1
        assert seen == set(texts), "a prompt was not shown as it is"
    command = [sys.executable, "-m", "cogvideox", "rate", "report", str(root / "study")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{strings} ratings" in told
    return len(texts)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("raters", 3), ("videos", 20), ("kills", 3), ("strings", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--shots", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.raters:
            done = walk_raters(
                root / "raters", arguments.raters, arguments.videos, arguments.kills, arguments.shots
            )
            print(done, flush=True)
        if arguments.strings:
            print(f"{walk_strings(root / 'strings', arguments.strings)} strings, none ran")


if __name__ == "__main__":
    main()

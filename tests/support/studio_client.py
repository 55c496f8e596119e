"""A studio server as a process and what a client does with it: plain HTTP, no library of ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.serving_process import Serving, serving

SHORT = {"steps": 2, "frames": 5, "height": 32, "width": 32}
"""Settings of a video that takes a second."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]


@dataclass
class Client:
    port: int
    out: Path
    server: Serving

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, sent = json.dumps(body), {"content-type": "application/json", **sent}
        line.request(method, path, body, sent)
        answer = line.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        line.close()
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def create(self, prompt: str = "a red circle moves to the right", **settings: Any) -> str:
        answer = self.ask("POST", "/v1/videos", {"prompt": prompt, "cogvideox": {**SHORT, **settings}})
        assert answer.status == 200, answer.body
        return answer.json()["id"]

    def video(self, name: str) -> dict[str, Any]:
        return self.get(f"/v1/videos/{name}").json()

    def until(self, name: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        """The video once it is in one of these states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            video = self.video(name)
            if video["cogvideox"]["state"] in states:
                return video
            time.sleep(0.05)
        raise AssertionError(f"not {states} in {seconds} s: {video}; {self.server.log.read_text()}")

    def ready(self, seconds: float = 90.0) -> Client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.get("/health").json()["ready"]:
                return self
            time.sleep(0.1)
        raise AssertionError(self.server.log.read_text())

    def workers(self) -> list[int]:
        """Ids of the worker processes: children of the server that run the worker."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (
                    parent == self.server.process.pid
                    and b"studio.worker" in (folder / "cmdline").read_bytes()
                ):
                    found.append(int(folder.name))
        return found

    @staticmethod
    def lives(number: int) -> bool:
        """Whether a process does something: one that ended and was not waited for yet does nothing."""
        try:
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def kill_worker(self) -> None:
        for number in self.workers():
            os.kill(number, 9)


@contextlib.contextmanager
def studio(folder: Path, *arguments: str, verb: str = "serve", **options: Any) -> Iterator[Client]:
    out = folder / "studio"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with serving(folder, "--out", str(out), *arguments, verb=(verb,), env=environment, **options) as server:
        yield Client(server.port, out, server)


def final_transitions(database: Path) -> dict[str, list[str]]:
    """The final states that each video went into, by id, in order: one for each that has ended."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        found: dict[str, list[str]] = {}
        for name, becomes in db.execute("SELECT id, becomes FROM transitions ORDER BY number"):
            found.setdefault(name, [])
            if becomes in ("completed", "failed", "cancelled"):
                found[name].append(becomes)
    return found


def check_folder(out: Path) -> dict[str, str]:
    """States by id; raises AssertionError unless every completed video is whole and nothing else is there."""
    from cogvideox.video import read_video

    with contextlib.closing(sqlite3.connect(out / "studio.sqlite")) as db:
        states = dict(db.execute("SELECT id, state FROM videos"))
        shown = {
            name for (name,) in db.execute("SELECT id FROM videos WHERE state = 'completed' AND bytes > 0")
        }
    there = {path.name for path in (out / "videos").iterdir() if not path.name.startswith(".")}
    assert there == shown, there ^ shown
    for name in there:
        assert len(read_video(out / "videos" / name / "video.mp4")) > 0
    ends = final_transitions(out / "studio.sqlite")
    assert all(len(each) <= 1 for each in ends.values()), ends
    assert all(
        ends[name] == [state]
        for name, state in states.items()
        if state in ("completed", "failed", "cancelled")
    )
    return states

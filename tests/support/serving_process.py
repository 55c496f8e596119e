"""A server of ours (``cogvideox rate serve``, ``cogvideox serve``) as a process, its log in a file."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogvideox.video import Video


@dataclass
class Serving:
    process: subprocess.Popen
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, verb: tuple[str, ...] = ("rate", "serve"), **options
) -> Iterator[Serving]:
    log = folder / "log.txt"
    command = [sys.executable, "-m", "cogvideox", *verb, *arguments, "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, **options)
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), log.read_text()
        yield Serving(process, url, log)
    finally:
        process.terminate()
        process.wait(40)
        process.stdout.close()


def videos(
    folder: Path,
    num: int = 2,
    frames: int = 5,
    size: int = 16,
    fps: float = 8,
    seed: int = 0,
    end: str = ".mp4",
):
    """A folder of noise, ``0.mp4`` and so on."""
    rng = np.random.default_rng(seed)
    for place in range(num):
        noise = rng.integers(0, 255, (frames, size, size * 3 // 2, 3), np.uint8)
        Video(noise, fps).save(folder / f"{place}{end}")
    return folder


def ask(port: int) -> tuple[int, dict]:
    """What comes next, as the page asks it."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.request("POST", "/api/next", json.dumps({"name": "ann"}), {"content-type": "application/json"})
    answer = line.getresponse()
    said = answer.status, json.loads(answer.read())
    line.close()
    return said

"""The folder of a studio: where videos and uploads lie, who holds it, and what a killed server left in it.

studio.sqlite       the queue (``VideoQueue``)
videos/ID/          one completed video: video.mp4, video.json, thumbnail.webp, spritesheet.jpg, facts.json
inputs/ID.png|mkv   uploads, decoded and written again by us
incoming/           uploads on their way in
previews/ID.gif     videos that are being made
logs/               what workers wrote on stderr
.server             the lock; workers hold it too
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogvideox.errors import ConfigError, OutputError
from cogvideox.files import read_json
from cogvideox.files.atomic import discard, sweep
from cogvideox.files.lock import hold

DATABASE, VIDEOS, INPUTS, INCOMING, PREVIEWS, LOGS = (
    "studio.sqlite", "videos", "inputs", "incoming", "previews", "logs",
)  # fmt: skip
LOCK = ".server"
FACTS = "facts.json"
VARIANTS = {
    "video": ("video.mp4", "video/mp4"),
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.jpg", "image/jpeg"),
    "settings": ("video.json", "application/json"),
}
"""What can be downloaded of a video: its file and media type."""
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")
INPUT_ID = re.compile(r"input_[0-9a-f]{32}")
ENDINGS = ("png", "mkv")


class StudioFolder:
    """The paths of a studio; every name in it is made here, from ids of ours, never from what a client sent."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def database(self) -> Path:
        """The file of the queue."""
        return self.root / DATABASE

    def make(self) -> None:
        """Make the folders, readable by their owner alone. Raises OutputError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in (VIDEOS, INPUTS, INCOMING, PREVIEWS, LOGS):
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
                (self.root / name).chmod(0o700)
        except OSError as error:
            raise OutputError(
                f"{self.root}: cannot be made ({error.strerror}); choose another --out"
            ) from None

    def video(self, name: str) -> Path:
        """The folder of a video. Raises ConfigError for what is no id of ours."""
        return self.root / VIDEOS / _checked(name, VIDEO_ID)

    def input(self, name: str, ending: str) -> Path:
        """The file of an upload. Raises ConfigError for what is no id of ours."""
        if ending not in ENDINGS:
            raise ConfigError(f"{ending!r}: no ending of an upload; one of {', '.join(ENDINGS)}")
        return self.root / INPUTS / f"{_checked(name, INPUT_ID)}.{ending}"

    def preview(self, name: str) -> Path:
        """The picture of a video that is being made."""
        return self.root / PREVIEWS / f"{_checked(name, VIDEO_ID)}.gif"

    def incoming(self, name: str) -> Path:
        """Where an upload is written to as it comes."""
        return self.root / INCOMING / f"{_checked(name, INPUT_ID)}.part"

    def log(self, number: int) -> Path:
        """The log of a worker, by its number."""
        return self.root / LOGS / f"worker-{number}.txt"

    def facts_of(self, name: str) -> tuple[dict[str, Any], int] | None:
        """Facts and bytes of a video whose folder is there: it appears whole or not at all. None: it is not there."""
        folder = self.video(name)
        try:
            facts = read_json(folder / FACTS)
        except ConfigError:
            return None
        return (facts, bytes_below(folder)) if isinstance(facts, dict) else None

    @contextmanager
    def held(self, seconds: float = 15.0) -> Iterator[int]:
        """Hold the folder: yields the descriptor that workers are given, so that it stays held until they are dead too.

        Waits so long for workers of a server that was killed. Raises ConfigError where another one is at work.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                number = hold(self.root / LOCK)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    holder = error.strerror or "another process"
                    why = f"a studio is at work there ({holder}, or a worker of it)"
                    raise ConfigError(f"{self.root}: {why}; choose another --out") from None
                time.sleep(0.05)
            except OSError as error:
                raise OutputError(
                    f"{self.root / LOCK}: cannot be locked ({error}); choose another --out"
                ) from None
        try:
            with suppress(OSError):
                os.ftruncate(number, 0)
                os.write(number, f"{socket.gethostname()} process {os.getpid()}".encode())
            yield number
        finally:
            os.close(number)

    def clean(self, videos: set[str], inputs: set[str]) -> list[str]:
        """Remove what no entry of the queue speaks of: call it when no worker is alive. The names that went.

        ``videos``: ids that have a folder; ``inputs``: ids that have a file. Only names of ours are touched.
        """
        gone = []
        for name in (VIDEOS, INPUTS, PREVIEWS):
            sweep(self.root / name)
        for folder in (self.root / VIDEOS).iterdir():
            if VIDEO_ID.fullmatch(folder.name) and folder.name not in videos:
                discard(folder)
                gone.append(folder.name)
        for file in (self.root / INPUTS).iterdir():
            if INPUT_ID.fullmatch(file.stem) and file.stem not in inputs:
                discard(file)
                gone.append(file.name)
        for name, known in ((INCOMING, INPUT_ID), (PREVIEWS, VIDEO_ID)):
            for file in (self.root / name).iterdir():
                if known.fullmatch(file.stem):
                    discard(file)
        return gone

    def free_bytes(self) -> int:
        """Bytes that are free on the disk of the folder."""
        return shutil.disk_usage(self.root).free


def bytes_below(folder: Path) -> int:
    """Bytes of the files in a folder of ours; 0 where it is gone."""
    total = 0
    with suppress(OSError):
        for each in os.scandir(folder):
            with suppress(OSError):
                total += each.stat(follow_symlinks=False).st_size
    return total


def _checked(name: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(name):
        raise ConfigError(f"{name[:60]!r}: not an id of this server")
    return name

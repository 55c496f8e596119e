"""Where the running videos are, in memory: workers write, pages and clients read. Nothing here survives the server.

What must survive (states, results) stands in the queue; this is what makes a page move.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LiveProgress:
    """Where one video is: ``stage`` with ``done`` of ``total``, ``percent`` of the whole, ``seconds_left`` where known.

    ``preview``: how often the picture of it has changed; 0: there is none. ``moment``: when this was heard (monotonic).
    """

    stage: str = "starting"
    done: int = 0
    total: int = 1
    percent: int = 0
    seconds_left: float | None = None
    preview: int = 0
    moment: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        """These facts for an answer."""
        facts = asdict(self)
        del facts["moment"]
        return facts


class ProgressBoard:
    """The progress of videos by id. Threads may share it; ``version`` grows with every change of any video."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: dict[str, LiveProgress] = {}
        self._versions: dict[str, int] = {}
        self.version = 0

    def get(self, name: str) -> LiveProgress | None:
        """Where a video is; None while nobody works on it."""
        return self._progress.get(name)

    def version_of(self, name: str) -> int:
        """Grows with every change of this video."""
        return self._versions.get(name, 0)

    def begin(self, name: str) -> None:
        """A worker has been given a video."""
        self._set(name, LiveProgress())

    def report(self, name: str, **facts: Any) -> None:
        """News of a video that is being made; those of one that is not are dropped."""
        before = self._progress.get(name)
        if before is not None:
            self._set(name, replace(before, **facts, moment=time.monotonic()))

    def end(self, name: str) -> None:
        """Nobody works on a video any more; readers look into the queue."""
        with self._lock:
            self._progress.pop(name, None)
        self.touch(name)

    def touch(self, name: str) -> None:
        """The entry of a video in the queue has changed."""
        with self._lock:
            self.version += 1
            self._versions[name] = self.version
            if len(self._versions) > 10_000:  # the oldest half: whoever still reads those sees no difference
                for old in list(self._versions)[:5_000]:
                    del self._versions[old]

    def _set(self, name: str, progress: LiveProgress) -> None:
        with self._lock:
            self._progress[name] = progress
        self.touch(name)

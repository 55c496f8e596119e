"""Uploads: written to disk as they come, decoded in confined processes, kept under an id of ours.

The same processes make variants of finished videos.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.curation.confined import clean_environment
from cogvideox.engines import Processes
from cogvideox.errors import MediaError, OutputError
from cogvideox.files.atomic import discard
from cogvideox.studio.folder import StudioFolder
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.queue import VideoQueue, new_id
from cogvideox.worker_pool import JobQueue, WorkerPool


@dataclass(frozen=True)
class IncomingFile:
    """A file of a request that is on disk, not decoded yet: its id to be, where it lies, its bytes and SHA-256."""

    id: str
    path: Path
    size: int
    digest: str


class Uploads:
    """Takes uploads in. Threads may share it; ``limits.decoders`` of them are decoded at the same time."""

    def __init__(self, folder: StudioFolder, queue: VideoQueue, limits: StudioLimits) -> None:
        self.folder, self.queue, self.limits = folder, queue, limits
        self._threads = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        self._of_thread = (
            threading.local()
        )  # a process dies with the thread that started it: each has its own
        self._pools: list[WorkerPool] = []

    def receive(self) -> Receiving:
        """A new file to write to as it comes."""
        name = new_id("input")
        return Receiving(name, self.folder.incoming(name), self.limits.video_bytes)

    def keep(self, incoming: IncomingFile, owner: str) -> Future[dict[str, Any]]:
        """Decode a file and keep it under its id: facts about it, with ``id``. Raises MediaError or OutputError."""
        return self._threads.submit(self._keep, incoming, owner)

    def _keep(self, incoming: IncomingFile, owner: str) -> dict[str, Any]:
        target = self.folder.input(incoming.id, "png").with_suffix("")
        try:
            facts = self._decoded(incoming.path, target)
        finally:
            discard(incoming.path)
        file = self.folder.input(incoming.id, facts["ending"])
        facts = {"id": incoming.id, **facts, "bytes": file.stat().st_size}
        self.queue.add_input(incoming.id, owner, facts["ending"], facts["bytes"], facts)
        return facts

    def _decoded(self, source: Path, target: Path) -> dict[str, Any]:
        return self._run({"source": str(source), "target": str(target)}, "upload")

    def export(self, source: Path, target: Path, variant: str) -> Future[dict[str, Any]]:
        """Make a variant of a finished video (``variants.export``) in a confined process too. Raises as ``keep``."""
        job = {"source": str(source), "target": str(target), "variant": variant}
        return self._threads.submit(self._run, job, variant)

    def _run(self, job: dict[str, str], what: str) -> dict[str, Any]:
        """What a confined process says of a job. Raises MediaError, OutputError, which begin with ``what``."""
        [outcome] = self._pool().run(JobQueue([job]))
        if outcome.error in ("crashed", "too slow"):
            raise MediaError(f"{what}: could not be decoded ({outcome.detail}); export it again")
        if outcome.error == "OutputError":
            raise OutputError(f"{what}: cannot be kept ({outcome.detail})")
        if outcome.error:
            raise MediaError(f"{what}: {outcome.detail}")
        return dict(outcome.answer)

    def _pool(self) -> WorkerPool:
        pool = getattr(self._of_thread, "pool", None)
        if pool is None:
            processes = Processes(
                "cogvideox.studio.decode_upload",
                self.limits.model_dump(mode="json"),
                clean_environment(os.environ) | {"OMP_NUM_THREADS": "1"},
                self.limits.decode_seconds + 5,
                int(self.limits.decode_seconds),
            )
            pool = self._of_thread.pool = WorkerPool(processes, 1, deaths=1)
            self._pools.append(pool)
        return pool

    def remove_old(self, before: float) -> None:
        """Remove uploads older than a time that no waiting video uses."""
        for name, ending in self.queue.old_inputs(before):
            self.remove(name, ending)

    def remove(self, name: str, ending: str) -> None:
        """Remove an upload that nothing uses."""
        self.queue.remove_input(name)
        discard(self.folder.input(name, ending))

    def close(self) -> None:
        """End the processes; what is being decoded is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            for worker in pool.workers:
                with suppress(OSError):
                    worker.link.process.kill()


class Receiving:
    """One file on its way to disk. Raises MediaError when it grows beyond the limit; ``give_up`` removes it."""

    def __init__(self, name: str, path: Path, most: int) -> None:
        self.name, self.path, self.most, self.size = name, path, most, 0
        self._digest = hashlib.sha256()
        try:
            self._stream = open(path, "xb", opener=_private)  # noqa: SIM115  closed by done and give_up
        except OSError as error:
            raise OutputError(f"upload: cannot be written ({error.strerror}); free some space") from None

    def write(self, data: bytes) -> None:
        """Add what has come. Raises MediaError, OutputError."""
        self.size += len(data)
        if self.size > self.most:
            raise MediaError(f"upload: more than {self.most:,} bytes, the limit; shorten it or scale it down")
        self._digest.update(data)
        try:
            self._stream.write(data)
        except OSError as error:
            raise OutputError(f"upload: cannot be written ({error.strerror}); free some space") from None

    def done(self) -> IncomingFile:
        """The whole file. Raises MediaError for an empty one, OutputError where its last bytes cannot be written."""
        try:
            self._stream.close()
        except OSError as error:
            self.give_up()
            raise OutputError(f"upload: cannot be written ({error.strerror}); free some space") from None
        if not self.size:
            self.give_up()
            raise MediaError("upload: is empty; send the file itself")
        return IncomingFile(self.name, self.path, self.size, self._digest.hexdigest())

    def give_up(self) -> None:
        """Remove what has come so far."""
        with suppress(OSError):  # a full disk, which has no room for what is still to be written
            self._stream.close()
        discard(self.path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

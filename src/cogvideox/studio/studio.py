"""A studio at work: folder, queue, workers, uploads and webhooks together, and what routes do with them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideox.errors import InputError
from cogvideox.files.digest import sha256_of_values
from cogvideox.progress import say
from cogvideox.studio.api_errors import ApiError
from cogvideox.studio.exports import Exports
from cogvideox.studio.folder import StudioFolder
from cogvideox.studio.keys import KeyHolder
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.progress_board import ProgressBoard
from cogvideox.studio.public_text import model_names
from cogvideox.studio.queue import NewVideo, QueuedVideo, VideoQueue
from cogvideox.studio.request import Offer, VideoRequest, file_options
from cogvideox.studio.uploads import Uploads
from cogvideox.studio.video_object import video_object
from cogvideox.studio.video_workers import VideoWorkers
from cogvideox.studio.webhooks import Webhooks
from cogvideox.studio.worker_settings import WorkerSettings

SHOWN = 2000  # videos whose JSON is kept
PLANS = 8  # that are waited for at the same time; others wait without a thread
ENHANCED = 4  # prompts that are written out at the same time
SHIPPED = ("tiny", "tiny-i2v")
"""The models of a server that was given none; "" chooses of them by what is given."""


@dataclass(frozen=True, kw_only=True)
class StudioSettings:
    """What a studio is started with: its folder, how workers run models, hosts of webhooks, limits.

    ``workers``: processes; None: one for each GPU, one without. ``engine``: local, or ray for workers on a cluster.
    """

    root: Path
    worker: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    engine: str = "local"
    webhook_hosts: tuple[str, ...] = ()
    limits: StudioLimits = field(default_factory=StudioLimits)


class Studio:
    """What the routes share. Made by ``opened``, which recovers what a killed server left."""

    def __init__(self, settings: StudioSettings, lock: int) -> None:
        self.limits, self.folder = settings.limits, StudioFolder(settings.root)
        self.queue = VideoQueue(self.folder.database)
        self.board = ProgressBoard()
        own = WorkerSettings.parse({**settings.worker, "root": str(self.folder.root)})
        self.is_shipped, self.enhances = not own.models, own.enhance is not None
        own = own.changed(models=own.models or SHIPPED)
        self.offer = Offer(
            tuple(model_names(own.models)), tuple(own.adapters), settings.webhook_hosts, settings.limits
        )
        self.uploads = Uploads(self.folder, self.queue, settings.limits)
        self.exports = Exports(self.folder, self.uploads)
        self.webhooks = Webhooks(self.queue, self.folder)
        self.workers = VideoWorkers(
            self.queue, self.folder, own, settings.limits, self.board,
            lock=lock, workers=settings.workers, engine=settings.engine, on_end=self._ended, tidy=self._tidy,
        )  # fmt: skip
        self.started = time.time()
        self.planning, self.enhancing = asyncio.Semaphore(PLANS), asyncio.Semaphore(ENHANCED)
        self._adding = threading.Lock()
        self._shown: dict[str, tuple[int, str, bytes]] = {}

    def recover(self) -> None:
        """Bring queue and files together after a kill: each video of the queue has its files, and no other is there."""
        changed = self.queue.recover(self.folder.facts_of, self.limits.interruptions)
        gone = self.folder.clean(*self.queue.names())
        if changed or gone:
            say(f"recovered: {len(changed)} videos that were being made, {len(gone)} files of none removed")

    def _ended(self, video: QueuedVideo) -> None:
        say(f"{video.id}: {video.state}" + (f" ({video.error['code']})" if video.error else ""))
        self.webhooks.wake()

    def _tidy(self) -> None:
        self.uploads.remove_old(self.queue.clock() - 3600 * self.limits.input_hours)

    # what routes do

    def mine(self, user: KeyHolder, name: str) -> QueuedVideo:
        """A video of a user. Raises ApiError 404 for another's, a deleted one and one that there is not."""
        video = self.queue.get(name)
        if video is None or video.owner != user.name or video.deleted is not None:
            raise ApiError(404, "no such video", "video_not_found", param="video_id")
        return video

    def shown(self, user: KeyHolder, name: str) -> bytes:
        """A video of a user as JSON, rendered once until something of it changes: what pollers ask for.

        Raises ApiError 404 as ``mine`` does.
        """
        version = self.board.version_of(name)  # first: what changes after this makes it old
        kept = self._shown.get(name)
        if kept is not None and kept[:2] == (version, user.name):
            return kept[2]
        video = self.mine(user, name)
        text = json.dumps(video_object(video, self.board, self.queue), ensure_ascii=False).encode()
        if video.state != "queued":  # whose position changes with others
            if len(self._shown) >= SHOWN:
                self._shown.clear()
            self._shown[name] = version, user.name, text
        return text

    def check_room(self, user: KeyHolder) -> None:
        """Raises ApiError 429 where the queue is full for a user, 507 where the disk is, 503 while it stops."""
        if self.workers.stopping.is_set():
            raise ApiError(503, "the server is stopping", "stopping", wait=30)
        waiting, most = self.queue.waiting(user.name), min(user.queued, self.limits.queued_for_one)
        if waiting >= most:
            videos = "video waits" if waiting == 1 else "videos wait"
            why = f"{waiting} of your {videos}, the most is {most}; wait for one to end, or cancel one"
            raise ApiError(429, why, "queue_full", wait=10)
        if self.queue.waiting() >= self.limits.queued:
            raise ApiError(
                429,
                f"{self.limits.queued} videos are waiting, the most; try again later",
                "queue_full",
                wait=30,
            )
        used = self.queue.bytes_used(user.name)
        if used >= user.bytes:
            why = f"your videos and uploads take {used:,} bytes, your quota is {user.bytes:,}; delete some"
            raise ApiError(507, why, "quota_exceeded")
        if self.workers.paused:
            raise ApiError(
                507, "the disk of the server is full; tell its operator, or delete videos", "disk_full"
            )

    def check_uploads(self, user: KeyHolder, count: int) -> None:
        """Raises ApiError 429 where so many uploads more would be too many for a user."""
        kept = self.queue.count_inputs(user.name)
        if kept + count > self.limits.inputs_for_one:
            why = (
                f"{kept} uploads are kept for you, the most is {self.limits.inputs_for_one}; try again later"
            )
            raise ApiError(429, why, "too_many_uploads", wait=60)

    def plan(self, user: KeyHolder, request: VideoRequest) -> dict[str, Any] | None:
        """Memory and time of a request, without a weight loaded; None where no worker can say so now.

        Raises InputError for what cannot be made.
        """
        plain = self._plain(request)
        files = file_options(plain, user.name, self.queue, self.folder)
        return self.workers.plan(plain, files, self.limits.plan_seconds)

    def enhance(self, prompt: str, model: str) -> dict[str, Any] | None:
        """A prompt written out for a model, by what the server was started with; None where nobody does it in time.

        Raises InputError.
        """
        if not self.enhances:
            raise InputError("enhance: nobody writes prompts out here; start the server with --enhance rules")
        return self.workers.enhance(prompt, model, self.limits.enhance_seconds)

    def add(
        self,
        user: KeyHolder,
        request: VideoRequest,
        plan: Mapping[str, Any] | None,
        digest: str,
        key: str | None,
    ) -> QueuedVideo:
        """Queue a video: it is on disk when this returns. Raises ApiError 409 for a used key with another request, and
        as ``check_room`` does: others may have been queued while this one was planned."""
        with self._adding:
            if key is None or self.queue.with_key(user.name, key) is None:
                self.check_room(user)
            video = self.queue.add(NewVideo(user.name, self._plain(request), plan or {}, digest, key))
        check_same(video, digest)
        self.board.touch(video.id)
        self.workers.wake()
        return video

    def _plain(self, request: VideoRequest) -> dict[str, Any]:
        """The request as workers read it; of the shipped models the one that reads what is given."""
        plain = request.to_dict()
        if self.is_shipped and request.model == SHIPPED[0]:
            pictures = request.keyframes or {"image", "last_image"} & set(request.inputs)
            plain["model"] = SHIPPED[1] if pictures else SHIPPED[0]
        return plain

    def change_of(self, source: QueuedVideo, prompt: str, use: str) -> VideoRequest:
        """A request that changes a completed video by another prompt, or continues it, with its own settings.

        Raises InputError where it has not ended well.
        """
        if source.state != "completed":
            raise InputError(f"video_id: the video is {source.state}; only a completed one can be used")
        settings = {"seed": source.result.get("seed"), **source.request["settings"]}
        settings.pop("video_use", None)
        return VideoRequest(
            model=source.request["model"],
            settings={**settings, "prompt": prompt or settings["prompt"], "video_use": use},
            inputs={"video": source.id},
            adapters=source.request["adapters"],
            remixed_from=source.id,
        )

    def close(self) -> None:
        """A clean stop; running videos have ``limits.stop_seconds`` to end, the others wait for the next start."""
        self.workers.stop(self.limits.stop_seconds)
        self.webhooks.close()
        self.uploads.close()
        self.queue.close()


@contextmanager
def opened(settings: StudioSettings) -> Iterator[Studio]:
    """A studio on its folder, which is held meanwhile. Raises ConfigError where another one is at work there."""
    folder = StudioFolder(settings.root)
    folder.make()
    with folder.held() as lock:
        studio = Studio(settings, lock)
        try:
            studio.recover()
            studio.webhooks.start(bool(settings.webhook_hosts))
            studio.workers.start()
            yield studio
        finally:
            studio.close()


def digest_of(fields: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """What tells whether two requests with one idempotency key are the same; ``files``: SHA-256 by field."""
    return sha256_of_values({"fields": fields, "files": dict(files)}, 64)


def check_same(video: QueuedVideo, digest: str) -> None:
    """Raises ApiError 409 where a video was queued by another request with the same idempotency key, or was deleted."""
    if video.deleted is not None:
        why = "the video of this idempotency key was deleted; choose a new one for a new video"
        raise ApiError(409, why, "idempotency_conflict", param="Idempotency-Key")
    if video.digest != digest:
        why = "the idempotency key was used for another request; choose a new one"
        raise ApiError(409, why, "idempotency_conflict", param="Idempotency-Key")

"""Variants of a video that are made when somebody asks for them: written, sent, and removed again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from cogvideox.files.atomic import discard
from cogvideox.studio.api_errors import ApiError
from cogvideox.studio.folder import StudioFolder
from cogvideox.studio.queue import new_id
from cogvideox.studio.uploads import Uploads

ENDINGS = {"gif": ("gif", "image/gif"), "frames": ("zip", "application/zip"), "frame": ("png", "image/png")}
MOST = 8  # that lie on the disk at a time, also while they are sent slowly


class Exports:
    """Makes variants in the confined processes of ``Uploads``; ``there`` are the files that lie on the disk now."""

    def __init__(self, folder: StudioFolder, uploads: Uploads) -> None:
        self.folder, self.uploads = folder, uploads
        self.there: set[Path] = set()

    async def answer(self, video: Path, variant: str, name: str) -> FileResponse:
        """A variant of the file of a video as an attachment ``name`` with its ending.

        Raises ApiError 429 where ``MOST`` are there already, MediaError or OutputError for one that cannot be made.
        """
        if len(self.there) >= MOST:
            why = f"{len(self.there)} downloads are being prepared, the most; try again in a moment"
            raise ApiError(429, why, "too_many_exports", wait=5)
        target = self.folder.incoming(new_id("input"))
        self.there.add(target)
        made, future = False, self.uploads.export(video, target, variant)
        try:
            await asyncio.wrap_future(future)
            made = True
        finally:
            if not made:  # also when nobody waits for it any more: it goes when it has ended
                future.add_done_callback(lambda _: self._gone(target))
        ending, kind = ENDINGS[variant]
        return _SentOnce(
            target, lambda: self._gone(target), media_type=kind, filename=f"{name}.{ending}"
        )  # fmt: skip

    def _gone(self, target: Path) -> None:
        discard(target)
        self.there.discard(target)


class _SentOnce(FileResponse):
    """A file that is removed once it was sent, or could not be."""

    def __init__(self, path: Path, gone: Callable[[], None], **facts: Any) -> None:
        super().__init__(path, **facts)
        self.gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await run_in_threadpool(self.gone)

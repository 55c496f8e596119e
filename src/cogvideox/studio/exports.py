"""Variants of a finished video that are made when somebody downloads them: written, sent, and removed again."""

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

ENDINGS = {"gif": ("gif", "image/gif"), "frames": ("zip", "application/zip")}
MOST = 8  # that lie on the disk at a time, also while they are sent slowly


class Exports:
    """Makes variants in the confined processes of ``Uploads``; at most ``MOST`` are there at a time."""

    def __init__(self, folder: StudioFolder, uploads: Uploads) -> None:
        self.folder, self.uploads, self.count = folder, uploads, 0

    async def answer(self, video: Path, variant: str, name: str) -> FileResponse:
        """A variant of the file of a video as an attachment ``name`` with its ending.

        Raises ApiError 429 where too many are being made, MediaError or OutputError for one that cannot be.
        """
        if self.count >= MOST:
            why = f"{self.count} downloads are being prepared, the most; try again in a moment"
            raise ApiError(429, why, "too_many_exports", wait=5)
        self.count += 1
        target = self.folder.incoming(new_id("input"))
        ending, kind = ENDINGS[variant]
        try:
            await asyncio.wrap_future(self.uploads.export(video, target, variant))
        except BaseException:
            self._gone(target)
            raise
        return _SentOnce(
            target, lambda: self._gone(target), media_type=kind, filename=f"{name}.{ending}",
        )  # fmt: skip

    def _gone(self, target: Path) -> None:
        self.count -= 1
        discard(target)


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

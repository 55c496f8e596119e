"""Routes that OpenAI's API does not have: plan, uploads, cancel, progress as events, favourites, sessions, health."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from cogvideox.errors import ConfigError, InputError
from cogvideox.files.atomic import discard
from cogvideox.studio.access import COOKIE, TOKEN, Access
from cogvideox.studio.api_errors import ApiError
from cogvideox.studio.form import read_fields
from cogvideox.studio.keys import KeyHolder
from cogvideox.studio.queue import PageQuery
from cogvideox.studio.request import read_request
from cogvideox.studio.routing import route, routes_of
from cogvideox.studio.schema import CREATE_BODY, ENHANCE_BODY
from cogvideox.studio.studio import Studio
from cogvideox.studio.video_object import video_object

LOOKS = 0.2  # seconds between two looks for news
HEARTBEAT = 15.0  # seconds after which a stream without news says that it lives
RECENT = 100  # videos that a stream of all tells of


class AddedRoutes:
    """The routes of this server's own on a studio."""

    def __init__(self, studio: Studio, access: Access) -> None:
        self.studio, self.access = studio, access

    @route("POST", "/v1/plan", openapi_extra=CREATE_BODY)
    async def plan(self, request: Request) -> Response:
        """What a video would need, without queueing it: size, length, memory, estimated time. Body as for a video."""
        user = self.access.who(request)
        fields = await _without_files(request, self.studio)
        async with self.studio.planning:
            needs = await run_in_threadpool(self.studio.plan, user, read_request(fields, self.studio.offer))
        if needs is None:
            raise ApiError(503, "no worker is ready to plan; try again in a moment", "not_ready", wait=2)
        return JSONResponse(needs)

    @route("POST", "/v1/enhance", openapi_extra=ENHANCE_BODY)
    async def enhance(self, request: Request) -> Response:
        """A prompt written out the way training captions are, with what did it (``by``). Nothing is queued."""
        self.access.who(request)
        fields = await _without_files(request, self.studio)
        if not str(fields.get("prompt", "")).strip():
            raise InputError(
                "prompt: empty, so there is nothing to write out; say what the video should show"
            )
        asked = read_request(fields, self.studio.offer)
        async with self.studio.enhancing:
            written = await run_in_threadpool(self.studio.enhance, asked.settings["prompt"], asked.model)
        if written is None:
            raise ApiError(503, "nobody is ready to write prompts out; try again", "not_ready", wait=5)
        return JSONResponse(written)

    @route("POST", "/v1/inputs")
    async def upload(self, request: Request) -> Response:
        """Upload one image or video as the field ``file`` of a form; its id can be used for a day. Of a video made by
        this program the settings in its tags are told too."""
        user = self.access.who(request)
        self.studio.check_room(user)
        fields, files = await read_fields(request, self.studio.uploads, self.studio.limits)
        left = dict(files)
        try:
            if set(files) != {"file"} or fields:
                raise ConfigError("file: one file as the field 'file' of a form is expected; send just that")
            self.studio.check_uploads(user, 1)
            return JSONResponse(
                await asyncio.wrap_future(self.studio.uploads.keep(left.pop("file"), user.name))
            )
        finally:
            for each in left.values():
                await run_in_threadpool(discard, each.path)

    @route("GET", "/v1/inputs/{input_id}/content", head=True)
    async def uploaded(
        self, request: Request, input_id: str, variant: Literal["file", "frame"] = "file"
    ) -> Response:
        """An upload, as it was written again: PNG or lossless Matroska. ``frame``: the first frame of a video as PNG,
        a picture as it is."""
        found = self.studio.queue.input(self.access.who(request).name, input_id)
        if found is None:
            raise ApiError(404, "no such upload", "input_not_found", param="input_id")
        path = self.studio.folder.input(input_id, found["ending"])
        if found["ending"] == "png":
            return FileResponse(path, media_type="image/png")
        if variant == "frame":
            return await self.studio.exports.answer(path, variant, input_id)
        return FileResponse(path, media_type="video/x-matroska")

    @route("POST", "/v1/videos/{video_id}/cancel")
    async def cancel(self, request: Request, video_id: str) -> Response:
        """Cancel a video: a waiting one at once, a running one at its next step. One that has ended stays as it is."""
        video = self.studio.mine(self.access.who(request), video_id)
        changed = await run_in_threadpool(self.studio.queue.cancel, video.id)
        self.studio.board.touch(video.id)
        self.studio.workers.wake()
        return JSONResponse(video_object(changed or video, self.studio.board, self.studio.queue))

    @route("POST", "/v1/videos/{video_id}/restore")
    async def restore(self, request: Request, video_id: str) -> Response:
        """Bring a deleted video back, within the time for that."""
        user, video = self.access.who(request), self.studio.queue.get(video_id)
        if (
            video is None
            or video.owner != user.name
            or not await run_in_threadpool(self.studio.queue.restore, video_id)
        ):
            raise ApiError(
                404, "no such video that could be brought back", "video_not_found", param="video_id"
            )
        self.studio.board.touch(video_id)
        return JSONResponse(
            video_object(self.studio.mine(user, video_id), self.studio.board, self.studio.queue)
        )

    @route("POST", "/v1/videos/{video_id}/favourite")
    async def favourite(self, request: Request, video_id: str, value: bool = True) -> Response:
        """Mark a video as a favourite, or with ``value=false`` not."""
        video = self.studio.mine(self.access.who(request), video_id)
        await run_in_threadpool(self.studio.queue.set_favourite, video.id, value)
        self.studio.board.touch(video.id)
        return JSONResponse(
            video_object(
                self.studio.mine(self.access.who(request), video_id), self.studio.board, self.studio.queue
            )
        )

    @route("GET", "/v1/videos/{video_id}/preview")
    async def preview(self, request: Request, video_id: str) -> Response:
        """The picture so far of a video that is being made, as a small GIF."""
        path = self.studio.folder.preview(self.studio.mine(self.access.who(request), video_id).id)
        if not path.is_file():
            raise ApiError(404, "there is no picture of it yet", "preview_not_found", param="video_id")
        return Response(await run_in_threadpool(path.read_bytes), media_type="image/gif")


def more_routes(studio: Studio, access: Access) -> APIRouter:
    """The routes of this server's own on a studio."""
    return routes_of(AddedRoutes(studio, access), "Additions")


class EventRoutes:
    """Progress as server-sent events, of one video and of all videos of a user."""

    def __init__(self, studio: Studio, access: Access) -> None:
        self.studio, self.access = studio, access

    @route("GET", "/v1/videos/{video_id}/events")
    async def one(self, request: Request, video_id: str) -> Response:
        """News of one video as server-sent events, each the whole video; the stream ends when the video has ended."""
        user = self.access.who(request)
        self.studio.mine(user, video_id)

        def news(since: int) -> tuple[int, list[dict[str, Any]], bool]:
            version = self.studio.board.version_of(video_id)
            if version == since:
                return since, [], False
            video = self.studio.queue.get(video_id)
            if video is None or video.deleted is not None:
                return version, [], True
            return version, [video_object(video, self.studio.board, self.studio.queue)], video.is_final

        return _stream(self.studio, lambda: self.access.who(request), news)

    @route("GET", "/v1/events")
    async def every(self, request: Request) -> Response:
        """News of the user's videos as server-sent events: each video that has changed, whole."""
        user = self.access.who(request)
        versions: dict[str, int] = {}

        def news(since: int) -> tuple[int, list[dict[str, Any]], bool]:
            version = self.studio.board.version
            if version == since:
                return since, [], False
            videos, _ = self.studio.queue.page(user.name, PageQuery(RECENT))
            changed = [
                each for each in videos if versions.get(each.id) != self.studio.board.version_of(each.id)
            ]
            versions.update({each.id: self.studio.board.version_of(each.id) for each in changed})
            gone = set(versions) - {each.id for each in videos} if len(videos) < RECENT else set()
            for name in gone:
                del versions[name]
            shown = [video_object(each, self.studio.board, self.studio.queue) for each in reversed(changed)]
            return (
                version,
                shown + [{"id": name, "object": "video.deleted", "deleted": True} for name in gone],
                False,
            )

        return _stream(self.studio, lambda: self.access.who(request), news)


def event_routes(studio: Studio, access: Access) -> APIRouter:
    """Progress as server-sent events, of one video and of all videos of a user."""
    return routes_of(EventRoutes(studio, access), "Additions")


News = Callable[[int], tuple[int, list[dict[str, Any]], bool]]
"""The version seen last to: the version now, what is new, whether that was the last."""


def _stream(studio: Studio, who: Callable[[], KeyHolder], news: News) -> Response:
    """News until the end; ``who`` is asked again before anything is told: a key may have been revoked meanwhile."""

    async def events() -> AsyncIterator[str]:
        version, heard = -1, time.monotonic()
        while not studio.workers.stopping.is_set():
            version, changed, last = news(version)
            if changed:
                try:
                    who()
                except ApiError:
                    return
            for each in changed:
                kind = "deleted" if each["object"] == "video.deleted" else "video"
                yield f"event: {kind}\ndata: {json.dumps(each)}\n\n"
            if last:
                return
            if changed:
                heard = time.monotonic()
            elif time.monotonic() - heard > HEARTBEAT:
                heard = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(LOOKS)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


class StatusRoutes:
    """Health, the queue as a whole, who one is, and sessions of browsers."""

    def __init__(self, studio: Studio, access: Access) -> None:
        self.studio, self.access = studio, access

    @route("GET", "/health")
    async def health(self) -> Response:
        """Whether the server works: 200 with ``ok`` true, or 503. Needs no key and tells nothing else."""
        workers = self.studio.workers
        alive = workers.failure is None and not workers.stopping.is_set()
        ready = alive and any(each.ready for each in [*workers.workers])
        return JSONResponse({"ok": alive, "ready": ready}, 200 if alive else 503)

    @route("GET", "/v1/queue")
    async def queue(self, request: Request) -> Response:
        """The queue: how many videos wait and run, of the user and of all; why nothing is begun, where that is so."""
        user, videos = self.access.who(request), self.studio.queue
        running = videos.running()
        return JSONResponse(
            {
                "waiting": videos.waiting(),
                "running": len(running),
                "yours": {
                    "waiting": videos.waiting(user.name),
                    "running": sum(each.owner == user.name for each in running),
                    "bytes": videos.bytes_used(user.name),
                },
                "quota": {
                    "waiting": min(user.queued, self.studio.limits.queued_for_one),
                    "bytes": user.bytes,
                },
                "paused": "the disk of the server is full" if self.studio.workers.paused else None,
                "workers": sum(each.ready for each in [*self.studio.workers.workers]),
            }
        )

    @route("GET", "/v1/session")
    async def session(self, request: Request) -> Response:
        """Who one is here, and the token that a page sends as the header ``x-cogvideox-token`` with what it changes."""
        user = self.access.who(request)
        return JSONResponse(
            {
                "user": user.name,
                "token": self.access.token,
                "header": TOKEN,
                "limits": _shown(self.studio, user),
                "adapters": list(self.studio.offer.adapters),
                "enhances": self.studio.enhances,
            }
        )

    @route("POST", "/v1/session")
    async def begin(self, request: Request) -> Response:
        """Begin a session of a browser with a key: ``{"key": ...}``. The cookie is for this server's pages alone."""
        fields = await _without_files(request, self.studio)
        value, holder = self.access.begin_session(str(fields.get("key", "")))
        answer = JSONResponse({"user": holder.name, "token": self.access.token, "header": TOKEN})
        answer.set_cookie(COOKIE, value, httponly=True, samesite="strict", path="/")
        return answer

    @route("DELETE", "/v1/session")
    async def end(self, request: Request) -> Response:
        """End the session of this browser."""
        self.access.end_session(request.cookies.get(COOKIE, ""))
        answer = JSONResponse({"ended": True})
        answer.delete_cookie(COOKIE)
        return answer


def status_routes(studio: Studio, access: Access) -> APIRouter:
    """Health, the queue as a whole, who one is, and sessions of browsers."""
    return routes_of(StatusRoutes(studio, access), "Additions")


async def _without_files(request: Request, studio: Studio) -> dict[str, Any]:
    """The fields of a request that takes no files. Raises ConfigError for one that has some; nothing of them stays."""
    fields, files = await read_fields(request, studio.uploads, studio.limits)
    for each in files.values():
        await run_in_threadpool(discard, each.path)
    if files:
        raise ConfigError("files: none are taken here; upload them to /v1/inputs and name their ids")
    return fields


def _shown(studio: Studio, user: KeyHolder) -> dict[str, Any]:
    """The limits that a page tells a user of."""
    names = [
        "prompt_characters",
        "image_bytes",
        "video_bytes",
        "video_frames",
        "video_seconds",
        "frames",
        "pixels",
        "steps",
        "undo_seconds",
    ]
    own = {"waiting": min(user.queued, studio.limits.queued_for_one), "bytes": user.bytes}
    return {name: getattr(studio.limits, name) for name in names} | own

"""``/v1/videos`` and ``/v1/models`` in OpenAI's shape: what its Python client calls, with the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse

from cogvideox.errors import ConfigError, InputError
from cogvideox.files.atomic import discard
from cogvideox.studio.access import Access
from cogvideox.studio.api_errors import ApiError
from cogvideox.studio.folder import VARIANTS
from cogvideox.studio.form import read_fields
from cogvideox.studio.keys import KeyHolder
from cogvideox.studio.queue import PageQuery, QueuedVideo
from cogvideox.studio.request import EXTENSION, VideoRequest, read_request
from cogvideox.studio.routing import route, routes_of
from cogvideox.studio.schema import CREATE_BODY, EDIT_BODY, REMIX_BODY
from cogvideox.studio.studio import SHIPPED, Studio, check_same, digest_of
from cogvideox.studio.uploads import IncomingFile
from cogvideox.studio.variants import MADE_LATER
from cogvideox.studio.video_object import file_name, video_object

MOST_PAGE = 100
IDEMPOTENCY = "idempotency-key"
DERIVED = ("prompt", "seconds", EXTENSION)
"""Fields of a request that changes or continues a video."""


class VideoRoutes:
    """The routes of OpenAI's video API on a studio."""

    def __init__(self, studio: Studio, access: Access) -> None:
        self.studio, self.access = studio, access

    @route("POST", "/v1/videos", openapi_extra=CREATE_BODY)
    async def create(self, request: Request) -> Response:
        """Queue a video. Fields of a form or of JSON: prompt, model, seconds, size, input_reference, cogvideox."""
        return self._answer(await create_video(self.studio, self.access.who(request), request))

    @route("GET", "/v1/videos")
    async def page(
        self,
        request: Request,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        search: str = "",
        state: Literal["", "queued", "running", "completed", "failed", "cancelled"] = "",
        favourite: bool = False,
    ) -> Response:
        """The user's videos, newest first; ``search``, ``state`` and ``favourite`` are additions of this server."""
        user = self.access.who(request)
        if not 1 <= limit <= MOST_PAGE:
            raise ApiError(400, f"limit: {limit} is not 1 to {MOST_PAGE}", param="limit")
        query = PageQuery(limit, after, order, search[:200], state, favourite)
        before = self.studio.queue.get(after) if after is not None else None
        if after is not None and (before is None or before.owner != user.name):
            raise ApiError(400, "after: no such video; begin with the first page", param="after")
        videos, more = self.studio.queue.page(user.name, query)
        shown = [video_object(each, self.studio.board, self.studio.queue) for each in videos]
        ends = (
            {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]}
            if shown
            else {"first_id": None, "last_id": None}
        )
        return JSONResponse({"object": "list", "data": shown, "has_more": more, **ends})

    @route("GET", "/v1/videos/{video_id}")
    async def retrieve(self, request: Request, video_id: str) -> Response:
        """One video: its status, progress and, once it has ended, its facts."""
        return Response(self.studio.shown(self.access.who(request), video_id), media_type="application/json")

    @route("DELETE", "/v1/videos/{video_id}")
    async def delete(self, request: Request, video_id: str) -> Response:
        """Delete a video, cancelling it where it has not ended. Its files go after the time for bringing it back."""
        video = self.studio.mine(self.access.who(request), video_id)
        await run_in_threadpool(self.studio.queue.delete, video.id)
        self.studio.board.touch(video.id)
        self.studio.workers.wake()
        return JSONResponse({"id": video.id, "object": "video.deleted", "deleted": True})

    @route("GET", "/v1/videos/{video_id}/content", head=True)
    async def content(
        self,
        request: Request,
        video_id: str,
        variant: Literal["video", "thumbnail", "spritesheet", "settings", "gif", "frames"] = "video",
        download: bool = False,
    ) -> Response:
        """The file of a completed video, whole or the range asked for; other variants are small pictures of it,
        ``settings`` the record of how it was made, ``gif`` an animation and ``frames`` a ZIP of PNG files."""
        video = self.studio.mine(self.access.who(request), video_id)
        if video.state != "completed":
            raise ApiError(
                404, f"the video is {video.state}; it has no file", "video_not_ready", param="video_id"
            )
        if variant in MADE_LATER:
            path = self.studio.folder.video(video.id) / VARIANTS["video"][0]
            return await self.studio.exports.answer(path, variant, file_name(video))
        name, kind = VARIANTS[variant]
        path = self.studio.folder.video(video.id) / name
        if not path.is_file():
            raise ApiError(404, f"the video has no {variant}", "variant_not_found", param="variant")
        shown = f"{file_name(video)}{path.suffix}"
        return FileResponse(
            path,
            media_type=kind,
            filename=shown,
            content_disposition_type="attachment" if download else "inline",
        )

    @route("POST", "/v1/videos/{video_id}/remix", openapi_extra=REMIX_BODY)
    async def remix(self, request: Request, video_id: str) -> Response:
        """Change a completed video by another prompt: video to video with its own settings."""
        user = self.access.who(request)
        fields, files = await read_fields(request, self.studio.uploads, self.studio.limits)
        return self._answer(
            await derive(self.studio, user, request, Derived(video_id, fields, files, "change"))
        )

    @route("POST", "/v1/videos/edits", openapi_extra=EDIT_BODY)
    async def edits(self, request: Request) -> Response:
        """Change a video, of this server or uploaded, by another prompt."""
        return await self._derived(request, "change")

    @route("POST", "/v1/videos/extensions", openapi_extra=EDIT_BODY)
    async def extensions(self, request: Request) -> Response:
        """Make what comes after a video, of this server or uploaded."""
        return await self._derived(request, "continue")

    @route("GET", "/v1/models")
    async def models(self, request: Request) -> Response:
        """The models that are served; ``cogvideox`` says what each takes, its own size and length, its defaults."""
        self.access.who(request)
        return JSONResponse(
            {"object": "list", "data": [model_object(self.studio, each) for each in self.studio.offer.models]}
        )

    @route("GET", "/v1/models/{model:path}")
    async def model(self, request: Request, model: str) -> Response:
        """One model that is served."""
        self.access.who(request)
        if model not in self.studio.offer.models:
            raise ApiError(404, "no such model", "model_not_found", param="model")
        return JSONResponse(model_object(self.studio, model))

    async def _derived(self, request: Request, use: str) -> Response:
        """Queue what starts from a video that the request names or brings."""
        studio, user = self.studio, self.access.who(request)
        fields, files = await read_fields(request, studio.uploads, studio.limits)
        video = fields.pop("video", None)
        if "video" in files:
            fields.setdefault(EXTENSION, {})
            named = dict(fields[EXTENSION]) if isinstance(fields[EXTENSION], dict) else {}
            fields[EXTENSION] = {**named, "video_use": use}
            return self._answer(await queue_video(studio, user, request, fields, files))
        source = video.get("id") if isinstance(video, dict) else video
        if not source:
            raise InputError('video: missing; send a file, or {"id": ID} of a video that is here')
        return self._answer(await derive(studio, user, request, Derived(str(source), fields, files, use)))

    def _answer(self, video: QueuedVideo) -> JSONResponse:
        return JSONResponse(video_object(video, self.studio.board, self.studio.queue))


def video_routes(studio: Studio, access: Access) -> APIRouter:
    """The routes of OpenAI's video API on a studio."""
    return routes_of(VideoRoutes(studio, access), "OpenAI's videos")


class Derived:
    """A request that starts from a video: its id, the fields and files that came, and how the video is used."""

    def __init__(
        self, source: str, fields: Mapping[str, Any], files: Mapping[str, IncomingFile], use: str
    ) -> None:
        self.source, self.fields, self.files, self.use = source, fields, files, use


async def create_video(studio: Studio, user: KeyHolder, request: Request) -> QueuedVideo:
    """Read, check and queue what a client asks for. Raises ApiError, InputError, ConfigError."""
    fields, files = await read_fields(request, studio.uploads, studio.limits)
    return await queue_video(studio, user, request, fields, files)


async def queue_video(
    studio: Studio,
    user: KeyHolder,
    request: Request,
    fields: dict[str, Any],
    files: Mapping[str, IncomingFile],
) -> QueuedVideo:
    """Check fields, decode files and queue the video; what is refused leaves no file behind."""
    left, kept = dict(files), list[dict[str, Any]]()
    video: QueuedVideo | None = None
    try:
        key = idempotency_of(request)
        digest = digest_of(fields, {name: each.digest for name, each in files.items()})
        if key is not None and (before := studio.queue.with_key(user.name, key)) is not None:
            check_same(before, digest)
            return before
        studio.check_room(user)
        if "input_reference" in files:
            fields = {**fields, "input_reference": files["input_reference"].id}
        given = {"video": files["video"].id} if "video" in files else {}
        unknown = sorted(set(files) - {"input_reference", "video"})
        if unknown:
            raise ConfigError(
                f"{unknown[0][:80]}: a file of another name; upload it to /v1/inputs and name its id"
            )
        asked = read_request(fields, studio.offer)
        if given:
            asked = VideoRequest(**{**asked.to_dict(), "inputs": {**asked.inputs, **given}})
        studio.check_uploads(user, len(files))
        await keep_files(studio, user, left, kept)
        video = await plan_and_add(studio, user, asked, digest, key)
        return video
    except asyncio.CancelledError:  # the server stops; a thread may be queueing the video at this moment
        kept.clear()
        raise
    finally:
        for each in left.values():
            await run_in_threadpool(discard, each.path)
        used = () if video is None else video.request["inputs"].values()
        for facts in kept:
            if facts["id"] not in used:  # of a request that was refused, or is the same as an earlier one
                await run_in_threadpool(studio.uploads.remove, facts["id"], facts["ending"])


async def keep_files(
    studio: Studio, user: KeyHolder, files: dict[str, IncomingFile], kept: list[dict[str, Any]]
) -> None:
    """Decode the files of a request and keep them, one after the other: from ``files`` into ``kept``."""
    for name in list(files):
        kept.append(await asyncio.wrap_future(studio.uploads.keep(files.pop(name), user.name)))


async def plan_and_add(
    studio: Studio, user: KeyHolder, asked: VideoRequest, digest: str, key: str | None
) -> QueuedVideo:
    """Queue a checked request with its plan; one that cannot be made is refused now where a worker can say so."""
    async with studio.planning:
        plan = await run_in_threadpool(studio.plan, user, asked)
    return await run_in_threadpool(studio.add, user, asked, plan, digest, key)


async def derive(studio: Studio, user: KeyHolder, request: Request, derived: Derived) -> QueuedVideo:
    """Queue a video that starts from a completed one. Raises ApiError, InputError, ConfigError."""
    for each in derived.files.values():
        await run_in_threadpool(discard, each.path)
    source = studio.mine(user, derived.source)
    check_derived(derived)
    prompt = derived.fields.get("prompt", "")
    if not isinstance(prompt, str) or (derived.use == "change" and not prompt.strip()):
        raise InputError("prompt: missing; say what the changed video shows")
    key, digest = (
        idempotency_of(request),
        digest_of({"fields": derived.fields, "source": derived.source, "use": derived.use}, {}),
    )
    if key is not None and (before := studio.queue.with_key(user.name, key)) is not None:
        check_same(before, digest)
        return before
    studio.check_room(user)
    asked = studio.change_of(source, prompt, derived.use)
    own = {**derived.fields, "prompt": asked.settings["prompt"], "model": asked.model}
    checked = read_request(own, studio.offer)
    values = asked.to_dict()
    kept = asked.settings
    if {"frames", "seconds"} & set(checked.settings):  # instead of the length of the source
        kept = {name: value for name, value in kept.items() if name not in ("frames", "seconds")}
    values["settings"] = {**kept, **checked.settings}
    values["adapters"] = checked.adapters or asked.adapters
    values["webhook"] = checked.webhook
    return await plan_and_add(studio, user, VideoRequest(**values), digest, key)


def check_derived(derived: Derived) -> None:
    """Raises ConfigError for what a video that starts from another one cannot be told."""
    if derived.files:
        name = next(iter(derived.files))
        raise ConfigError(f"{name[:80]}: a file, which nothing is done with here; leave it out")
    others = [name for name in derived.fields if name not in DERIVED]
    if others:
        raise ConfigError(
            f"{others[0][:80]}: not taken here, the source says it; one of {', '.join(DERIVED)}"
        )


def idempotency_of(request: Request) -> str | None:
    """The client's idempotency key. Raises ApiError for one that is too long."""
    key = request.headers.get(IDEMPOTENCY)
    if key is not None and not 1 <= len(key) <= 255:
        raise ApiError(400, "Idempotency-Key: 1 to 255 characters", param="Idempotency-Key")
    return key


def model_object(studio: Studio, name: str) -> dict[str, Any]:
    """One model as OpenAI's ``model`` object; ``cogvideox`` is None until a worker has said what it is.

    Of the shipped models the first one takes what the others take too: they are used when such a thing is given, and
    say so (``used_by``).
    """
    known = studio.workers.facts.get("models", {})
    facts = known.get(name)
    if facts is not None and studio.is_shipped:
        if name == SHIPPED[0]:
            facts = {**facts, "takes": sorted({each for name in SHIPPED for each in known[name]["takes"]})}
        else:
            facts = {**facts, "used_by": SHIPPED[0]}
    return {
        "id": name,
        "object": "model",
        "created": int(studio.started),
        "owned_by": "cogvideox",
        EXTENSION: facts,
    }

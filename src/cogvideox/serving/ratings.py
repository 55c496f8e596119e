"""The rating page's routes. Loopback only; nothing a rater or a prompt says is ever markup.

GET  /                 the page          GET  /page/*      its script and style
POST /api/next         {name} -> what to rate next, signed
POST /api/rate         {assignment, ...} -> kept on disk, then what is next
GET  /media/ID.mp4     a video under a name that says nothing
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from cogvideox.errors import InputError, OutputError
from cogvideox.evaluation.human import ASPECTS, CAP, GRADES, MOST_TOTAL
from cogvideox.serving.ledger import Ledger
from cogvideox.serving.study import LEDGER, MEDIA, Study

MOST_BODY = 64 << 10
MEDIA_NAME = re.compile(r"[0-9a-f]{24}")
PAGES = {
    "": ("ratings.html", "text/html; charset=utf-8"),
    "ratings.js": ("ratings.js", "text/javascript; charset=utf-8"),
    "ratings.css": ("ratings.css", "text/css; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]


def ratings_app(study: Study, folder: Path, hosts: Sequence[str] = ()) -> FastAPI:
    """The web application of a study. ``hosts``: names it may be reached by besides this machine's own."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    ledger = Ledger(folder / LEDGER)
    allowed = {"localhost", "127.0.0.1", "[::1]", *(host.lower() for host in hosts)}

    @app.middleware("http")
    async def guard(request: Request, go_on: Next) -> Response:
        problem = _refuse(request, allowed)
        response = problem if problem is not None else await go_on(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def page() -> Response:
        return _page("")

    @app.get("/page/{name}")
    def part(name: str) -> Response:
        return _page(name) if name in PAGES else _problem(404, "no such page")

    @app.get("/media/{name}.mp4")
    def media(name: str) -> Response:
        path = folder / MEDIA / f"{name}.mp4"
        if not MEDIA_NAME.fullmatch(name) or not path.is_file():
            return _problem(404, "no such video")
        return FileResponse(path, media_type="video/mp4")

    @app.post("/api/next")
    async def following(request: Request) -> Response:
        said = await _read(request)
        if isinstance(said, Response):
            return said
        try:
            rater = study.rater(str(said.get("name", "")))
        except InputError as error:
            return _problem(422, str(error))
        return JSONResponse(what_next(study, ledger, rater))

    @app.post("/api/rate")
    async def rate(request: Request) -> Response:
        said = await _read(request)
        if isinstance(said, Response):
            return said
        try:
            entry = study.entry(str(said.get("assignment", "")), said)
            kept = ledger.add(entry)
        except InputError as error:
            return _problem(422, str(error))
        except OutputError as error:
            return _problem(503, str(error).partition(": ")[2])
        if not kept:
            return _problem(409, "you rated this before; the first rating stands")
        return JSONResponse(what_next(study, ledger, entry.rater))

    return app


def what_next(study: Study, ledger: Ledger, rater: str) -> dict[str, Any]:
    """The first unit of the rater's order that they have not rated, or that all are done."""
    done = ledger.done(rater)
    order = study.order(rater)
    left = [unit for unit in order if unit.id not in done]
    state = {"mode": study.mode, "done": len(order) - len(left), "of": len(order)}
    if not left:
        return {**state, "finished": True}
    unit = left[0]
    criteria = {
        name: {"title": title, "grades": {f"{g:g}": text for g, text in texts.items()}}
        for name, (title, texts) in ASPECTS.items()
    }
    return {
        **state,
        "finished": False,
        "assignment": study.assignment(rater, unit),
        "prompt": unit.prompt,
        "videos": [f"/media/{media}.mp4" for media in study.media_for(rater, unit)],
        "criteria": criteria,
        "grades": GRADES,
        "most": MOST_TOTAL,
        "cap": CAP,
    }


def _refuse(request: Request, allowed: set[str]) -> Response | None:
    """A host that is not ours (DNS rebinding), a foreign origin, a body that is no JSON or too large."""
    host = request.headers.get("host", "").lower()
    if re.sub(r":\d+$", "", host) not in allowed:
        return _problem(421, "this server answers on this machine only")
    if request.method in ("GET", "HEAD"):
        return None
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host:
        return _problem(403, "from another page")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _problem(415, "send application/json")
    return None


async def _read(request: Request) -> dict[str, Any] | Response:
    """The body as an object, at most 64 KiB."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY:
            return _problem(413, f"more than {MOST_BODY >> 10} KiB")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return _problem(400, "not JSON")
    return said if isinstance(said, dict) else _problem(400, "not an object")


def _page(name: str) -> Response:
    file, kind = PAGES[name]
    return Response((resources.files("cogvideox.serving") / "pages" / file).read_bytes(), media_type=kind)


def _problem(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": why}, status_code=status)

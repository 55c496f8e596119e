"""What every page of this machine has in common: loopback names only, no foreign page may post, JSON in, JSON out."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

MOST_BODY = 64 << 10
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
Next = Callable[[Request], Awaitable[Response]]


def loopback_app(page: str, hosts: Sequence[str] = ()) -> FastAPI:
    """An application whose ``/`` is ``pages/<page>.html``, with its script and style, and nothing else yet.

    hosts: names it may be reached by besides this machine's own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    allowed = {"localhost", "127.0.0.1", "[::1]", *(host.lower() for host in hosts)}

    @app.middleware("http")
    async def guard(request: Request, go_on: Next) -> Response:
        refused = _refuse(request, allowed)
        response = refused if refused is not None else await go_on(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def whole() -> Response:
        return _file(f"{page}.html")

    @app.get("/page/{name}")
    def part(name: str) -> Response:
        return _file(name) if name in (f"{page}.js", f"{page}.css") else problem(404, "no such page")

    return app


def serve(app: FastAPI, port: int) -> None:
    """Answer on this machine's loopback until it is stopped."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run()


async def read_object(request: Request) -> dict[str, Any] | Response:
    """The body as an object, at most 64 KiB; else the answer that says why not."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY:
            return problem(413, f"more than {MOST_BODY >> 10} KiB")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return problem(400, "not JSON")
    return said if isinstance(said, dict) else problem(400, "not an object")


def problem(status: int, why: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": why}, status_code=status)


def _refuse(request: Request, allowed: set[str]) -> Response | None:
    """A host that is not ours (DNS rebinding), a foreign origin, a body that is no JSON."""
    host = request.headers.get("host", "").lower()
    if re.sub(r":\d+$", "", host) not in allowed:
        return problem(421, "this server answers on this machine only")
    if request.method in ("GET", "HEAD"):
        return None
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host:
        return problem(403, "from another page")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return problem(415, "send application/json")
    return None


def _file(name: str) -> Response:
    data = (resources.files("cogvideox.serving") / "pages" / name).read_bytes()
    return Response(data, media_type=KINDS[name.rpartition(".")[2]])

"""What the web pages share: they answer on loopback names only, no foreign page may post, JSON in and JSON out."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cogvideox.errors import InputError, OutputError
from cogvideox.rating.connection_limits import BACKLOG, WAITING, ConnectionLimits, bounded, configure_logging

MOST_BODY = 64 << 10
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
REVEALING_HEADERS = ("last-modified", "etag", "server")
"""Headers that reveal the date or content of files or the program; no page needs them."""


def loopback_app(page: str, hosts: Sequence[str] = ()) -> FastAPI:
    """An application whose ``/`` is ``pages/<page>.html``, with its script and style, and nothing else yet.

    hosts: names it may be reached by besides this machine's own. What routes raise is answered as JSON: HTTPException
    with its status, InputError with 422, OutputError with 503.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    allowed = {"localhost", "127.0.0.1", "[::1]", *(host.lower() for host in hosts)}

    app.add_middleware(_Guard, allowed=allowed)
    for kind in (HTTPException, InputError, OutputError):
        app.add_exception_handler(kind, _refusal)

    @app.get("/")
    def index() -> Response:
        return _file(f"{page}.html")

    @app.get("/page/{name}")
    def asset(name: str) -> Response:
        return _file(name) if name in (f"{page}.js", f"{page}.css") else problem(404, "no such page")

    return app


class _Guard:
    """Refuses strangers before anything is read, and puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, allowed: set[str]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in REVEALING_HEADERS:
                    del headers[name]
                headers.update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = _refuse(Request(scope), self.allowed)
        await (self.app if refused is None else refused)(scope, receive, send_on)


def listen(port: int) -> socket.socket:
    """A socket on this machine's loopback that waits for connections; 0 takes a free port. Raises OutputError."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # where it would allow two servers on one port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(WAITING)
    except OSError as error:
        server.close()
        raise OutputError(
            f"port {port}: cannot be served on ({error.strerror}); choose another --port, 0 for any"
        ) from None
    return server


def address(server: socket.socket) -> str:
    """The URL of a listening socket for a browser."""
    return f"http://127.0.0.1:{server.getsockname()[1]}/"


def serve(app: FastAPI, server: socket.socket, limits: ConnectionLimits | None = None) -> None:
    """Answer on a socket of ``listen`` until the process is stopped."""
    configure_logging()
    config = uvicorn.Config(
        app,
        http=bounded(limits or ConnectionLimits()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=5,
    )
    _Server(config).run(sockets=[server])


class _Server(uvicorn.Server):
    """Listens with a longer queue than asyncio, which uses one number for connections accepted at once and queued."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(WAITING)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises HTTPException for what is none, or is over 64 KiB."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY:
                raise HTTPException(413, f"more than {MOST_BODY >> 10} KiB")
    except ClientDisconnect:
        raise HTTPException(400, "cut short") from None  # nobody reads it
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "not JSON") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "not an object")
    return content


def _refusal(request: Request, error: Exception) -> Response:
    """What is answered when a route raises."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail))
    if isinstance(error, OutputError):
        return problem(503, str(error).partition(": ")[2])
    return problem(422, str(error))


def problem(status: int, why: str) -> JSONResponse:
    """A JSON response with the error's text."""
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
    data = (resources.files("cogvideox.rating") / "pages" / name).read_bytes()
    return Response(data, media_type=KINDS[name.rpartition(".")[2]])

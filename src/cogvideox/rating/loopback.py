"""What the pages for people who rate share: they answer on loopback names only, no foreign page may post."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from fastapi import FastAPI, HTTPException, Request, Response

from cogvideox.errors import InputError, OutputError
from cogvideox.web.bodies import problem
from cogvideox.web.guard import LOOPBACK_NAMES, RequestGuard, allowed_names

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


def loopback_app(page: str, hosts: Sequence[str] = ()) -> FastAPI:
    """An application whose ``/`` is ``pages/<page>.html``, with its script and style, and nothing else yet.

    hosts: names it may be reached by besides this machine's own. What routes raise is answered as JSON: HTTPException
    with its status, InputError with 422, OutputError with 503.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    allowed = LOOPBACK_NAMES | allowed_names(hosts)

    app.add_middleware(RequestGuard, allowed=allowed)
    for kind in (HTTPException, InputError, OutputError):
        app.add_exception_handler(kind, _refusal)

    @app.get("/")
    def index() -> Response:
        return _file(f"{page}.html")

    @app.get("/page/{name}")
    def asset(name: str) -> Response:
        return _file(name) if name in (f"{page}.js", f"{page}.css") else problem(404, "no such page")

    return app


def _refusal(request: Request, error: Exception) -> Response:
    """What is answered when a route raises."""
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail))
    if isinstance(error, OutputError):
        return problem(503, str(error).partition(": ")[2])
    return problem(422, str(error))


def _file(name: str) -> Response:
    data = (resources.files("cogvideox.rating") / "pages" / name).read_bytes()
    return Response(data, media_type=KINDS[name.rpartition(".")[2]])

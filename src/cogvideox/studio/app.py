"""The web application of a studio: guard, errors, routes, the page that describes them."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cogvideox import __version__
from cogvideox.files.page import page, text
from cogvideox.studio.access import Access
from cogvideox.studio.api import video_routes
from cogvideox.studio.api_errors import as_api_error, install, refuse
from cogvideox.studio.more_routes import event_routes, more_routes, status_routes
from cogvideox.studio.page_routes import page_routes
from cogvideox.studio.studio import Studio
from cogvideox.web.guard import HEADERS, LOOPBACK_NAMES, RequestGuard, allowed_names

DOCS_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    ":root{color-scheme:light dark}"
    "td{padding:.1rem .8rem .1rem 0;vertical-align:top;overflow-wrap:anywhere}h2{font-size:1.05rem;margin-top:2rem}"
)
_DIGEST = base64.b64encode(hashlib.sha256(DOCS_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' 'sha256-{_DIGEST}'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = ("application/json", "multipart/form-data")
PUBLIC = ("/health", "/docs", "/openapi.json", "/", "/page/{name}")
"""Paths that need no key: they tell nothing of anybody's videos."""


def studio_app(
    studio: Studio, *, local: bool = True, hosts: Sequence[str] = (), page: bool = False
) -> FastAPI:
    """The application of a studio.

    local: whether it listens on loopback, where no key is needed. hosts: further names it may be reached by; with one
    everybody needs a key, for a proxy may pass strangers on under a name of loopback. page: whether the page for people
    is there too. ``app.state.access`` is the ``Access`` that further routes ask. Raises ConfigError for a host that is
    no name.
    """
    app = FastAPI(title="cogvideox", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    access = Access(studio.queue, studio.limits, local=local and not hosts)
    app.state.studio, app.state.access = studio, access
    app.add_middleware(_AnswerFailures)
    app.add_middleware(
        RequestGuard,
        allowed=LOOPBACK_NAMES | allowed_names(hosts),
        headers={**HEADERS, "Content-Security-Policy": POLICY},
        types=TYPES,
        refuse=refuse,
    )
    install(app)

    for routes in (video_routes, more_routes, event_routes, status_routes):
        app.include_router(routes(studio, access))
    if page:
        app.include_router(page_routes())

    @app.get("/openapi.json", include_in_schema=False)
    def described() -> Response:
        return JSONResponse(app.openapi())

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    return app


class _AnswerFailures:
    """What no route expected is logged without the request, and answered without the reason."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            logging.getLogger("uvicorn.error").error("%s at %s", type(error).__name__, scope["path"])
            await as_api_error(error).answer()(scope, receive, send)


def docs_page(described: dict[str, Any]) -> str:
    """A page that lists the routes of an OpenAPI description with their fields; no script, nothing from elsewhere."""
    body = [f"<h1>{text(described['info']['title'])} {text(described['info']['version'])}</h1>"]
    body.append(
        "<p>The same as <a href='/openapi.json'>JSON</a>. Send keys as <code>Authorization: Bearer KEY</code>.</p>"
    )
    for path, methods in described["paths"].items():
        for method, facts in methods.items():
            body.append(
                f"<h2><code>{text(method.upper())} {text(path)}</code></h2><p>{text(facts.get('description', ''))}</p>"
            )
            rows = [(each["name"], each.get("schema", {})) for each in facts.get("parameters", [])]
            for each in list(facts.get("requestBody", {}).get("content", {}).values())[:1]:
                rows += _fields(each["schema"])
            if rows:
                body.append("<table>" + "".join(_line(name, each) for name, each in rows) + "</table>")
    return page("cogvideox API", DOCS_STYLE, "".join(body))


def _fields(schema: dict[str, Any], above: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The fields of an object, those of objects in it with their names before."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for name, each in schema.get("properties", {}).items():
        rows += [(f"{above}{name}", each), *_fields(each, f"{above}{name}.")]
    return rows


def _line(name: str, schema: dict[str, Any]) -> str:
    return f"<tr><td><code>{text(name)}</code></td><td>{text(schema.get('description', ''))}</td></tr>"

"""The page for people: markup, styles, scripts and pictures of ``pages/`` as they lie in the package."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Response

from cogvideox.studio.api_errors import ApiError

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
START = "index.html"


def page_folder() -> Traversable:
    """Where the files of the page lie."""
    return resources.files("cogvideox.studio") / "pages"


def page_routes() -> APIRouter:
    """``/`` and what the page loads. It needs no key: it knows nothing until it has asked the API.

    A name is looked up among the files that are there, never joined to a path.
    """
    files, router = {each.name: each for each in page_folder().iterdir()}, APIRouter()

    def answer(name: str) -> Response:
        kind = KINDS.get(name.rpartition(".")[2])
        if name not in files or kind is None:
            raise ApiError(404, "no such file of the page")
        return Response(files[name].read_bytes(), media_type=kind)

    @router.get("/", include_in_schema=False)
    def start() -> Response:
        return answer(START)

    @router.get("/page/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        return answer(name)

    return router

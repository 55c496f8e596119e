"""The labelling page: watch a clip, press 1 to 6 for its defects, go on. Loopback only; labels are on disk at once.

GET  /                 the page          GET  /page/*      its script and style
POST /api/next         {skip: [...]} -> the next clip without labels
POST /api/label        {clip, labels: {name: true}} -> kept, then the next clip
GET  /media/ID         a film under a name that says nothing
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from cogvideox.clip_folders.video_files import list_videos
from cogvideox.curation.labels import LABELS, MEANING, read_labels, write_labels
from cogvideox.errors import InputError, OutputError
from cogvideox.rating.loopback import loopback_app, problem, read_object


class Sheet:
    """The films of a folder and what was said about them; what is said is written at once."""

    def __init__(self, folder: Path, labels: Path) -> None:
        self.folder, self.file = folder, labels
        self.films = {_name(one.path): one.path for one in list_videos(folder)}
        if not self.films:
            raise InputError(f"{folder}: no films in it; give a folder of clips to label")
        self.said = read_labels(labels) if labels.exists() else {}
        self._lock = threading.Lock()

    def add(self, name: str, labels: Any) -> None:
        """Every label of a film: true for those that are named true, false for the others. Raises InputError."""
        if name not in self.films:
            raise InputError("no such clip")
        if not isinstance(labels, dict) or not set(labels) <= set(LABELS):
            raise InputError(f"labels are some of {', '.join(LABELS)}")
        with self._lock:
            self.said[self.films[name]] = {label: labels.get(label) is True for label in LABELS}
            write_labels(self.file, self.said)

    def next(self, skip: set[str]) -> dict[str, Any]:
        """The first film without labels that is not skipped, or that all are done."""
        done = sum(path in self.said for path in self.films.values())
        state = {"done": done, "of": len(self.films), "labels": MEANING}
        for name, path in self.films.items():
            if path not in self.said and name not in skip:
                return {**state, "clip": name, "path": path}
        return {**state, "clip": None}


def labelling_app(sheet: Sheet) -> FastAPI:
    """The web application."""
    app = loopback_app("labelling")

    @app.get("/media/{name}")
    def media(name: str) -> Response:
        if name not in sheet.films:
            return problem(404, "no such clip")
        return FileResponse(sheet.folder / sheet.films[name])

    @app.post("/api/next")
    async def following(request: Request) -> Response:
        said = await read_object(request)
        return said if isinstance(said, Response) else JSONResponse(sheet.next(_skipped(said)))

    @app.post("/api/label")
    async def label(request: Request) -> Response:
        said = await read_object(request)
        if isinstance(said, Response):
            return said
        try:
            sheet.add(str(said.get("clip", "")), said.get("labels"))
        except InputError as error:
            return problem(422, str(error))
        except OutputError as error:
            return problem(503, str(error).partition(": ")[2])
        return JSONResponse(sheet.next(_skipped(said)))

    return app


def _skipped(said: dict[str, Any]) -> set[str]:
    skip = said.get("skip", [])
    return {str(one) for one in skip} if isinstance(skip, list) else set()


def _name(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:24]

"""The labelling page: watch a clip, press 1 to 6 for its defects, go on. Loopback only; labels are on disk at once.

GET  /                 the page          GET  /page/*      its script and style
POST /api/next         {skip: [...]} -> the next clip without labels
POST /api/label        {clip, labels: {name: true}} -> kept, then the next clip
GET  /media/ID         a clip under a random name
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
from cogvideox.errors import InputError
from cogvideox.rating.loopback import loopback_app
from cogvideox.web.bodies import problem, read_object


class LabelSheet:
    """The clips of a folder and their labels by hand; each change is written at once."""

    def __init__(self, folder: Path, labels: Path) -> None:
        self.folder, self.file = folder, labels
        self.clips = {_name(one.path): one.path for one in list_videos(folder)}
        if not self.clips:
            raise InputError(f"{folder}: no videos in it; give a folder of clips to label")
        self.labels = read_labels(labels) if labels.exists() else {}
        self._lock = threading.Lock()

    def add(self, name: str, labels: Any) -> None:
        """Keep every label of a clip: true where ``labels`` has true, false for the others. Raises InputError."""
        if name not in self.clips:
            raise InputError("no such clip")
        if not isinstance(labels, dict) or not set(labels) <= set(LABELS):
            raise InputError(f"labels are some of {', '.join(LABELS)}")
        with self._lock:
            self.labels[self.clips[name]] = {label: labels.get(label) is True for label in LABELS}
            write_labels(self.file, self.labels)

    def next(self, skip: set[str]) -> dict[str, Any]:
        """State for the page with the first clip without labels that is not skipped; clip None when all are done."""
        done = sum(path in self.labels for path in self.clips.values())
        state = {"done": done, "of": len(self.clips), "labels": MEANING}
        for name, path in self.clips.items():
            if path not in self.labels and name not in skip:
                return {**state, "clip": name, "path": path}
        return {**state, "clip": None}


def labelling_app(sheet: LabelSheet) -> FastAPI:
    """The web application of a label sheet: page, media and two routes."""
    app = loopback_app("labelling")

    @app.get("/media/{name}")
    def media(name: str) -> Response:
        if name not in sheet.clips:
            return problem(404, "no such clip")
        return FileResponse(sheet.folder / sheet.clips[name])

    @app.post("/api/next")
    async def following(request: Request) -> Response:
        return JSONResponse(sheet.next(_skipped(await read_object(request))))

    @app.post("/api/label")
    async def label(request: Request) -> Response:
        content = await read_object(request)
        sheet.add(str(content.get("clip", "")), content.get("labels"))
        return JSONResponse(sheet.next(_skipped(content)))

    return app


def _skipped(content: dict[str, Any]) -> set[str]:
    skip = content.get("skip", [])
    return {str(one) for one in skip} if isinstance(skip, list) else set()


def _name(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:24]

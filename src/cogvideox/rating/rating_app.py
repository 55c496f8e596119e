"""The rating page's routes. Loopback only; nothing a rater or a prompt says is ever markup.

GET  /                 the page          GET  /page/*      its script and style
POST /api/next         {name} -> what to rate next, signed
POST /api/rate         {assignment, ...} -> kept on disk, then what is next
GET  /media/ID.mp4     a video under a name that says nothing
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from cogvideox.rating.grades import ASPECTS, CAP, GRADES, MOST_TOTAL
from cogvideox.rating.ledger import RatingLedger
from cogvideox.rating.loopback import loopback_app
from cogvideox.rating.study import LEDGER, MEDIA, Study
from cogvideox.web.bodies import problem, read_object

MEDIA_NAME = re.compile(r"[0-9a-f]{24}")


def ratings_app(study: Study, folder: Path, hosts: Sequence[str] = ()) -> FastAPI:
    """The web application of a study. ``hosts``: names it may be reached by besides this machine's own."""
    app = loopback_app("ratings", hosts)
    ledger = RatingLedger(folder / LEDGER)

    @app.get("/media/{name}.mp4")
    def media(name: str) -> Response:
        path = folder / MEDIA / f"{name}.mp4"
        if not MEDIA_NAME.fullmatch(name) or not path.is_file():
            return problem(404, "no such video")
        return FileResponse(path, media_type="video/mp4")

    @app.post("/api/next")
    async def following(request: Request) -> Response:
        content = await read_object(request)
        return JSONResponse(what_next(study, ledger, study.rater(str(content.get("name", "")))))

    @app.post("/api/rate")
    async def rate(request: Request) -> Response:
        content = await read_object(request)
        entry = study.entry(str(content.get("assignment", "")), content)
        if not ledger.add(entry):
            return problem(409, "you rated this before; the first rating stands")
        return JSONResponse(what_next(study, ledger, entry.rater))

    return app


def what_next(study: Study, ledger: RatingLedger, rater: str) -> dict[str, Any]:
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

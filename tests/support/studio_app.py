"""A studio without workers, asked in this process: for what is refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from cogvideox.studio.app import studio_app
from cogvideox.studio.folder import StudioFolder
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.studio import Studio, StudioSettings


@contextmanager
def idle_studio(
    root: Path, *, local: bool = True, hosts: tuple[str, ...] = (), page: bool = False, **settings: Any
) -> Iterator[TestClient]:
    """A client of an application whose workers are never started; ``client.studio`` is its studio."""
    limits = StudioLimits(**settings.pop("limits", {}))
    StudioFolder(root).make()
    lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT)
    studio = Studio(StudioSettings(root=root, limits=limits, **settings), lock)
    try:
        app = studio_app(studio, local=local, hosts=hosts, page=page)
        client = TestClient(app, base_url="http://127.0.0.1:80", raise_server_exceptions=False)
        client.studio = studio
        yield client
    finally:
        studio.close()
        os.close(lock)

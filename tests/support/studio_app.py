"""A studio without workers, asked in this process: for what is refused before any work."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from cogvideox.studio.app import studio_app
from cogvideox.studio.folder import StudioFolder
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.studio import Studio, StudioSettings
from cogvideox.web.connection_limits import ConnectionLimits, bounded
from cogvideox.web.listening import listen


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


@contextmanager
def served_studio(root: Path, **settings: Any) -> Iterator[TestClient]:
    """The same on a socket, as people reach it: ``client.port``."""
    with idle_studio(root, **settings) as client, listen(0) as server:
        client.port = server.getsockname()[1]
        config = uvicorn.Config(
            client.app, http=bounded(ConnectionLimits()), ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, proxy_headers=False,
        )  # fmt: skip
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [server]}, daemon=True)
        thread.start()
        try:
            yield client
        finally:
            running.should_exit = True
            thread.join(20)

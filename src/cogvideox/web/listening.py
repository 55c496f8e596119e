"""A socket that listens, and uvicorn on it within limits of connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from cogvideox.errors import OutputError
from cogvideox.web.connection_limits import BACKLOG, WAITING, ConnectionLimits, bounded, configure_logging

LOOPBACK = "127.0.0.1"


def listen(port: int, host: str = LOOPBACK) -> socket.socket:
    """A socket that waits for connections, on this machine's loopback unless ``host`` is another address of it; port 0
    takes a free one. Raises OutputError."""
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # where it would allow two servers on one port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(WAITING)
    except OSError as error:
        server.close()
        where = "" if host == LOOPBACK else f" of {host}"
        raise OutputError(
            f"port {port}{where}: cannot be served on ({error.strerror}); choose another --port, 0 for any"
        ) from None
    return server


def address(server: socket.socket) -> str:
    """The URL of a listening socket for a browser."""
    host, port = server.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def fastest_loop() -> Literal["uvloop", "asyncio"]:
    """uvloop where it is installed (Linux, macOS): where a thousand connections come and go, the others wait a tenth
    of the time; else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return "asyncio"
    return "uvloop" if uvloop.__version__ else "asyncio"


def serve(
    app: ASGIApp,
    server: socket.socket,
    limits: ConnectionLimits | None = None,
    on_stop: Callable[[], None] | None = None,
) -> None:
    """Answer on a socket of ``listen`` until the process is stopped; ``on_stop`` is called when it is told to."""
    configure_logging()
    config = uvicorn.Config(
        app,
        http=bounded(limits or ConnectionLimits()),
        loop=fastest_loop(),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=5,
    )
    _Server(config, on_stop).run(sockets=[server])


class _Server(uvicorn.Server):
    """Listens with a longer queue than asyncio, which uses one number for connections accepted at once and queued."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None) -> None:
        super().__init__(config)
        self.on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.on_stop is not None:
            self.on_stop()  # answers without end find their end
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(WAITING)

"""Limits of a server's connections in time and number, and of its log messages.

uvicorn waits for the rest of a request without end, and without files left to open it writes a traceback for every
attempt. Here a connection has so many seconds for its header, its body and for taking an answer; when there are too
many, the one that has kept us waiting longest is closed, so that others are still served.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 32  # connections that are taken at one go
WAITING = 1024  # that the system keeps for us meanwhile
RESERVED = 4 * BACKLOG + 40
"""Files for other things: a few goes are taken before the first of them can be closed again."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds a client may take, and how many may be connected.

    ``body``: for a body of ``slow`` bytes a second or less; each ``slow`` bytes that come earn a second more, so that a
    large file may come over a slow line.
    """

    header: float = 10.0
    body: float = 20.0
    slow: int = 32 << 10
    stalled: float = 60.0  # takes nothing of what is sent to it
    connections: int = 256


def within_file_limit(limits: ConnectionLimits) -> ConnectionLimits:
    """The same limits, with at most as many connections as this process may open files for."""
    if sys.platform == "win32":
        return limits
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = limits.connections if files == resource.RLIM_INFINITY else max(8, (files - RESERVED) // 2)
    return replace(limits, connections=min(limits.connections, most))


def bounded(limits: ConnectionLimits) -> type[H11Protocol]:
    """uvicorn's protocol for one connection, within ``limits``."""
    return type("Bounded", (BoundedProtocol,), {"limits": within_file_limit(limits)})


class BoundedProtocol(H11Protocol):
    """One connection within its limits. ``owed``: what the client owes (header, body, or taking the answer); ``since``:
    from when on."""

    limits = ConnectionLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock; where there are too many connections, close the one that has kept us waiting longest."""
        self.since, self.unsent, self.owed = time.monotonic(), 0, "header"
        if len(self.connections) >= self.limits.connections:  # looked through only then: it takes time
            self._make_room()
        super().connection_made(transport)
        self.watch = self.loop.call_later(1.0, self._look)

    def _make_room(self) -> None:
        """Close the connection that has kept us waiting longest, unless enough of them are closing already."""
        there = [each for each in self.connections if isinstance(each, BoundedProtocol)]
        there = [each for each in there if not each.transport.is_closing()]
        if len(there) >= self.limits.connections:
            min(there, key=lambda each: (each.owed == "answer", each.since)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on, and note what the client owes now; what comes of a body earns time for the rest."""
        if self.owed == "body":
            self.since = min(time.monotonic(), self.since + len(data) / self.limits.slow)
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """Wait for the header of the next request."""
        super().on_response_complete()
        self.owed, self.since = "header", time.monotonic()
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching a connection that is closed."""
        self.watch.cancel()
        super().connection_lost(exc)

    def _note(self) -> None:
        """What it owes now: the rest of its header or body, or to take its answer."""
        state = self.conn.their_state
        owed = "header" if state is h11.IDLE else "body" if state is h11.SEND_BODY else "answer"
        if owed != self.owed:
            self.owed, self.since = owed, time.monotonic()

    def _look(self) -> None:
        """Once a second: has it taken too long?"""
        if self.transport.is_closing():
            return
        now, unsent = time.monotonic(), self.transport.get_write_buffer_size()
        if self.owed == "answer" and (not unsent or unsent != self.unsent):
            self.since = now  # it takes what it gets, or we are at work on it
        self.unsent = unsent
        allowed = {"header": self.limits.header, "body": self.limits.body}.get(self.owed, self.limits.stalled)
        if now - self.since > allowed:
            self.transport.abort()
            return
        self.watch = self.loop.call_later(1.0, self._look)


class LogRateLimit(logging.Filter):
    """At most ``most`` messages a minute; the first of the next minute says how many were left out."""

    def __init__(self, most: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.most, self.clock = most, clock
        self.began, self.count, self.left_out = clock(), 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is still within this minute's limit."""
        now = self.clock()
        if now - self.began >= 60:
            if self.left_out:
                record.msg = f"{record.msg} ({self.left_out} messages were left out in the minute before)"
            self.began, self.count, self.left_out = now, 0, 0
        self.count += 1
        self.left_out += self.count > self.most
        return self.count <= self.most


def configure_logging() -> None:
    """uvicorn and asyncio log errors only, at most ten a minute, to stderr."""
    handler: logging.Handler = logging.StreamHandler()
    handler.addFilter(LogRateLimit())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("uvicorn.error", "uvicorn.access", "asyncio"):
        logger: Any = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.ERROR)

"""Who is asking: a key, a session of the page, or anybody on this machine; and proof that our own page asks.

A server on loopback serves everybody on the machine as the user "local". One at any other address, one that has
another name by which it is reached, and what a proxy says it passes on, demand a key. What a browser sends with a page
of ours carries a token that no other page can read.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from cogvideox.studio.api_errors import ApiError
from cogvideox.studio.keys import LOCAL, KeyHolder, has_keys, holder_of
from cogvideox.studio.limits import StudioLimits
from cogvideox.studio.queue import VideoQueue
from cogvideox.web.guard import is_forwarded

COOKIE = "cogvideox_session"
TOKEN = "x-cogvideox-token"
SESSIONS = 1000  # the oldest go
OF_ONE = 20  # sessions of one user, who cannot end those of others by many of their own
SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class Session:
    """A browser that has shown a key: whose it was, so that a revoked one ends the session too."""

    name: str
    key: str


class Access:
    """Decides who a request is from. ``open``: no key is needed by those who reach the server on loopback."""

    def __init__(self, queue: VideoQueue, limits: StudioLimits, *, local: bool) -> None:
        self.queue, self.limits, self.open = queue, limits, local
        self.token = secrets.token_urlsafe(24)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def who(self, request: Request) -> KeyHolder:
        """The user of a request. Raises ApiError 401 without a good key where one is needed, 403 without the token."""
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if kind.lower() == "bearer" else ""
        is_local = self.open and not is_forwarded(request)
        if key:
            holder = holder_of(self.queue, key)
            if holder is not None:
                return holder
            if not is_local or has_keys(self.queue):
                raise ApiError(
                    401,
                    "the key is not known here, or was revoked",
                    "invalid_api_key",
                    "authentication_error",
                )
        self._check_token(request)
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        if session is not None and (holder := holder_of(self.queue, session.key)) is not None:
            return holder
        if is_local:
            return KeyHolder(LOCAL, self.limits.queued_for_one, self.limits.disk_bytes)
        why = "a key is needed: Authorization: Bearer KEY (the operator makes one with cogvideox keys create NAME)"
        raise ApiError(401, why, "missing_api_key", "authentication_error")

    def begin_session(self, key: str) -> tuple[str, KeyHolder]:
        """A session for a browser that shows a key: the value of its cookie. Raises ApiError 401."""
        holder = holder_of(self.queue, key)
        if holder is None:
            raise ApiError(
                401, "the key is not known here, or was revoked", "invalid_api_key", "authentication_error"
            )
        value = secrets.token_urlsafe(32)
        with self._lock:
            own = [each for each, session in self._sessions.items() if session.name == holder.name]
            for each in own[: max(0, len(own) - OF_ONE + 1)]:
                del self._sessions[each]
            self._sessions[value] = Session(holder.name, key)
            while len(self._sessions) > SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        return value, holder

    def end_session(self, value: str) -> None:
        """Forget a session; nothing happens where there is none."""
        with self._lock:
            self._sessions.pop(value, None)

    def _check_token(self, request: Request) -> None:
        """What a browser changes without a key of its own must come from our page, which knows the token."""
        from_browser = "origin" in request.headers or COOKIE in request.cookies
        if request.method in SAFE or not from_browser:
            return
        if not secrets.compare_digest(request.headers.get(TOKEN, "").encode(), self.token.encode()):
            raise ApiError(403, f"from a page without the header {TOKEN}; load the page again", "wrong_token")


Who = Callable[[Request], KeyHolder]

"""Refuses strangers before anything of a request is read, and puts the same headers on every answer.

A server on loopback is reached by every page that a browser has open: by a name that leads to 127.0.0.1 (DNS
rebinding), by a form that another page posts. So the Host must be one of ours, and what changes something must come
from our own page or from no page at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cogvideox.errors import ConfigError
from cogvideox.web.bodies import problem

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "cf-connecting-ip")
"""Headers that a proxy or tunnel puts on what it passes on, whatever Host it writes."""
REVEALING_HEADERS = ("last-modified", "etag", "server")
"""Headers that reveal the date or content of files or the program; no page needs them."""

Refuse = Callable[[int, str], Response]


class RequestGuard:
    """ASGI middleware: refuses other hosts, foreign origins and other kinds of body, and sets the headers of answers.

    ``allowed``: names it may be reached by, lower case. ``headers``: of every answer. ``types``: media types that a
    body may have. ``refuse``: makes the answer of a refusal from its status and reason.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed: Collection[str] = LOOPBACK_NAMES,
        headers: Mapping[str, str] = HEADERS,
        types: Collection[str] = ("application/json",),
        refuse: Refuse = problem,
    ) -> None:
        self.app, self.allowed, self.headers = app, allowed, headers
        self.types, self.refuse = types, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in REVEALING_HEADERS:
                    del headers[name]
                headers.update(self.headers)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refused(Request(scope))
        await (self.app if refused is None else refused)(scope, receive, send_on)

    def _refused(self, request: Request) -> Response | None:
        """Two lengths, a host that is not ours (DNS rebinding), a foreign origin, a body of another type."""
        host = request.headers.get("host", "").lower()
        if "transfer-encoding" in request.headers and "content-length" in request.headers:
            answer = self.refuse(400, "Transfer-Encoding beside Content-Length: two lengths; send one")
            answer.headers["connection"] = "close"  # what follows may be meant as its body (RFC 9112, 6.1)
            return answer
        name = host_name(host)
        if name not in self.allowed and not is_loopback_name(name):
            return self.refuse(
                421, "this server does not answer to that name; its operator says which it has"
            )
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("origin")
        if origin is not None and host_of(origin) != host:
            return self.refuse(403, "from another page")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return self.refuse(403, "from another page")
        if not has_body(request) and "multipart/form-data" in self.types:
            return None  # a server that takes forms takes requests without a body too
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in self.types:
            return self.refuse(415, f"send {' or '.join(self.types)}")
        return None


def host_of(origin: str) -> str:
    """The host and port of an Origin header, lower case; "" for what names none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # such as http://[
        return ""


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return re.sub(r":\d+$", "", host)


def is_loopback_name(name: str) -> bool:
    """Whether a Host without its port is this machine's own address: a browser writes it only where it is asked for."""
    return name in LOOPBACK_NAMES or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


def is_forwarded(request: Request) -> bool:
    """Whether a proxy or tunnel says that it passes a request on for somebody else."""
    return any(name in request.headers for name in FORWARDED)


def allowed_names(hosts: Iterable[str]) -> frozenset[str]:
    """Names as browsers write them in Host: lower case, addresses of IPv6 in brackets, no port, no final dot.

    Raises ConfigError for what is no name, such as a whole URL.
    """
    names = set()
    for host in hosts:
        text = host.strip().lower()
        with suppress(ValueError):
            address = ipaddress.ip_address(text.strip("[]"))
            text = f"[{address}]" if address.version == 6 else str(address)
        text = host_name(text).rstrip(".")
        if not re.fullmatch(r"[^\s/@:?#\[\]]+|\[[0-9a-f:.]+\]", text):
            raise ConfigError(f"host {host[:80]!r}: is no name; write it alone, such as video.example.org")
        names.add(text)
    return frozenset(names)


def has_body(request: Request) -> bool:
    """Whether a request says that something follows its header."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers

"""Tells a client's server that a video has ended: signed, tried again for hours, only to listed hosts.

Signed as Standard Webhooks are. No redirect is followed, no proxy is asked, little of the answer is read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, urlsplit

from cogvideox.errors import CogVideoXError, ConfigError
from cogvideox.files.atomic import write_text
from cogvideox.files.text import read_small_text
from cogvideox.studio.folder import StudioFolder
from cogvideox.studio.queue import VideoQueue

SECRET_FILE = "webhook-secret.txt"
SECONDS = 10.0  # that a delivery may take
WAITS = (0, 5, 30, 120, 600, 3600, 4 * 3600)  # seconds before each try


class Webhooks:
    """Deliveries from the queue's table, by one thread; what was added survives the server."""

    def __init__(self, queue: VideoQueue, folder: StudioFolder) -> None:
        self.queue, self.file = queue, folder.root / SECRET_FILE
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def secret(self) -> str:
        """What deliveries are signed with, made once: ``whsec_...``, the OpenAI client's ``webhook_secret``.

        Raises ConfigError for a file that holds none, OutputError where it cannot be written.
        """
        if not self.file.exists():
            write_text(
                self.file, "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode() + "\n", mode=0o600
            )
        text = read_small_text(self.file, error=ConfigError).strip()
        try:
            base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ConfigError(f"{self.file}: holds no secret (whsec_ and base64); remove it") from None
        return text

    def start(self, has_hosts: bool = False) -> None:
        """Deliver from now on. ``has_hosts``: whether there are hosts that may be told, so that a secret is needed.

        Raises ConfigError for a damaged secret.
        """
        if has_hosts or self.file.exists():
            self.secret()
        self._thread.start()

    def close(self) -> None:
        """Stop; what was not delivered is tried after the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(SECONDS + 2)

    def wake(self) -> None:
        """Look for deliveries now: a video has ended (``VideoQueue`` writes them as it ends one)."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(5.0)
            self._wake.clear()
            with suppress(CogVideoXError):  # such as a full disk; looked at again soon
                query = "SELECT * FROM deliveries WHERE ended IS NULL AND due <= ? ORDER BY due LIMIT 50"
                for each in self.queue.read(query, (self.queue.clock(),)):
                    if self._stop.is_set():
                        return
                    self._note(
                        each["id"],
                        each["tries"] + 1,
                        deliver(each["url"], each["id"], each["event"], self.secret()),
                    )

    def _note(self, name: str, tries: int, delivered: bool) -> None:
        now = self.queue.clock()
        over = delivered or tries >= len(WAITS)
        with self.queue.changing() as db:
            values = (tries, now if over else None, now + WAITS[min(tries, len(WAITS) - 1)], name)
            db.execute("UPDATE deliveries SET tries = ?, ended = ?, due = ? WHERE id = ?", values)


def deliver(url: str, name: str, event: str, secret: str) -> bool:
    """Send one event; whether it was taken (an answer of 2xx in time)."""
    moment = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{signature(secret, name, moment, event)}",
    }
    at = urlsplit(url)
    where = (at.path or "/") + (f"?{at.query}" if at.query else "")
    try:
        with _line(at) as line:
            line.request("POST", where, event.encode(), headers)
            answer = line.getresponse()
            answer.read(1 << 10)
            return 200 <= answer.status < 300
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: a port or a name that cannot be
        return False


@contextmanager
def _line(at: SplitResult) -> Iterator[http.client.HTTPConnection]:
    """A connection to the host of an address, cut after ``SECONDS``, however often something comes on it."""
    assert at.hostname is not None, "it was checked when it was taken"
    if at.scheme == "https":
        context = ssl.create_default_context()
        line: http.client.HTTPConnection = http.client.HTTPSConnection(
            at.hostname, at.port, timeout=SECONDS, context=context
        )
    else:
        line = http.client.HTTPConnection(at.hostname, at.port, timeout=SECONDS)
    sockets: list[socket.socket] = []

    def cut() -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    clock = threading.Timer(SECONDS, cut)
    clock.daemon = True
    try:
        line.connect()
        sockets.append(line.sock)
        clock.start()
        yield line
    finally:
        clock.cancel()
        line.close()


def signature(secret: str, name: str, moment: str, event: str) -> str:
    """The signature of Standard Webhooks: HMAC-SHA256 over id, time and body, in base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(
        hmac.new(key, f"{name}.{moment}.{event}".encode(), hashlib.sha256).digest()
    ).decode()

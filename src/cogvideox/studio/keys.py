"""Keys of users: shown once when they are created, kept as a digest, revocable, each with a quota."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cogvideox.errors import ConfigError
from cogvideox.studio.queue import VideoQueue

PREFIX = "cvx_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
MOST = 10**15  # of a quota; the database holds no number without end
LOCAL = "local"
"""The user of a server on this machine's own address, who needs no key."""


@dataclass(frozen=True)
class KeyHolder:
    """Who a key belongs to: ``queued`` is how many videos they may have waiting, ``bytes`` what they may keep on disk.

    Times are seconds since 1970; ``revoked`` is None while the key is good.
    """

    name: str
    queued: int
    bytes: int
    created: float = 0.0
    revoked: float | None = None


def check_holder(name: str, queued: int, size: int) -> None:
    """Raises ConfigError for a name or a quota that no key can have."""
    if not NAME.fullmatch(name) or name == LOCAL:
        raise ConfigError(
            f"name {name[:80]!r}: use letters, digits and . _ @ -, at most 64, and not {LOCAL!r}"
        )
    if not 1 <= queued <= MOST or not 1 <= size <= MOST:
        raise ConfigError(f"quota of {queued:g} videos and {size:g} bytes: both must be 1 to {MOST:g}")


def create_key(queue: VideoQueue, name: str, queued: int, size: int) -> str:
    """A new key for a user; only its digest is kept. Raises ConfigError for a name that is taken, and as
    ``check_holder`` does."""
    check_holder(name, queued, size)
    key = PREFIX + secrets.token_urlsafe(32)
    with queue.changing() as db:
        if db.execute("SELECT 1 FROM keys WHERE name = ?", (name,)).fetchone():
            raise ConfigError(f"name {name}: has a key already; revoke it and choose another name")
        values = (name, _digest(key), queue.clock(), queued, size)
        db.execute("INSERT INTO keys (name, digest, created, queued, bytes) VALUES (?, ?, ?, ?, ?)", values)
    return key


def revoke_key(queue: VideoQueue, name: str) -> None:
    """From now on the key of a user is refused; their videos stay. Raises ConfigError where there is no such key."""
    with queue.changing() as db:
        change = "UPDATE keys SET revoked = ? WHERE name = ? AND revoked IS NULL"
        if not db.execute(change, (queue.clock(), name)).rowcount:
            raise ConfigError(
                f"name {name[:80]!r}: has no key that could be revoked; cogvideox keys list shows all"
            )


def list_keys(queue: VideoQueue) -> list[KeyHolder]:
    """Everybody who has or had a key, by name."""
    found = queue.read("SELECT name, queued, bytes, created, revoked FROM keys ORDER BY name")
    return [KeyHolder(**dict(each)) for each in found]


def holder_of(queue: VideoQueue, key: str) -> KeyHolder | None:
    """Whose key this is; None for one that is unknown or revoked. All keys are compared, in constant time each."""
    digest, holder = _digest(key), None
    for each in queue.read("SELECT * FROM keys WHERE revoked IS NULL"):
        if secrets.compare_digest(each["digest"], digest):
            holder = KeyHolder(each["name"], each["queued"], each["bytes"], each["created"])
    return holder


def has_keys(queue: VideoQueue) -> bool:
    """Whether there is a key that has not been revoked."""
    found: Sequence[object] = queue.read("SELECT 1 FROM keys WHERE revoked IS NULL LIMIT 1")
    return bool(found)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

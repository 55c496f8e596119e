"""The queue of videos in one SQLite file: what was accepted is on disk, and each video ends exactly once.

    queued -> running -> completed | failed | cancelled
    queued <- running    its worker or the server died, or was stopped
    queued -> cancelled

Every change is one transaction with a flush to disk (WAL, synchronous FULL) and leaves a line in ``transitions``. Only
the server writes states; it holds the folder's lock. The file of a video comes first, its state second, so after a kill
``recover`` needs to look only at whether the files are there.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cogvideox.errors import OutputError
from cogvideox.studio.queue_schema import NEXT, PURGED, TO_PURGE, folded, make_tables

State = Literal["queued", "running", "completed", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("completed", "failed", "cancelled")
EDGES: dict[State, tuple[State, ...]] = {
    "queued": ("running", "cancelled"),
    "running": ("completed", "failed", "cancelled", "queued"),
    "completed": (),
    "failed": (),
    "cancelled": (),
}
"""The changes of state that there are."""


@dataclass(frozen=True, kw_only=True)
class QueuedVideo:
    """One video of the queue, as it stands in the database.

    ``request``: what was asked for (``VideoRequest``), ``plan``: what was estimated before it was queued, ``result``:
    facts of a completed video, ``error``: code and message of a failed one; plain values. Times are seconds since 1970.
    ``deaths``: workers that died of it; ``interruptions``: servers that were killed while it ran; ``bytes``: on disk.
    """

    number: int
    id: str
    owner: str
    state: State
    prompt: str
    request: dict[str, Any]
    plan: dict[str, Any]
    result: dict[str, Any]
    error: dict[str, Any]
    created: float
    started: float | None = None
    ended: float | None = None
    deleted: float | None = None
    deaths: int = 0
    interruptions: int = 0
    cancelling: bool = False
    favourite: bool = False
    bytes: int = 0
    idempotency: str | None = None
    digest: str = ""

    @classmethod
    def of(cls, values: sqlite3.Row) -> QueuedVideo:
        """The video of one line of the table. Raises OutputError for a damaged one."""
        plain = dict(values)
        for name in ("request", "plan", "result", "error"):
            try:
                plain[name] = json.loads(plain[name])
            except ValueError:
                raise OutputError(
                    f"{plain['id']}: its {name} in the queue is damaged; delete its line"
                ) from None
        plain |= {name: bool(plain[name]) for name in ("cancelling", "favourite")}
        return cls(**plain)

    @property
    def is_final(self) -> bool:
        """Whether its state never changes again."""
        return self.state in FINAL


@dataclass(frozen=True)
class NewVideo:
    """What is put into the queue: ``request`` and ``plan`` as plain values, ``digest`` of all that was asked for.

    ``idempotency``: a key of the client's; the same key gives the same video.
    """

    owner: str
    request: Mapping[str, Any]
    plan: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    idempotency: str | None = None


def new_id(kind: str) -> str:
    """A name that nobody guesses: ``video_`` and 128 random bits as hex digits."""
    return f"{kind}_{secrets.token_hex(16)}"


class VideoQueue:
    """The database of a studio folder. Threads may share it; other processes may read it and change keys.

    Raises OutputError where the file cannot be used, is damaged, or the disk refuses a change.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with self._failing():
            _make_private(path)
            self._writer, self._reader = self._connect(), self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten in the file
            self._writer.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives power loss too
            problem = self._writer.execute("PRAGMA quick_check").fetchone()[0]
            if problem != "ok":
                raise OutputError(
                    f"{path}: damaged ({problem}); move it aside and start with another folder (the videos are whole)"
                )
            make_tables(self._writer, path, {each.name for each in fields(QueuedVideo)})
            self._reader.execute("PRAGMA query_only=ON")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False, timeout=10, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.create_function("has_text", 2, lambda text, part: part in folded(text), deterministic=True)
        return connection

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise OutputError(
                f"{self.path}: cannot be used ({error}); free some space, or choose another folder"
            ) from None

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: flushed to disk when the block ends, undone when it raises. Raises OutputError."""
        with self._failing(), self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The lines of a query; never waits for a change that is being flushed. Raises OutputError."""
        with self._failing(), self._reading:
            return self._reader.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the database file."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    # videos

    def add(self, new: NewVideo) -> QueuedVideo:
        """Queue a video: it is on disk when this returns. With an idempotency key that was used before, that video."""
        prompt = str(new.request.get("settings", {}).get("prompt", ""))
        with self.changing() as db:
            if new.idempotency is not None:
                found = db.execute(
                    "SELECT * FROM videos WHERE owner = ? AND idempotency = ?", (new.owner, new.idempotency)
                ).fetchone()
                if found is not None:
                    return QueuedVideo.of(found)
            name = new_id("video")
            db.execute(
                "INSERT INTO videos (id, owner, state, prompt, request, plan, created, idempotency, digest) "
                "VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
                (name, new.owner, prompt, json.dumps(new.request), json.dumps(new.plan), self.clock(), new.idempotency,
                 new.digest),
            )  # fmt: skip
            return QueuedVideo.of(db.execute("SELECT * FROM videos WHERE id = ?", (name,)).fetchone())

    def get(self, name: str) -> QueuedVideo | None:
        """One video by its id; None for one that there is not."""
        found = self.read("SELECT * FROM videos WHERE id = ?", (name,))
        return QueuedVideo.of(found[0]) if found else None

    def with_key(self, owner: str, idempotency: str) -> QueuedVideo | None:
        """The video that a user queued with this idempotency key."""
        found = self.read("SELECT * FROM videos WHERE owner = ? AND idempotency = ?", (owner, idempotency))
        return QueuedVideo.of(found[0]) if found else None

    def take(self) -> QueuedVideo | None:
        """The next video, which is running from now on; None where nothing waits. Fair between users (``NEXT``)."""
        if not self.read("SELECT 1 FROM videos WHERE state = 'queued' LIMIT 1"):
            return None
        with self.changing() as db:
            found = db.execute(NEXT).fetchone()
            if found is None:
                return None
            db.execute("UPDATE videos SET started = ? WHERE id = ?", (self.clock(), found["id"]))
            self._change(db, found["id"], "queued", "running")
            return QueuedVideo.of(db.execute("SELECT * FROM videos WHERE id = ?", (found["id"],)).fetchone())

    def end(
        self,
        name: str,
        state: State,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        size: int = 0,
    ) -> bool:
        """A running video ends; whether it was running. ``size``: bytes of its files."""
        with self.changing() as db:
            changed = self._change(db, name, "running", state)
            if changed:
                db.execute(
                    "UPDATE videos SET ended = ?, result = ?, error = ?, bytes = ? WHERE id = ?",
                    (self.clock(), json.dumps(result or {}), json.dumps(error or {}), size, name),
                )
            return changed

    def put_back(self, name: str, counted: Literal["", "deaths", "interruptions"] = "") -> bool:
        """A running video waits again, in the order in which it was queued; one that is being cancelled ends instead.

        ``counted``: what is counted for it. Whether it was running.
        """
        with self.changing() as db:
            if counted:
                change = f"UPDATE videos SET {counted} = {counted} + 1 WHERE id = ? AND state = 'running'"
                db.execute(change, (name,))
            found = db.execute("SELECT cancelling FROM videos WHERE id = ?", (name,)).fetchone()
            if found is None or not found["cancelling"]:
                return self._change(db, name, "running", "queued")
            db.execute("UPDATE videos SET ended = ? WHERE id = ? AND state = 'running'", (self.clock(), name))
            return self._change(db, name, "running", "cancelled")

    def cancel(self, name: str) -> QueuedVideo | None:
        """Cancel a waiting video at once; a running one is marked, its worker ends it. None: there is no such video."""
        with self.changing() as db:
            if self._change(db, name, "queued", "cancelled"):
                db.execute("UPDATE videos SET ended = ? WHERE id = ?", (self.clock(), name))
            else:
                db.execute("UPDATE videos SET cancelling = 1 WHERE id = ? AND state = 'running'", (name,))
            found = db.execute("SELECT * FROM videos WHERE id = ?", (name,)).fetchone()
        return QueuedVideo.of(found) if found else None

    def delete(self, name: str) -> bool:
        """Hide a video, cancelling it where it has not ended; files go later (``to_purge``). Whether it was there."""
        self.cancel(name)
        with self.changing() as db:
            change = "UPDATE videos SET deleted = ? WHERE id = ? AND deleted IS NULL"
            return db.execute(change, (self.clock(), name)).rowcount > 0

    def restore(self, name: str) -> bool:
        """Show a deleted video again; False where its files have gone already."""
        with self.changing() as db:
            change = (
                f"UPDATE videos SET deleted = NULL WHERE id = ? AND deleted IS NOT NULL AND NOT ({PURGED})"
            )
            return db.execute(change, (name,)).rowcount > 0

    def to_purge(self, before: float) -> list[str]:
        """Ended videos that were deleted before a time, whose files and texts are still there and that no waiting or
        running video starts from."""
        return [each["id"] for each in self.read(TO_PURGE, (before,))]

    def purge(self, name: str) -> bool:
        """Forget what a deleted video was asked to show, and note that its files go now; False where it was brought
        back meanwhile. Its entry stays: its idempotency key makes no second video."""
        with self.changing() as db:
            gone = "bytes = 0, prompt = '', request = '{}', plan = '{}', result = '{}', error = '{}'"
            change = f"UPDATE videos SET {gone} WHERE id = ? AND deleted IS NOT NULL"
            return db.execute(change, (name,)).rowcount > 0

    def set_favourite(self, name: str, favourite: bool) -> None:
        """Mark a video as a favourite, or not."""
        with self.changing() as db:
            db.execute("UPDATE videos SET favourite = ? WHERE id = ?", (int(favourite), name))

    def page(self, owner: str, query: PageQuery) -> tuple[list[QueuedVideo], bool]:
        """Videos of a user as ``query`` asks, and whether there are more behind them."""
        where, values = ["owner = ?", "deleted IS NULL"], [owner]
        newest = query.order == "desc"
        if query.after is not None:
            where.append(
                f"number {'<' if newest else '>'} COALESCE((SELECT number FROM videos WHERE id = ?), 0)"
            )
            values.append(query.after)
        if query.search:
            where.append("has_text(prompt, ?)")
            values.append(folded(query.search))
        if query.state:
            where.append("state = ?")
            values.append(query.state)
        if query.favourite:
            where.append("favourite = 1")
        text = f"SELECT * FROM videos WHERE {' AND '.join(where)} ORDER BY number {'DESC' if newest else 'ASC'} LIMIT ?"
        found = self.read(text, [*values, query.limit + 1])
        return [QueuedVideo.of(each) for each in found[: query.limit]], len(found) > query.limit

    def ahead_of(self, video: QueuedVideo) -> int:
        """Waiting videos that were queued before this one, of all users: about its position in the queue."""
        query = "SELECT COUNT(*) FROM videos WHERE state = 'queued' AND number < ?"
        return int(self.read(query, (video.number,))[0][0])

    def waiting(self, owner: str | None = None) -> int:
        """Videos that are queued, of one user or of all."""
        if owner is None:
            return int(self.read("SELECT COUNT(*) FROM videos WHERE state = 'queued'")[0][0])
        query = "SELECT COUNT(*) FROM videos WHERE state = 'queued' AND owner = ?"
        return int(self.read(query, (owner,))[0][0])

    def running(self) -> list[QueuedVideo]:
        """The videos that are being made."""
        return [QueuedVideo.of(each) for each in self.read("SELECT * FROM videos WHERE state = 'running'")]

    def bytes_used(self, owner: str | None = None) -> int:
        """Bytes of videos and uploads on disk, of one user or of all."""
        where, values = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
        return sum(
            int(self.read(f"SELECT COALESCE(SUM(bytes), 0) FROM {table}{where}", values)[0][0])
            for table in ("videos", "inputs")
        )

    # uploads

    def add_input(self, name: str, owner: str, ending: str, size: int, facts: Mapping[str, Any]) -> None:
        """Note an upload whose file is there."""
        with self.changing() as db:
            values = (name, owner, ending, size, self.clock(), json.dumps(facts))
            db.execute(
                "INSERT INTO inputs (id, owner, ending, bytes, created, facts) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    def input(self, owner: str, name: str) -> sqlite3.Row | None:
        """An upload of a user by its id: its ``ending``, ``bytes`` and ``facts``."""
        found = self.read("SELECT * FROM inputs WHERE owner = ? AND id = ?", (owner, name))
        return found[0] if found else None

    def count_inputs(self, owner: str) -> int:
        """How many uploads are kept for a user."""
        return int(self.read("SELECT COUNT(*) FROM inputs WHERE owner = ?", (owner,))[0][0])

    def old_inputs(self, before: float) -> list[tuple[str, str]]:
        """Ids and endings of uploads older than a time that no waiting or running video uses."""
        query = (
            "SELECT id, ending FROM inputs WHERE created < ? AND NOT EXISTS (SELECT 1 FROM videos WHERE "
            "state IN ('queued', 'running') AND instr(request, inputs.id) > 0)"
        )
        return [(each["id"], each["ending"]) for each in self.read(query, (before,))]

    def remove_input(self, name: str) -> None:
        """Forget an upload; its file goes next."""
        with self.changing() as db:
            db.execute("DELETE FROM inputs WHERE id = ?", (name,))

    # after a kill

    def names(self) -> tuple[set[str], set[str]]:
        """Ids of the videos and of the uploads that have files."""
        videos = self.read("SELECT id FROM videos WHERE state = 'completed' AND bytes > 0")
        return {each["id"] for each in videos}, {each["id"] for each in self.read("SELECT id FROM inputs")}

    def recover(
        self, facts_of: Callable[[str], tuple[dict[str, Any], int] | None], most: int
    ) -> dict[str, State]:
        """What the videos become that were running when the server was killed: call it when no worker is alive.

        ``facts_of``: facts and bytes of a video whose files are there, whole, else None. ``most``: interruptions after
        which a video is given up.
        """
        result: dict[str, State] = {}
        for video in self.running():
            there = facts_of(video.id)
            if there is not None:
                self.end(video.id, "completed", result=there[0], size=there[1])
                result[video.id] = "completed"
            elif video.cancelling:
                self.end(video.id, "cancelled")
                result[video.id] = "cancelled"
            elif video.interruptions + 1 >= most:
                why = f"the server ended {most} times while it was made"
                self.end(video.id, "failed", error={"code": "interrupted", "message": why})
                result[video.id] = "failed"
            else:
                self.put_back(video.id, "interruptions")
                result[video.id] = "queued"
        return result

    def _change(self, db: sqlite3.Connection, name: str, was: State, becomes: State) -> bool:
        """One edge of the state machine, inside a transaction; whether the video was in that state."""
        assert becomes in EDGES[was], f"{was} -> {becomes} is no change of state"
        changed = db.execute(
            "UPDATE videos SET state = ? WHERE id = ? AND state = ?", (becomes, name, was)
        ).rowcount
        if changed:
            values = (name, self.clock(), was, becomes)
            db.execute("INSERT INTO transitions (id, moment, was, becomes) VALUES (?, ?, ?, ?)", values)
        if changed and becomes in FINAL:
            found = db.execute("SELECT request FROM videos WHERE id = ?", (name,)).fetchone()
            if (url := json.loads(found["request"]).get("webhook")) is not None:
                self._announce(db, name, becomes, url)
        return bool(changed)

    def _announce(self, db: sqlite3.Connection, name: str, state: State, url: str) -> None:
        """The delivery of a webhook, in the transaction that ends the video: told if and only if it has ended."""
        kind, now = "completed" if state == "completed" else "failed", self.clock()
        event = {"id": new_id("evt"), "object": "event", "type": f"video.{kind}", "created_at": int(now)}
        values = (event["id"], url, json.dumps(event | {"data": {"id": name}}), now)
        db.execute("INSERT INTO deliveries (id, url, event, due) VALUES (?, ?, ?, ?)", values)


@dataclass(frozen=True)
class PageQuery:
    """Which videos a list shows: ``limit`` of them behind the video ``after``, newest first with ``order`` desc.

    ``search``: text that the prompt holds, upper and lower case alike; ``state``: only of that state; ``favourite``:
    only favourites.
    """

    limit: int = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"
    search: str = ""
    state: str = ""
    favourite: bool = False


def _make_private(path: Path) -> None:
    """The file, readable by its owner alone whatever the umask; SQLite gives the files beside it the same rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    os.close(number)
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        if file.is_file():
            file.chmod(0o600)

"""The tables of the queue, and the question which video is next."""

from __future__ import annotations

import sqlite3
import unicodedata
from pathlib import Path

from cogvideox.errors import OutputError

PURGED = "request = '{}'"
"""Of a video that was deleted for good: what it was asked to show is forgotten too."""
TO_PURGE = f"""
SELECT id FROM videos AS gone WHERE deleted < ? AND state IN ('completed', 'failed', 'cancelled') AND NOT ({PURGED})
AND NOT EXISTS (SELECT 1 FROM videos WHERE state IN ('queued', 'running') AND instr(request, gone.id) > 0)
"""
"""Ended videos that were deleted before a time and that no waiting or running one starts from."""
VERSION = 1
"""Of the tables, in ``user_version``; one more with every change that another version of this program cannot read."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS videos (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    prompt TEXT NOT NULL,
    request TEXT NOT NULL,
    plan TEXT NOT NULL,
    result TEXT NOT NULL DEFAULT '{}',
    error TEXT NOT NULL DEFAULT '{}',
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    deleted REAL,
    deaths INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    favourite INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    idempotency TEXT,
    digest TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS once ON videos (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_state ON videos (state, owner);
CREATE INDEX IF NOT EXISTS by_owner ON videos (owner, number);
CREATE INDEX IF NOT EXISTS by_turn ON videos (owner, started);
CREATE TABLE IF NOT EXISTS transitions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    moment REAL NOT NULL,
    was TEXT NOT NULL,
    becomes TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS inputs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    ending TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created REAL NOT NULL,
    facts TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    created REAL NOT NULL,
    revoked REAL,
    queued INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    event TEXT NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    ended REAL
) WITHOUT ROWID;
"""
NEXT = """
SELECT v.* FROM videos AS v JOIN (
    SELECT MIN(number) AS number FROM videos
    WHERE state = 'queued' AND cancelling = 0 AND deleted IS NULL GROUP BY owner
) AS first ON v.number = first.number ORDER BY
    (SELECT COUNT(*) FROM videos AS r WHERE r.state = 'running' AND r.owner = v.owner),
    COALESCE((SELECT MAX(s.started) FROM videos AS s WHERE s.owner = v.owner), 0),
    v.number
LIMIT 1
"""
"""The next video: of the user with the fewest running ones, then of the one who has waited longest for a turn."""


def folded(text: str) -> str:
    """A text as it is searched: upper and lower case are alike, in every script, and so are the ways to write a letter
    with its accent."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def make_tables(database: sqlite3.Connection, path: Path, columns: set[str]) -> None:
    """Make the tables where there are none. ``columns``: those that this program reads of a video.

    Raises OutputError for tables of another version; they are left as they are.
    """
    made_by = database.execute("PRAGMA user_version").fetchone()[0]
    there = None
    if made_by <= VERSION:
        database.executescript(SCHEMA)
        there = {each["name"] for each in database.execute("PRAGMA table_info(videos)")}
    if there != columns:
        raise OutputError(
            f"{path}: made by another version of this program; go on with that one, or choose another folder"
        )
    if made_by != VERSION:
        database.execute(f"PRAGMA user_version={VERSION}")

"""Ratings in SQLite: committed to disk before they are acknowledged, one per rater and unit, never changed."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideox.errors import OutputError

SCHEMA = """
CREATE TABLE IF NOT EXISTS ratings (
    rater TEXT NOT NULL,
    unit TEXT NOT NULL,
    said TEXT NOT NULL,
    moment REAL NOT NULL,
    PRIMARY KEY (rater, unit)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class RatingEntry:
    """One rating: what one rater answered about one unit of the study, as the page sent it, checked."""

    rater: str
    unit: str
    answer: dict[str, Any]


class RatingLedger:
    """The ratings of a study in one SQLite file. Threads may share it. Raises OutputError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_private(path)
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives power loss too
            problem = self._db.execute("PRAGMA quick_check").fetchone()[0]
            if problem != "ok":
                raise OutputError(f"{path}: damaged ({problem}); keep it aside and start another study")
            self._db.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise OutputError(f"{path}: cannot be used ({error}); choose another --out") from None

    def add(self, entry: RatingEntry) -> bool:
        """Keep a rating; True when it is on disk, also when it was before, False when another one stands there.

        Raises OutputError when the disk refuses it.
        """
        answer = json.dumps(entry.answer, sort_keys=True)
        try:
            with self._lock, self._db:
                self._db.execute(
                    "INSERT OR IGNORE INTO ratings VALUES (?, ?, ?, ?)",
                    (entry.rater, entry.unit, answer, time.time()),
                )
                row = self._db.execute(
                    "SELECT said FROM ratings WHERE rater = ? AND unit = ?", (entry.rater, entry.unit)
                ).fetchone()
        except sqlite3.Error as error:
            why = f"the rating could not be kept ({error})"
            raise OutputError(f"{self.path}: {why}; free some space") from None
        return row[0] == answer

    def done(self, rater: str) -> set[str]:
        """The units a rater has rated."""
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT unit FROM ratings WHERE rater = ?", (rater,))}

    def entries(self) -> Iterator[RatingEntry]:
        """All ratings, ordered by rater and unit."""
        with self._lock:
            rows = self._db.execute("SELECT rater, unit, said FROM ratings ORDER BY rater, unit").fetchall()
        return (RatingEntry(rater, unit, json.loads(answer)) for rater, unit, answer in rows)

    def close(self) -> None:
        """Close the database file."""
        with self._lock:
            self._db.close()


def _make_private(path: Path) -> None:
    """The file, readable by its owner alone whatever the umask; SQLite gives the files beside it the same rights."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    os.close(number)
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        if file.is_file():
            file.chmod(0o600)

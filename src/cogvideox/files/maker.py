"""The mark of whoever writes: a small file that says who, and is locked as long as that process lives."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cogvideox.files.lock import try_lock
from cogvideox.files.structured import parse_json

MARK = ".maker"
KIND = "cogvideox writes here"
MOST = 4096  # bytes


@dataclass(frozen=True)
class Mark:
    """``is_alive``: whether its maker still writes; None when this cannot be known from here. ``name``: of what is
    written. As a context it keeps the mark until the block ends."""

    number: int
    name: str
    who: str
    is_alive: bool | None

    def __enter__(self) -> Mark:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.close(self.number)


def write(place: Path, name: str) -> Mark | None:
    """Make the folder ``place`` and mark it as one in which this process writes what will be called ``name``; None
    when somebody swept it away before it could be locked. Raises OSError."""
    place.mkdir(mode=0o700)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        number = os.open(place / MARK, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        if try_lock(number) is not False and os.fstat(number).st_nlink:
            os.write(number, json.dumps({"kind": KIND, "name": name, **_here()}).encode())
            return Mark(number, name, f"process {os.getpid()}", True)
    except OSError:  # a full disk
        os.close(number)
        (place / MARK).unlink(missing_ok=True)
        place.rmdir()
        raise
    os.close(number)
    return None


def read(place: Path) -> Mark | None:
    """The mark in ``place``, locked when its maker is dead; None where there is none of ours."""
    try:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        number = os.open(place / MARK, flags)
    except OSError:
        return None
    said = _said(number)
    if said is None:
        _remove_empty(place, number)
        os.close(number)
        return None
    alive = _is_alive(number, said)
    if alive:
        os.close(number)
    return Mark(number, said["name"], f"process {said['pid']} on {said['host']}", alive)


def _remove_empty(place: Path, number: int) -> None:
    """A mark without words in a folder without anything else: its maker died between making and locking it."""
    if not os.fstat(number).st_size and try_lock(number) and [p.name for p in place.iterdir()] == [MARK]:
        with suppress(OSError):
            if not os.fstat(number).st_size:
                (place / MARK).unlink()
                place.rmdir()


def _said(number: int) -> dict[str, Any] | None:
    if not stat.S_ISREG(os.fstat(number).st_mode):
        return None
    try:
        said = parse_json(os.read(number, MOST).decode("utf-8"), MARK)
    except ValueError:
        return None
    texts = ("kind", "name", "host", "boot", "processes")
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in texts):
        return None
    name = said["name"]
    plain = said["kind"] == KIND and name == os.path.basename(name) and name not in ("", ".", "..")
    return said if plain and isinstance(said.get("pid"), int) else None


def _is_alive(number: int, said: dict[str, Any]) -> bool | None:
    """A lock that is held says yes. One that is free says no only on the same machine: file systems that many machines
    share may keep locks to each. Without locks the process is looked for."""
    here, locked = _here(), try_lock(number)
    if locked is False:
        return True
    if locked:
        same = said["boot"] == here["boot"] or said["host"] == here["host"]
        return False if same else None
    if os.name == "nt" or (said["boot"], said["processes"]) != (here["boot"], here["processes"]):
        return None
    try:
        os.kill(said["pid"], 0)
    except (OSError, OverflowError) as error:
        return getattr(error, "errno", None) != errno.ESRCH
    return True


def _here() -> dict[str, Any]:
    """Machine, namespace of process numbers, and process; containers of one machine share its boot."""
    boot = processes = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with suppress(OSError):
        processes = os.readlink("/proc/self/ns/pid")
    host = socket.gethostname()
    return {"host": host, "boot": boot or host, "processes": processes or host, "pid": os.getpid()}

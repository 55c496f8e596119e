"""PID file in a staging folder: names the process that writes there, and is locked while that process lives."""

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

NAME = ".maker"
KIND = "cogvideox writes here"
MOST = 4096  # bytes


@dataclass(frozen=True)
class PidFile:
    """An open PID file. ``descriptor``: its file descriptor; ``name``: the file or folder that is being written;
    ``who``: the process, for messages; ``is_alive``: whether that process runs, None when this machine cannot tell.

    A context manager that closes, and so unlocks, the file when the block ends.
    """

    descriptor: int
    name: str
    who: str
    is_alive: bool | None

    def __enter__(self) -> PidFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.close(self.descriptor)


def write(folder: Path, name: str) -> PidFile | None:
    """Make ``folder`` with a PID file: this process writes there what will be called ``name``. None when another
    process removed the folder before the file could be locked. Raises OSError."""
    folder.mkdir(mode=0o700)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(folder / NAME, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        if try_lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            os.write(descriptor, json.dumps({"kind": KIND, "name": name, **_here()}).encode())
            return PidFile(descriptor, name, f"process {os.getpid()}", True)
    except OSError:  # a full disk
        os.close(descriptor)
        (folder / NAME).unlink(missing_ok=True)
        folder.rmdir()
        raise
    os.close(descriptor)
    return None


def read(folder: Path) -> PidFile | None:
    """The PID file in ``folder``, locked by us when its process is dead; None where there is none of this package."""
    try:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(folder / NAME, flags)
    except OSError:
        return None
    content = _content_of(descriptor)
    if content is None:
        _remove_empty(folder, descriptor)
        os.close(descriptor)
        return None
    alive = _is_alive(descriptor, content)
    if alive:
        os.close(descriptor)
    return PidFile(descriptor, content["name"], f"process {content['pid']} on {content['host']}", alive)


def _remove_empty(folder: Path, descriptor: int) -> None:
    """Remove an empty PID file in a folder that holds nothing else: its process died before it could write to it."""
    if os.fstat(descriptor).st_size or not try_lock(descriptor):
        return
    if [p.name for p in folder.iterdir()] == [NAME]:
        with suppress(OSError):
            if not os.fstat(descriptor).st_size:
                (folder / NAME).unlink()
                folder.rmdir()


def _content_of(descriptor: int) -> dict[str, Any] | None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    try:
        content = parse_json(os.read(descriptor, MOST).decode("utf-8"), NAME)
    except ValueError:
        return None
    texts = ("kind", "name", "host", "boot", "processes")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in texts):
        return None
    name = content["name"]
    plain = content["kind"] == KIND and name == os.path.basename(name) and name not in ("", ".", "..")
    return content if plain and isinstance(content.get("pid"), int) else None


def _is_alive(descriptor: int, content: dict[str, Any]) -> bool | None:
    """Whether the process that wrote ``content`` runs. A held lock: yes. A free lock: no, but only on the same machine,
    because network file systems may not share locks (else None). Without locks: whether its process id exists."""
    here, locked = _here(), try_lock(descriptor)
    if locked is False:
        return True
    if locked:
        same = content["boot"] == here["boot"] or content["host"] == here["host"]
        return False if same else None
    if os.name == "nt" or (content["boot"], content["processes"]) != (here["boot"], here["processes"]):
        return None
    try:
        os.kill(content["pid"], 0)
    except (OSError, OverflowError) as error:
        return getattr(error, "errno", None) != errno.ESRCH
    return True


def _here() -> dict[str, Any]:
    """Identity of this process: host, boot id (shared by the containers of a machine), PID namespace, PID."""
    boot = processes = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with suppress(OSError):
        processes = os.readlink("/proc/self/ns/pid")
    host = socket.gethostname()
    return {"host": host, "boot": boot or host, "processes": processes or host, "pid": os.getpid()}

"""A process that dies by its own hand, at an operation of the file system that was drawn beforehand."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

OPERATIONS = ("fsync", "rename", "replace", "mkdir", "truncate", "unlink", "rmdir", "open")


def die_at_operation(out: Path, die_at: int | None, mark: Path) -> None:
    """SIGKILL this process at its ``die_at``-th operation from here; ``mark`` says whether that is inside a save."""
    count = 0

    def counted(name):
        whole = getattr(os, name)

        def operation(*args, **kwargs):
            nonlocal count
            count += 1
            if count == die_at:
                inside = any(path.name.startswith(".state-") for path in out.glob(".state-*"))
                with contextlib.suppress(OSError):
                    mark.write_text("inside" if inside else "outside")
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(name))

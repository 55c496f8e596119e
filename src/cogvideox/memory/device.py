"""How much memory a device has left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from cogvideox.device import free_bytes

ROOT = Path("/")


def available(device: torch.device | str) -> int | None:
    """Bytes a program can still get on the device; None if unknown.

    Of a GPU: what is free, and what torch holds without using it. Of a CPU: the least of what the system has, what the
    control groups of this process leave (of containers and services, versions 1 and 2, every level), and its own limit
    of address space.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return free_bytes(str(device))
    if device.type != "cpu":
        return None
    found = [left for left in (_system(), *_groups(), _address_space()) if left is not None]
    return max(min(found), 0) if found else None


def _system() -> int | None:
    kilobytes = _field(ROOT / "proc/meminfo", "MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _groups() -> Iterator[int | None]:
    """What every control group around this process leaves, from its own up to the root that can be seen."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    paths = {kinds: path for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") >= 2)}
    older = next((path for kinds, path in paths.items() if "memory" in kinds.split(",")), "/")
    for mount, path, files in (
        ("sys/fs/cgroup", paths.get("", "/"), ("memory.max", "memory.current", "inactive_file")),
        ("sys/fs/cgroup/unified", paths.get("", "/"), ("memory.max", "memory.current", "inactive_file")),
        (
            "sys/fs/cgroup/memory",
            older,
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ):
        inner = Path(path.strip("/"))
        for level in (inner, *inner.parents) if path.strip("/") else (Path(),):
            yield _group(ROOT / mount / level, *files)


def _group(folder: Path, most: str, used: str, cached: str) -> int | None:
    """The limit less what is used; files that are only cached can be dropped."""
    try:
        limit = int((folder / most).read_text())
        held = int((folder / used).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    return limit - held + min(_field(folder / "memory.stat", cached) or 0, held)


def _address_space() -> int | None:
    """What ``ulimit -v`` leaves."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _field(ROOT / "proc/self/status", "VmSize:")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used * 1024


def _field(file: Path, name: str) -> int | None:
    """The number after a name at the beginning of a line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines)
    return next((int(words[1]) for words in found if len(words) > 1 and words[0] == name), None)

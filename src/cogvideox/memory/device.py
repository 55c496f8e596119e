"""How much memory a device has left."""

from __future__ import annotations

from pathlib import Path

import torch

GROUPS = (  # what a container may use, and what it does use
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available(device: torch.device | str) -> int | None:
    """Bytes free on the device now; of a CPU what the system, or its container, can give. None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [left for left in (_system(), *(_group(*files) for files in GROUPS)) if left is not None]
    return min(found, default=None)


def _system() -> int | None:
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    for line in info.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group(most: str, used: str) -> int | None:
    try:
        return int(Path(most).read_text()) - int(Path(used).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None

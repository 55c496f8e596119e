"""Which device computes, whether it is here, and how much memory it has left."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideox.errors import ConfigError

if TYPE_CHECKING:
    import torch

SPARE = 1.2  # times the weights: what the least work beside them takes
ROOT = Path("/")
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "B200": 2250.0, "L40S": 362.0, "4090": 165.0}
"""Dense bfloat16 TFLOPs a second of cards, as their vendor prints them."""
CARD_MEMORY = {"H200": 141, "H100": 80, "A100": 80, "B200": 180, "L40S": 48, "4090": 24}
"""Gigabytes of the same cards; of those that are sold with several, the largest."""


def card_here() -> str | None:
    """The card of this machine as ``PEAKS`` names it; None without one, and for one that is not in the table."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((card for card in PEAKS if card in name), None)


def peak_of(card: str) -> float:
    """FLOPs a second that the vendor of a card prints. Raises ConfigError for a card that is not in ``PEAKS``."""
    if card not in PEAKS:
        raise ConfigError(f"card {card!r}: not in the table; choose one of {', '.join(PEAKS)}")
    return PEAKS[card] * 1e12


def memory_of(card: str) -> str:
    """The memory of a card, as a limit is written. Raises ConfigError for a card that is not in the table."""
    peak_of(card)
    return f"{CARD_MEMORY[card]}GB"


def best_device() -> str:
    """The fastest kind of device here: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_for(needed: int) -> str:
    """The best device for so many bytes of weights: the GPU; with a warning the CPU where they do not fit."""
    best = best_device()
    if best == "cpu":
        return best
    try:
        check_device(best)
    except ConfigError as error:
        warnings.warn(f"{error}; loaded on the CPU", stacklevel=3)
        return "cpu"
    free = free_bytes(best)
    if free is None or needed * SPARE <= free:
        return best
    warnings.warn(
        f"device {best}: {needed / 1e9:.3g} GB of weights do not fit its {free / 1e9:.3g} GB of free memory; loaded on "
        f"the CPU, which is slow. Pass device={best!r} to insist, or a smaller dtype; cogvideox generate --memory auto "
        "brings parts to the device when they are needed",
        stacklevel=3,
    )
    return "cpu"


def free_bytes(device: str) -> int | None:
    """Bytes free on a GPU, those included that torch holds without using them; None where that is not told."""
    import torch

    if not device.startswith("cuda"):
        return None
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def check_device(device: str) -> None:
    """Raises ConfigError when nothing can be computed there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        if "Expected one of" in reason:
            raise ConfigError(f"device {device!r}: unknown; choose cpu, cuda, cuda:1 or mps") from None
        raise ConfigError(f"device {device!r}: not available here ({reason}); choose cpu") from None


def available(device: torch.device | str) -> int | None:
    """Bytes a program can still get on the device; None if unknown.

    Of a GPU: what is free, and what torch holds without using it. Of a CPU: the least of what the system has, what the
    control groups of this process leave (of containers and services, versions 1 and 2, every level), and its own limit
    of address space.
    """
    device = str(device)
    if device.split(":")[0] != "cpu":
        return free_bytes(device)
    limits = [left for left in (_system(), *_groups(), _address_space()) if left is not None]
    return max(min(limits), 0) if limits else None


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
    files = "memory.max", "memory.current", "inactive_file"
    files_v1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    for mount, path, names in (
        ("sys/fs/cgroup", paths.get("", "/"), files),
        ("sys/fs/cgroup/unified", paths.get("", "/"), files),
        ("sys/fs/cgroup/memory", older, files_v1),
    ):
        inner = Path(path.strip("/"))
        for level in (inner, *inner.parents) if path.strip("/") else (Path(),):
            yield _group(ROOT / mount / level, *names)


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

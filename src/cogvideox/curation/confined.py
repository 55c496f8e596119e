"""Limits of a process that decodes untrusted files: no secrets, no network, bounded resources.

Where the system does not offer one of these (network namespaces are of Linux, and some containers forbid them), the
rest still holds: nothing here is an error.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux
NEW_USER, NEW_NET = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET of Linux
HARMLESS = frozenset([
    "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "VIRTUAL_ENV", "PYTHONPATH",
    "PYTHONHOME", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "PYTHONNOUSERSITE",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME",
    "XDG_CACHE_HOME",
])  # fmt: skip
FAMILIES = (
    "LC_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "MALLOC_", "CUDA_", "NVIDIA_", "PYTORCH_", "TORCHINDUCTOR_",
)  # fmt: skip
SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTH")


def clean_environment(environment: Mapping[str, str], needed: Iterable[str] = ()) -> dict[str, str]:
    """The variables that a worker gets: those known to be harmless, and those ``needed`` by name. Nothing else."""
    needed = set(needed)
    kept = {}
    for name, value in environment.items():
        plain = name in HARMLESS or name.startswith(FAMILIES)
        if name in needed or (plain and not any(word in name.upper() for word in SECRET)):
            kept[name] = value
    return kept


def leave_network() -> bool:
    """From now on there is no network for this process, not even the machine itself; whether that worked.

    Called before threads begin: a namespace belongs to the thread that made it and to those it starts.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    user, group = os.getuid(), os.getgid()
    if unshare(NEW_NET) == 0:
        return True
    if (
        unshare(NEW_USER | NEW_NET) != 0
    ):  # who is not root may do it as the root of a user namespace of its own
        return False
    with suppress(OSError):  # keep our own names; files are checked by what we were in any case
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return True


def limit(memory: int, file_size: int, open_files: int) -> None:
    """MiB of memory from now on and of any written file, open files, no core dumps, and death with the parent."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
    at_most(resource.RLIMIT_CORE, 0)
    at_most(resource.RLIMIT_FSIZE, file_size << 20)
    at_most(resource.RLIMIT_NOFILE, open_files)
    with suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
        most = (used << 10) + (memory << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def at_most(what: int, value: int) -> None:
    """Lower a limit for good; one that is lower already stays."""
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(what, (value, value))


def limit_processor(seconds: int) -> None:
    """So many seconds of processor time more."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def tidy() -> None:
    """Give back what the last file held: coders of PyAV keep their threads, and the memory of these, until Python looks
    for cycles. Without this a process that decodes one file after the other comes to its limit, and refuses all."""
    gc.collect()

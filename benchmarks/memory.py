"""How much memory a piece of work needs on top of its weights: one process per measurement.

The same work at the smallest size goes first, so that code that is read in, threads and kernels made on first use count
for neither side; then what building the weights left unused goes back to the system, or it would hide some megabytes.
Every block of 64 KiB and more goes back as soon as it is free (MALLOC_MMAP_THRESHOLD_, glibc): else holes in the heap,
which are a matter of luck, move the result by a tenth.

python benchmarks/memory.py "VAE decode" ours mid
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from cases import SIZES, Side, cases_of

MEGABYTE = 1e6


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / MEGABYTE
    raise KeyError(field)


def give_back() -> None:
    """Free memory to the system, where the C library can."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def peak_of(work) -> float:
    """Megabytes by which the resident set grows while ``work`` runs, at its peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak that building the models left behind
        before, peak = _status("VmRSS"), lambda: _status("VmHWM")
    except OSError:  # not Linux, or not allowed: the peak since the start of the process
        unit = 1 if sys.platform == "darwin" else 1024

        def peak() -> float:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE

        before = peak()
    work()
    return peak() - before


def measure(case: str, side: Side, size: str, threads: int) -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, case, side, size, str(threads)]
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=exact)
    if done.returncode:
        raise RuntimeError(f"{case}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    case, side, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with torch.inference_mode():
        make = cases_of(size)[case]
        make(SIZES["smoke"], side)()
        work = make(SIZES[size], side)
        give_back()
        print(peak_of(work))

"""How much memory a piece of work needs on top of its weights: one process per measurement.

python benchmarks/memory.py "VAE decode" ours mid
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch
from cases import CASES, SIZES, Side

MEGABYTE = 1e6


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / MEGABYTE
    raise KeyError(field)


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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}, {side}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    case, side, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with torch.inference_mode():
        print(peak_of(CASES[case](SIZES[size], side)))

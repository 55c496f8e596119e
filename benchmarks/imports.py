"""How long it takes until a program can begin: one fresh process per measurement, in turns."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

PROGRAMS = {
    "`import torch`": "import torch",
    "`import cogvideox`": "import cogvideox",
    "our networks and samplers": "import cogvideox.vae.vae, cogvideox.transformer, cogvideox.diffusion",
    "`from diffusers import CogVideoXPipeline`": "from diffusers import CogVideoXPipeline",
}


def measure(repeats: int) -> dict[str, float]:
    """Median seconds of each program's imports, the start of Python left out."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(repeats):
        for name, program in PROGRAMS.items():
            code = f"from time import perf_counter as now; start = now()\n{program}\nprint(now() - start)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds[name].append(float(done.stdout.strip().splitlines()[-1]))
    return {name: median(values) for name, values in seconds.items()}

"""Training steps of the transformer and of the VAE beside the same steps of diffusers' modules, for a busy machine.

python benchmarks/steps.py --repeats 3

Seconds are those of the process itself, so that neighbours do not count; ours and diffusers' take turns. Memory is the
peak on top of what the models need, one process each.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from cases import CASES, SIZES

import memory

STEPS = ("training step", "VAE training step")


def seconds(work, repeats: int) -> list[float]:
    """Processor seconds of each of ``repeats`` calls."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return found


def main() -> None:
    """Measure both steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", default="step", help="step, mid or smoke")
    parser.add_argument("--no-memory", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[args.size]
    print(
        "| step | ours s | diffusers s | speed | ours MB | diffusers MB | memory |\n|---|---|---|---|---|---|---|"
    )
    for name in STEPS:
        sides = [CASES[name](size, side) for side in ("ours", "diffusers")]
        apart = abs(float(sides[0]() - sides[1]()))
        rounds = [[seconds(side, 1)[0] for side in sides] for _ in range(args.repeats)]
        ours, theirs = (median(column) for column in zip(*rounds, strict=True))
        row = f"| {name} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f}"
        if not args.no_memory:
            need = [memory.measure(name, side, args.size, 1) for side in ("ours", "diffusers")]
            row += f" | {need[0]:.0f} | {need[1]:.0f} | {need[0] / need[1]:.2f}"
        print(f"{row} |  (losses differ by {apart:.0e})", flush=True)


if __name__ == "__main__":
    main()

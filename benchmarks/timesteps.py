"""Explicit uniform sampling beside plain: how much the loss of a batch varies when the weights do not move (Fig. 10d).

python benchmarks/timesteps.py --batches 40 --batch 8     minutes on a CPU

Both ways give the same clips, noise and dropped captions to the shipped model; only the timesteps differ.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from cogvideox.presets import get_preset
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining


@torch.no_grad()
def losses(task: DiffusionTask, batches: int) -> list[float]:
    """The loss of each batch of a run whose weights stay."""
    return [float(task.losses(call)["loss"]) for call in range(batches)]


def main() -> None:
    """Measure both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--clips", type=int, default=64, help="clips of the world to draw from")
    parser.add_argument("--cache", default="runs/latents")
    args = parser.parse_args()
    preset = get_preset("tiny")
    found = {}
    for way in ("plain", "explicit"):
        config = DiffusionTraining(
            transformer=preset.transformer,
            schedule=preset.schedule,
            start="tiny-base",
            vae="tiny",
            text="tiny",
            clips=args.clips,
            batch=args.batch,
            cache=args.cache,
            uniform=way,
        )
        found[way] = losses(DiffusionTask(config, 0), args.batches)
        mean, spread = statistics.fmean(found[way]), statistics.stdev(found[way])
        print(f"{way:9} mean {mean:.4f}  standard deviation {spread:.4f}", flush=True)
    ratio = statistics.variance(found["explicit"]) / statistics.variance(found["plain"])
    print(f"variance of explicit over plain {ratio:.2f}, {args.batches} batches of {args.batch}")


if __name__ == "__main__":
    main()

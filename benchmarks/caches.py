"""What skipping blocks costs in likeness and saves in time, on the shipped model.

python benchmarks/caches.py --prompts 8

Seconds are those of the process itself while it denoises, so that neighbours do not count. PSNR compares with the same
seed where every step is computed.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

import cogvideox
from cogvideox.evaluation.fidelity import psnr_of_clip
from cogvideox.generation import GenerateOptions, Given, Progress, plan_run
from cogvideox.generation.pipeline import run
from cogvideox.world import held_out_prompts

CACHES = ("first-block:0.05", "first-block:0.1", "first-block:0.2", "tea:0.1", "tea:0.2", "tea:0.4")


@dataclass
class Trial:
    """What one cache did to all prompts."""

    skipped: list[int] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)


def denoised(model: cogvideox.CogVideoX, options: GenerateOptions) -> tuple[np.ndarray, int, float]:
    """Frames, skipped steps, and processor seconds between the first step and the decoding."""
    stamps: dict[str, float] = {}

    def stamp(at: Progress) -> None:
        stamps.setdefault(at.stage, time.process_time())

    made = run(model, plan_run(model.spec, options), Given(), stamp)
    return made.video.frames, len(made.record.engine.reused_steps), stamps["decode"] - stamps["denoise"]


def main() -> None:
    """Print one row for each cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=6.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, trials = cogvideox.load("tiny"), {cache: Trial() for cache in CACHES}
    for seed, each in enumerate(held_out_prompts()[: args.prompts]):
        plain = GenerateOptions(prompt=each.prompt, seed=seed, steps=args.steps, guidance=args.guidance)
        truth, _, seconds = denoised(model, plain)
        for cache, trial in trials.items():
            frames, skipped, took = denoised(model, plain.changed(cache=cache))
            trial.skipped.append(skipped)
            trial.psnr.append(psnr_of_clip(frames, truth))
            trial.speed.append(seconds / took)
    print(
        "| cache | steps skipped of "
        + str(args.steps)
        + " | speed | PSNR dB, mean | least |\n|---|---|---|---|---|"
    )
    for cache, trial in trials.items():
        skipped, speed = np.mean(trial.skipped), np.median(trial.speed)
        print(
            f"| `{cache}` | {skipped:.1f} | {speed:.2f} | {np.mean(trial.psnr):.1f} | {min(trial.psnr):.1f} |"
        )


if __name__ == "__main__":
    main()

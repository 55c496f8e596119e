"""Peak memory of long videos in windows, each length in a process of its own.

python benchmarks/long_memory.py --frames 121,241,481

Prints the peak of the process (resident pages of files counted) and what the latents and the frames of each length
take. The shipped model at 256x256 and one step without guidance: what grows with length shows, time does not matter.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

MB = 1e6


def peak_of(frames: int, side: int, window: str) -> float:
    """Peak bytes of a process that makes and writes a video of so many frames."""
    call = [sys.executable, __file__, "--one", str(frames), "--side", str(side), "--window", window]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def make(frames: int, side: int, window: str) -> None:
    """Make one video, write it, and print the peak of this process."""
    import torch

    import cogvideox

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = cogvideox.load("tiny")
    settings = {} if window == "auto" else {"window": int(window)}
    options = dict(frames=frames, height=side, width=side, steps=1, guidance=1.0, seed=0, **settings)
    video = cogvideox.generate(model, "a red circle moves to the right", anyway=True, **options)
    with tempfile.TemporaryDirectory() as folder:
        video.save(Path(folder) / "long.mp4")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    """Print one row for each length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", default="121,241,481")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--window", default="auto")
    parser.add_argument("--one", type=int, default=0)
    args = parser.parse_args()
    if args.one:
        make(args.one, args.side, args.window)
        return
    print("| frames | peak MB | more than the row before | latents MB | frames MB |\n|---|---|---|---|---|")
    before = None
    for frames in map(int, args.frames.split(",")):
        peak = peak_of(frames, args.side, args.window) / MB
        latents = ((frames - 1) // 4 + 1) * 16 * (args.side // 8) ** 2 * 4 / MB
        grown = "" if before is None else f"{peak - before:.0f}"
        print(
            f"| {frames} | {peak:.0f} | {grown} | {latents:.1f} | {frames * args.side**2 * 3 / MB:.0f} |",
            flush=True,
        )
        before = peak


if __name__ == "__main__":
    main()

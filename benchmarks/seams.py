"""Seams of a long video made in windows: flicker and colour jumps at window borders beside those inside windows.

python benchmarks/seams.py --seconds 30 --prompts 4

Flicker is the mean difference of neighbouring frames, a colour jump the distance of their mean colours (both of 255). A
border is a latent frame at which a window begins or has ended; its four frame changes count. The row "native" is the
trained length without windows. "holds": share of clips of the trained length in which the judge of the tiny world sees
the colour and the shape of the prompt; "jumps": share of frame changes over which the thing moves by more than an
eighth of the side.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import cogvideox
from cogvideox.diffusion import Windows
from cogvideox.generation import GenerateOptions, Given, plan_run
from cogvideox.generation.pipeline import run
from cogvideox.video import Video, contact_sheet
from cogvideox.world import held_out_prompts
from cogvideox.world.fact_check import check_facts, read_frames

FAR = 0.125
WAYS = {
    f"{schedule}, overlap {overlap}, {blend}, {noise}": dict(
        window_schedule=schedule, window_overlap=overlap, window_blend=blend, window_noise=noise
    )
    for schedule, overlap, blend, noise in [
        ("static", 8, "pyramid", "shuffled"), ("static", 8, "pyramid", "fresh"), ("uniform", 8, "pyramid", "fresh"),
        ("static", 12, "pyramid", "fresh"), ("uniform", 8, "pyramid", "shuffled"), ("static", 8, "linear", "fresh"),
        ("static", 8, "flat", "fresh"), ("static", 4, "pyramid", "fresh"), ("static", 12, "pyramid", "shuffled"),
        ("uniform", 4, "flat", "shuffled"), ("uniform", 12, "pyramid", "fresh"),
    ]
}  # fmt: skip


@dataclass
class Seams:
    """What the videos of one way showed at borders and inside, change by change."""

    flicker: dict[str, list[float]] = field(default_factory=lambda: {"border": [], "inside": []})
    colour: dict[str, list[float]] = field(default_factory=lambda: {"border": [], "inside": []})
    holds: list[float] = field(default_factory=list)
    jumps: list[float] = field(default_factory=list)

    def add(self, frames: np.ndarray, borders: set[int], facts: Sequence, length: int) -> None:
        """One more video; ``borders`` are its frame changes at borders, by the number of the earlier frame."""
        values = frames.astype(np.float32)
        flicker = np.abs(np.diff(values, axis=0)).mean((1, 2, 3))
        colour = np.linalg.norm(np.diff(values.mean((1, 2)), axis=0), axis=1)
        for number, (change, jump) in enumerate(zip(flicker, colour, strict=True)):
            where = "border" if number in borders else "inside"
            self.flicker[where].append(float(change))
            self.colour[where].append(float(jump))
        for start in range(0, len(frames) - length + 1, length):
            clip = frames[start : start + length]
            self.holds.append(float(all(each.holds for each in check_facts(clip, facts).findings)))
        self.jumps += far_moves(frames)

    def row(self, name: str) -> str:
        """A line of the table."""
        cells = [name]
        for values in (self.flicker, self.colour):
            border, inside = (np.array(values[where] or [np.nan]) for where in ("border", "inside"))
            cells += [f"{border.mean():.2f}", f"{inside.mean():.2f}", f"{border.mean() / inside.mean():.2f}"]
        return "| " + " | ".join([*cells, f"{np.mean(self.holds):.0%}", f"{np.mean(self.jumps):.1%}"]) + " |"


def far_moves(frames: np.ndarray) -> list[float]:
    """For each frame change between frames of one thing: whether it moved far."""
    things = [each[0].centre if len(each) == 1 else None for each in read_frames(frames).things]
    pairs = [(a, b) for a, b in zip(things, things[1:], strict=False) if a is not None and b is not None]
    return [float(np.hypot(a[0] - b[0], a[1] - b[1]) > FAR) for a, b in pairs]


def border_changes(windows: Windows | None, front: int) -> set[int]:
    """The frame changes at which the windows that a latent frame is in are others than those of the one before."""
    if windows is None:
        return set()
    inside = [
        {n for n, window in enumerate(windows.at(0)) if frame in window} for frame in range(windows.frames)
    ]
    latents = [n for n in range(1, windows.frames) if inside[n] != inside[n - 1]]
    return {4 * (n - 1) + i - front for n in latents for i in range(4)}


def main() -> None:
    """Print one row for each way of dividing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--only", default="", help="ways whose name holds this")
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet of each way")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = cogvideox.load("tiny")
    prompts = [each for each in held_out_prompts() if len(each.checks) <= 4][: args.prompts]
    head = "flicker, border | inside | ratio | colour jump, border | inside | ratio | holds | jumps"
    print(f"| windows | {head} |\n|" + "---|" * 9)
    ways = {"native": None, **{name: way for name, way in WAYS.items() if args.only in name}}
    for name, way in ways.items():
        seams, shown = Seams(), []
        for seed, prompt in enumerate(prompts):
            options = GenerateOptions(prompt=prompt.prompt, seed=seed, steps=args.steps)
            options = options if way is None else options.changed(seconds=args.seconds, **way)
            plan = plan_run(model.spec, options)
            frames = run(model, plan, Given()).video.frames
            facts = [check for check in prompt.checks if check.kind in ("colour", "shape")]
            seams.add(frames, border_changes(plan.windows, plan.frames.front), facts, model.spec.frames)
            shown.append(Video(frames[: 16 * 6 : 2], 8.0))
        print(seams.row(name), flush=True)
        if args.sheets:
            args.sheets.mkdir(parents=True, exist_ok=True)
            contact_sheet(shown, [each.prompt for each in prompts], columns=16).save(
                args.sheets / f"{name.replace(', ', '-').replace(' ', '-')}.png"
            )


if __name__ == "__main__":
    main()

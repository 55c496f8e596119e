"""How far the time that is told before the first step is from the time that is measured, on this machine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median

import torch
from cases import REAL, SIZES, Work
from timing import _seconds

from cogvideox.memory import Request
from cogvideox.memory.seconds import efforts, measured
from cogvideox.presets import PRESETS


def request(preset: str, height: int, width: int, layers: int | None = None) -> Request:
    """Nine frames in float32 by a preset's model, whole or with so many layers."""
    spec = PRESETS[preset]
    if layers is not None:
        spec = replace(spec, transformer_settings={**spec.transformer_settings, "num_layers": layers})
    return Request(spec=spec, frames=9, latents=3, height=height, width=width, dtype=torch.float32, steps=1)


def pieces(size: str = "real") -> list[tuple[str, Request, str, Work]]:
    """Name, what is estimated, the stage of it, and the same work as it is really done."""
    sized = SIZES[size]
    pixels = request("2b", sized.height, sized.width)
    pair = (8 * sized.latents[1], 8 * sized.latents[2])

    def work(name: str) -> Work:
        return REAL[name](sized, "ours")

    return [
        ("decode, 2B", pixels, "decode", work("VAE decode")),
        ("a layer of the 2B", request("2b", *pair, layers=1), "denoise", work("layer of the 2B")),
        ("a layer of the 5B", request("5b", *pair, layers=1), "denoise", work("layer of the 5B")),
    ]


def shipped(steps: int = 10) -> tuple[str, Request, None, Work]:
    """A whole video of the shipped model, from the prompt on."""
    import cogvideox

    model = cogvideox.load("tiny", device="cpu")
    asked = request("tiny", 128, 128)
    options = {"steps": steps, "height": 128, "width": 128, "frames": 9, "seed": 1}
    return (
        "a video of the shipped model",
        asked,
        None,
        partial(cogvideox.generate, model, "a red circle", **options),
    )


def row(
    name: str,
    asked: Request,
    stage: str | None,
    work: Work,
    repeats: int,
    steps: int = 1,
    clock: str = "wall",
) -> str:
    """One line of the table: the estimate is made first, as for a user."""
    rates = measured(asked)
    stages = {each: effort.seconds(rates) for each, effort in efforts(asked, steps).items()}
    expected = sum(stages.values()) if stage is None else stages[stage]
    work()
    took = median(_seconds(work, clock) for _ in range(repeats))
    return f"| {name} | {expected:.3f} | {took:.3f} | **{took / expected:.2f}** |"


def measure(repeats: int, clock: str = "wall", size: str = "real") -> list[str]:
    """The rows, printed as they come."""
    rows = [row(*shipped(), repeats=repeats, steps=10, clock=clock)]
    print(rows[-1], flush=True)
    with torch.inference_mode():
        for piece in pieces(size):
            rows.append(row(*piece, repeats=repeats, clock=clock))
            print(rows[-1], flush=True)
    return rows

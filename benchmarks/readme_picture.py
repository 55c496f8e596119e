"""The moving picture of the README: eight videos of the shipped model, prompt n with seed n, none chosen by hand.

    python benchmarks/readme_picture.py                    docs/images/videos.webp, with the model's own settings
    python benchmarks/readme_picture.py --model FOLDER --out picture.webp

Prints the judge's verdict on each. A minute on two cores.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import cogvideox
from cogvideox.video import Video
from cogvideox.world import check_facts, read_caption

PROMPTS = (
    "a red circle moves to the right",
    "a blue square grows",
    "a yellow triangle rotates in place",
    "a green circle turns into a triangle",
    "three orange crosses next to each other",
    "a purple ring moves up slowly",
    "the camera pans left over a cyan cross",
    "a red square above a yellow ring",
)
"""One of each story of the tiny world, two of those that move."""
SIDE, MARGIN, TEXT, COLUMNS = 128, 6, 34, 4
HOLD = 6  # times as long as the others: the last frame, before it begins again


def sheet(videos: Sequence[Video], prompts: Sequence[str], number: int) -> Image.Image:
    """Frame ``number`` of every video, with its prompt below."""
    rows = -(-len(videos) // COLUMNS)
    size = COLUMNS * (SIDE + MARGIN) + MARGIN, rows * (SIDE + MARGIN + TEXT) + MARGIN
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    for place, (video, prompt) in enumerate(zip(videos, prompts, strict=True)):
        left = MARGIN + place % COLUMNS * (SIDE + MARGIN)
        top = MARGIN + place // COLUMNS * (SIDE + MARGIN + TEXT)
        frame = Image.fromarray(np.asarray(video.frames[number]))
        picture.paste(frame.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
        draw.multiline_text((left, top + SIDE + 2), textwrap.fill(prompt, 22), fill="#333333", font=font)
    return picture


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs/images/videos.webp"
    )
    chosen = parser.parse_args()
    model = cogvideox.load(chosen.model)
    videos = [cogvideox.generate(model, prompt, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    for prompt, video in zip(PROMPTS, videos, strict=True):
        asked = read_caption(prompt)
        held = check_facts(np.asarray(video.frames), asked).all_hold if asked else None
        print(f"{'right' if held else 'not told' if held is None else 'wrong':9}{prompt}")
    frames = [sheet(videos, PROMPTS, number) for number in range(len(videos[0]))]
    beat = round(1000 / videos[0].fps)
    frames[0].save(
        chosen.out, save_all=True, append_images=frames[1:], loop=0, quality=82, method=6,
        duration=[beat] * (len(frames) - 1) + [HOLD * beat],
    )  # fmt: skip
    print(f"{chosen.out}: {chosen.out.stat().st_size >> 10} kB")


if __name__ == "__main__":
    main()

"""What is made of a video: thumbnail and sprite sheet beside it; an animation or its frames when asked for."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cogvideox.video import DecodeLimits, Video
from cogvideox.video.reading import OpenVideo
from cogvideox.video.saving import LABEL, label, write_gif, write_png

THUMBNAIL = 320  # pixels of its longer side at most
SPRITES = 24  # frames of a sprite sheet at most
SPRITE_WIDTH = 160
ANIMATION_SIDE = 480  # pixels of the longer side of a GIF at most
ANIMATION_FRAMES = 400  # of a GIF at most; a longer video leaves some out
EXPORT_FRAMES = 4096
MADE_LATER = ("gif", "frames")
"""Variants that are made when somebody asks for them."""


def write_variants(video: Video, folder: Path) -> None:
    """Write ``thumbnail.webp`` (the middle frame) and ``spritesheet.jpg`` (frames in rows of 6) into a folder."""
    middle = Image.fromarray(video.frames[len(video) // 2])
    middle.thumbnail((THUMBNAIL, THUMBNAIL))
    middle.save(folder / "thumbnail.webp", format="WEBP", quality=85, xmp=_xmp())
    sprite_sheet(video).save(folder / "spritesheet.jpg", format="JPEG", quality=85, comment=label().encode())


def sprite_sheet(video: Video) -> Image.Image:
    """Evenly spaced frames, first and last included, in rows of 6 from left to right."""
    count = min(SPRITES, len(video))
    picks = np.linspace(0, len(video) - 1, count).round().astype(int)
    width = min(SPRITE_WIDTH, video.width)
    height = max(1, round(video.height * width / video.width))
    columns = min(6, count)
    sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
    for number, pick in enumerate(picks):
        frame = Image.fromarray(video.frames[pick]).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(frame, (number % columns * width, number // columns * height))
    return sheet


def export(source: Path, target: Path, variant: str, seconds: float) -> None:
    """Write a GIF (``gif``), a ZIP of PNG files (``frames``) or the first frame as PNG (``frame``) of a video.

    ``seconds``: how long it may take.

    Raises MediaError for a file that cannot be read, OutputError for one that cannot be written.
    """
    limits = DecodeLimits(file_bytes=1 << 31, frames=EXPORT_FRAMES, seconds=1e6, wall_seconds=seconds)
    with OpenVideo(source, limits) as opened:
        frames = (opened.pixels(frame) for _, frame in opened.frames())
        if variant == "gif":
            _write_animation(target, frames, opened.timing.fps)
        elif variant == "frame":
            Image.fromarray(next(frames)).save(target, format="PNG")
        else:
            _write_frames(target, frames)


def _write_animation(target: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """A GIF that plays as long as the video; every so many frames where there are more than it may have."""
    small: list[np.ndarray] = []
    every = 1
    for number, frame in enumerate(frames):
        if number % every:
            continue
        image = Image.fromarray(frame)
        image.thumbnail((ANIMATION_SIDE, ANIMATION_SIDE), Image.Resampling.LANCZOS)
        small.append(np.asarray(image))
        if len(small) > ANIMATION_FRAMES:
            small, every = small[::2], 2 * every
    write_gif(target, np.stack(small), fps / every, label(), 96)


def _write_frames(target: Path, frames: Iterator[np.ndarray]) -> None:
    """``frame_0001.png`` and so on, stored; one frame is in memory at a time."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(frames, 1):
            picture = io.BytesIO()
            write_png(picture, Image.fromarray(frame), {LABEL: label()})
            archive.writestr(f"frame_{number:04d}.png", picture.getvalue())


def _xmp() -> bytes:
    """The mark that a model made it, as XMP."""
    from cogvideox.video.saving import AI_MADE

    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{AI_MADE}"/></rdf:RDF></x:xmpmeta>'
    ).encode()

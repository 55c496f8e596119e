"""Small pictures of a video beside it: a thumbnail and a sprite sheet."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from cogvideox.video import Video
from cogvideox.video.saving import label

THUMBNAIL = 320  # pixels of its longer side at most
SPRITES = 24  # frames of a sprite sheet at most
SPRITE_WIDTH = 160


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


def _xmp() -> bytes:
    """The mark that a model made it, as XMP."""
    from cogvideox.video.saving import AI_MADE

    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{AI_MADE}"/></rdf:RDF></x:xmpmeta>'
    ).encode()

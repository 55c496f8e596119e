"""A contact sheet: one row of frames per video, its caption under it. A quick honest look at many videos."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cogvideox.errors import MediaError

GAP = 4
FONT_SIZE = 14
INK, PAPER = (20, 20, 20), (255, 255, 255)


class HasFrames(Protocol):
    """Anything with frames ``uint8 [t, h, w, 3]``: a Video, or a plain record of a test."""

    @property
    def frames(self) -> np.ndarray:
        """The pictures, in order."""


def contact_sheet(
    videos: Sequence[HasFrames], captions: Sequence[str] = (), columns: int = 8, cell_height: int = 128
) -> Image.Image:
    """Rows of ``columns`` evenly spaced frames, first and last included, each row with its caption beneath.

    Frames lower than ``cell_height`` are enlarged by a whole number without blur, higher ones reduced.
    """
    if not videos:
        raise MediaError("contact sheet: no videos; give at least one")
    if captions and len(captions) != len(videos):
        raise MediaError(
            f"contact sheet: {len(captions)} captions for {len(videos)} videos; give one each or none"
        )
    rows = [_frame_row(video, columns, cell_height) for video in videos]
    width = max(row.width for row in rows)
    texts = [_caption(text, width) for text in (captions or [""] * len(videos))]
    height = sum(row.height + text.height + GAP for row, text in zip(rows, texts, strict=True))
    sheet = Image.new("RGB", (width, height), PAPER)
    top = 0
    for row, text in zip(rows, texts, strict=True):
        sheet.paste(row, (0, top))
        sheet.paste(text, (0, top + row.height))
        top += row.height + text.height + GAP
    return sheet


def _frame_row(video: HasFrames, columns: int, cell_height: int) -> Image.Image:
    count = min(columns, len(video.frames))
    picks = np.linspace(0, len(video.frames) - 1, count).round().astype(int)
    cells = [_cell(Image.fromarray(video.frames[pick]), cell_height) for pick in picks]
    row = Image.new("RGB", (sum(c.width + GAP for c in cells) - GAP, cells[0].height), PAPER)
    left = 0
    for cell in cells:
        row.paste(cell, (left, 0))
        left += cell.width + GAP
    return row


def _cell(image: Image.Image, height: int) -> Image.Image:
    if image.height >= height:
        size = (max(1, round(image.width * height / image.height)), height)
        return image.resize(size, Image.Resampling.LANCZOS)
    grow = math.ceil(height / image.height)
    return image.resize((image.width * grow, image.height * grow), Image.Resampling.NEAREST)


def _caption(text: str, width: int) -> Image.Image:
    text = " ".join(str(text).split())
    if not text:
        return Image.new("RGB", (width, 0), PAPER)
    font = ImageFont.load_default(size=FONT_SIZE)
    per_line = max(8, int(width / font.getlength("n")))
    lines = textwrap.wrap(text[:2000], per_line) or [""]
    image = Image.new("RGB", (width, len(lines) * (FONT_SIZE + 4) + 4), PAPER)
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        draw.text((2, 2 + index * (FONT_SIZE + 4)), line, fill=INK, font=font)
    return image

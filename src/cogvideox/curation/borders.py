"""Borders: black bars and plain frames around the picture are found and cut away.

A bar is an edge strip in which every row (or column) has one colour that never changes, with a step in brightness where
the picture begins. Dark scenes have dark rows too: the step, and the same width on both sides, tell them apart
(a letterbox is symmetric; a dark sky is not).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cogvideox.clip import Box, Clip
from cogvideox.curation.step import CurationStep, View

PLAIN = 6.0  # grey levels: how far a bar differs from one colour, in space and time
STEP = 6.0  # grey levels between a bar and the picture beside it
SAME = 0.15  # the two bars of a pair differ by at most this share of the wider
SHARE = 0.9  # of frames in which the step must be seen


class Borders(CurationStep):
    """Find bars, and crop to what is inside them. Score ``border``: share of the picture that is bars."""

    kind: Literal["borders"] = "borders"
    gives = ("border",)
    least_area: float = Field(0.5, gt=0, le=1, description="a smaller share of the picture left: dropped")
    ignore: float = Field(0.004, ge=0, lt=0.2, description="bars narrower than this share of a side stay")

    def look(self, clip: Clip, view: View) -> tuple[Clip, View]:
        """Scores ``border`` (share of the picture that is bars); crops both."""
        top, bottom = bars(view.grey)
        left, right = bars(view.grey.transpose(0, 2, 1))
        height, width = view.grey.shape[1:]
        rows = _pixels(top, bottom, height, view.height, self.ignore)
        columns = _pixels(left, right, width, view.width, self.ignore)
        kept = (rows[1] - rows[0]) * (columns[1] - columns[0]) / (view.height * view.width)
        clip = clip.with_scores(border=1 - kept)
        if kept == 1:
            return clip, view
        if kept < self.least_area:
            detail = f"{kept:.0%} of the picture left, the least is {self.least_area:.0%}"
            return clip.drop(self.kind, "bars", detail), view
        box = Box(left=columns[0], top=rows[0], width=columns[1] - columns[0], height=rows[1] - rows[0])
        return clip.model_copy(update={"crop": box}), view.cropped(box)


def bars(grey: np.ndarray) -> tuple[int, int]:
    """Rows of bar at the top and at the bottom of ``uint8 [t, h, w]``; (0, 0) when there is no pair of bars."""
    height = grey.shape[1]
    frames = grey[np.linspace(0, len(grey) - 1, min(24, len(grey))).astype(int)].astype(np.float32)
    inner = frames[:, :, grey.shape[2] // 10 : max(1, grey.shape[2] - grey.shape[2] // 10)]
    top = _bar(inner)
    bottom = _bar(inner[:, ::-1])
    if min(top, bottom) < 1 or abs(top - bottom) > max(1.0, SAME * max(top, bottom)):
        return 0, 0
    return (top, bottom) if top + bottom < 0.9 * height else (0, 0)


def _bar(frames: np.ndarray) -> int:
    """Rows of bar at the top of ``float32 [t, h, w]``."""
    # A bar has the colour of the outermost row, everywhere and always; encoders blur the last line of it.
    colour = float(np.median(frames[:, 0]))
    plain = np.abs(frames - colour).max(axis=(0, 2)) <= PLAIN + 6 if frames.shape[1] else np.zeros(0, bool)
    spread = np.abs(frames - colour).mean(axis=(0, 2)) <= PLAIN
    rows = plain & spread
    count = int(np.argmin(rows)) if not rows.all() else len(rows)
    if count == 0 or count >= frames.shape[1] // 2:
        return 0
    inside = frames[:, count : count + max(2, count // 4) + 1]
    step = np.abs(inside - colour).mean(axis=(1, 2))  # of each frame
    return count if (step >= STEP).mean() >= SHARE else 0


def _pixels(low: int, high: int, seen: int, real: int, ignore: float) -> tuple[int, int]:
    """First and stop of what is kept, in pixels of the file: bars are rounded up, so that none of them stays."""
    scale = real / seen
    first = int(np.ceil(low * scale)) if low / seen > ignore else 0
    last = int(np.ceil(high * scale)) if high / seen > ignore else 0
    first, stop = first + first % 2, real - last - last % 2  # video codecs like even sides
    return (first, stop) if stop - first >= 2 else (0, real)

"""Pictures that were drawn, not filmed: test bars and title cards, by how much of them is exactly plain.

A drawn area has one value in all of its pixels; a filmed one has noise, texture or a gradient. Colour bars show the six
pure colours side by side in plain areas, title cards one or two plain colours and a little writing.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np

from cogvideox.clip import Clip
from cogvideox.curation.step import CurationStep, View
from cogvideox.perception.flow import opencv

PLAIN = 4  # grey levels by which a pixel's neighbours may differ, in every channel
HUE = 14.0  # degrees that a colour may differ from one of the six pure hues (red, yellow, green, cyan, blue, magenta)
PURE = 0.25  # a pure colour's darkest channel / its brightest, at most
BRIGHT = 96  # a pure colour's brightest channel, at least
HUES = 4  # bars: at least 4 of the 6 pure hues on over 1 % of the picture each, or 3 on over 5 %


class Patterns(CurationStep):
    """Step ``patterns``: how much of the picture is test bars (``bars``) or a plain title card (``plain``)."""

    kind: Literal["patterns"] = "patterns"
    gives = ("bars", "plain")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``bars``: share of the picture in plain areas of pure colour, 0 unless there are several colours.

        ``plain``: share of the picture in its two commonest plain colours. Both are medians of 5 pictures.
        """
        found = [(bars_of(picture), plain_of(picture)) for picture in view.pictures[view.spread(5)]]
        bars, plain = np.median(np.array(found), axis=0)
        return clip.with_scores(bars=float(bars), plain=float(plain))


def bars_of(picture: np.ndarray) -> float:
    """Share of a picture ``uint8 [h, w, 3]`` in plain areas of pure colour; 0 if they show too few of the 6 hues."""
    cv2 = opencv()
    most, least = picture.max(axis=-1), picture.min(axis=-1)
    hue = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)[..., 0].astype(np.float32) * (360 / 256)
    nearest = np.round(hue / 60)
    pure = _flat(picture) & (most >= BRIGHT) & (least <= PURE * most) & (np.abs(hue - 60 * nearest) <= HUE)
    shares = np.bincount(nearest[pure].astype(int) % 6, minlength=6) / pure.size
    several = (shares > 0.01).sum() >= HUES or (shares > 0.05).sum() >= HUES - 1
    return float(shares.sum()) if several else 0.0


def plain_of(picture: np.ndarray) -> float:
    """Share of a picture ``uint8 [h, w, 3]`` in its two commonest plain colours, each a box of 16 grey levels."""
    flat = _flat(picture)
    cells = picture[flat] >> 3
    counts = np.zeros(
        (34, 34, 34)
    )  # an empty cell around, so that boxes of two cells can be summed by shifts
    np.add.at(counts, tuple(1 + cells.T.astype(int)), 1)
    total = 0.0
    for _ in range(2):
        boxes = np.zeros((33, 33, 33))
        for x, y, z in product((0, 1), repeat=3):
            boxes += counts[x : 33 + x, y : 33 + y, z : 33 + z]
        i, j, k = np.unravel_index(int(boxes.argmax()), boxes.shape)
        total += float(boxes[i, j, k])
        counts[i : i + 2, j : j + 2, k : k + 2] = 0
    return total / flat.size


def _flat(picture: np.ndarray) -> np.ndarray:
    """``bool [h, w]``: pixels whose neighbours have nearly the same value."""
    cv2 = opencv()
    around = np.ones((3, 3), np.uint8)
    spread = cv2.dilate(picture, around).astype(np.int16) - cv2.erode(picture, around)
    return spread.max(axis=-1) <= PLAIN

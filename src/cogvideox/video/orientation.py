"""How a stored picture is turned and mirrored to be shown: the display matrix of a file, all eight of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import av


@dataclass(frozen=True)
class Orientation:
    """Mirrored left to right first, where it is; then ``turns`` quarter turns to the left."""

    turns: int = 0
    mirrored: bool = False

    @property
    def on_its_side(self) -> bool:
        """Whether width and height change places."""
        return self.turns % 2 == 1

    @property
    def plain(self) -> bool:
        """Whether nothing has to be done."""
        return not self.turns and not self.mirrored

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """``[h, w, c]`` as it is to be shown."""
        if self.plain:
            return pixels
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns))

    def __str__(self) -> str:
        """For people: 'mirrored, then turned 90 degrees to the left'."""
        turn = ("", "90 degrees to the left", "180 degrees", "90 degrees to the right")[self.turns]
        steps = ["mirrored left to right"] * self.mirrored + [f"turned {turn}"] * bool(self.turns)
        return ", then ".join(steps) or "as stored"


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Of a frame's display matrix; a slanted one counts as the nearest of the eight, a meaningless one as none."""
    from av.sidedata.sidedata import Type

    try:
        raw = bytes(cast(Any, frame.side_data)[Type.DISPLAYMATRIX])
    except KeyError:
        return Orientation()
    if len(raw) < 36:
        return Orientation()
    a, b, _, c, d, _, _, _, _ = struct.unpack("=9i", raw[:36])
    return from_matrix(a, b, c, d)


def from_matrix(a: float, b: float, c: float, d: float) -> Orientation:
    """From x' = a x + c y, y' = b x + d y, where y grows downwards (ISO 14496-12, track header)."""
    mirrored = a * d - b * c < 0
    if mirrored:  # what is left when the picture has been mirrored is a rotation
        a, b = -a, -b
    if abs(a + d) >= abs(b - c):
        return Orientation(0 if a + d >= 0 else 2, mirrored)
    return Orientation(1 if c > b else 3, mirrored)

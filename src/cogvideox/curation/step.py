"""CurationStep: one idea about one clip, which it sees as a View. A recipe is a list of steps, each of them pure.

All frames of a clip are kept tiny (for cuts, flicker and copies), and a few a second at a size where motion, text and
sharpness can be seen. What several steps need (grey pictures) is computed when first asked for and shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from cogvideox.clip import Box, Clip
from cogvideox.config import Config
from cogvideox.perception.flow import opencv


class Look(Config):
    """How closely clips are looked at."""

    tiny_side: int = Field(72, ge=16, le=256, description="shorter side of the tiny frames, pixels")
    side: int = Field(256, ge=64, le=1024, description="shorter side of the pictures, pixels")
    fps: float = Field(8.0, gt=0, le=60, description="pictures per second")


@dataclass(eq=False)
class View:
    """Frames of one clip: all of them ``tiny`` uint8 [n, h, w, 3], and ``pictures`` uint8 [m, H, W, 3] at ``moments``
    [m] seconds. ``height`` and ``width``: of the upright picture in the file."""

    tiny: np.ndarray
    pictures: np.ndarray
    moments: np.ndarray
    height: int
    width: int

    def cropped(self, box: Box) -> View:
        """The same frames inside ``box``, which is given in pixels of the file."""
        tiny, pictures = (_inside(each, box, self.height, self.width) for each in (self.tiny, self.pictures))
        return View(tiny, pictures, self.moments, box.height, box.width)

    @cached_property
    def tiny_grey(self) -> np.ndarray:
        """``uint8 [n, h, w]``."""
        return to_grey(self.tiny)

    @cached_property
    def grey(self) -> np.ndarray:
        """``uint8 [m, H, W]``."""
        return to_grey(self.pictures)

    def spread(self, count: int) -> np.ndarray:
        """Places of at most ``count`` pictures, evenly inside the clip: 5 of them at 10, 30, 50, 70, 90 %."""
        places = (np.arange(count) + 0.5) / count * len(self.pictures)
        return np.unique(places.astype(int))


def to_grey(frames: np.ndarray) -> np.ndarray:
    """``uint8 [n, h, w, 3]`` -> ``uint8 [n, h, w]``, Rec. 601 luma."""
    cv2 = opencv()
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def _inside(frames: np.ndarray, box: Box, height: int, width: int) -> np.ndarray:
    down, across = frames.shape[1] / height, frames.shape[2] / width
    top, left = int(np.ceil(box.top * down)), int(np.ceil(box.left * across))
    bottom = max(top + 1, int((box.top + box.height) * down))
    right = max(left + 1, int((box.left + box.width) * across))
    return np.ascontiguousarray(frames[:, top:bottom, left:right])


class CurationStep(Config):
    """The base of steps. Settings are fields; ``version`` changes when the same settings give other numbers."""

    kind: str
    version: ClassVar[int] = 1
    gives: ClassVar[tuple[str, ...]] = ()
    """Names of the scores it may give, for rules."""

    def check(self) -> None:
        """Asked before anything else, where the run is started. Raises what is wrong with files that settings name."""

    def ready(self) -> None:
        """Asked in each worker before its first video: load what is large. Raises what is missing there."""

    def digests(self) -> tuple[str, ...]:
        """Of files that settings name and whose change changes what is measured."""
        return ()

    def on_gpu(self) -> bool:
        """Whether it needs one."""
        return False

    def key_variables(self) -> frozenset[str]:
        """Environment variables that may hold the keys of servers it asks; none when its settings name no address."""
        return frozenset(_keys(self.model_dump(mode="json")))

    def look(self, clip: Clip, view: View) -> tuple[Clip, View]:
        """The clip with what was found, dropped or not, and the view that later steps see (cropped, or the same)."""
        return self.measure(clip, view), view

    def measure(self, clip: Clip, view: View) -> Clip:
        """The clip with what was found. Steps that only measure implement this one."""
        raise TypeError(f"{type(self).__name__} has neither look nor measure")


def _keys(value: Any) -> Iterator[str]:
    """Of settings that hold an address: the variables they name, and the one that is usual."""
    if isinstance(value, str) and value.lower().startswith(("http://", "https://")):
        yield "OPENAI_API_KEY"
    elif isinstance(value, dict):
        below = [name for part in value.values() for name in _keys(part)]
        yield from below
        if below and isinstance(value.get("key_variable"), str):
            yield value["key_variable"]
    elif isinstance(value, list | tuple):
        yield from (name for part in value for name in _keys(part))

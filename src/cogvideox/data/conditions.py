"""Condition videos made from clips: with a hole in them, or reduced to edges and paths; they are clips themselves.

They are made by number like clips, so that they are encoded once and kept, by several workers too. A clip may have
several masks (variants); which one a sample of a run gets is drawn from its number.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from cogvideox.config import Config
from cogvideox.data.clips import ClipDataset
from cogvideox.data.masks import Mask, draw_mask
from cogvideox.errors import ConfigError
from cogvideox.perception.canny import canny
from cogvideox.world import GUIDES, guide_video, silhouettes

RULE = 1
"""Raised when masks or control videos are made another way, so that older ones are not taken from a cache."""


class ConditionMaker(Protocol):
    """Makes the condition video of a clip from the clip."""

    def pixels(self, source: ClipDataset, clip: int, variant: int) -> np.ndarray:
        """uint8 [t, h, w, 3], as large as the clip. Raises MediaError for one that cannot be read."""

    def model_dump(self) -> dict[str, Any]:
        """What decides it, as plain values."""


class MaskedVideos(Config):
    """Clips with a hole, black inside: what a model that inpaints reads."""

    kind: Literal["masked"] = "masked"
    masks: dict[Mask, float] = Field(description="share of each way to draw a mask")
    seed: int = Field(description="decides the masks")

    def mask(self, source: ClipDataset, clip: int, variant: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Where a clip of ``shape`` (frames, height, width) is hidden, bool of that shape."""
        scene = source.scene(clip)
        things = None if scene is None else silhouettes(scene, shape[1], shape[0])
        draw = random.Random(f"{self.seed}/mask/{source.name(clip)}/{variant}")
        return draw_mask(self.masks, shape, draw, things)

    def pixels(self, source: ClipDataset, clip: int, variant: int) -> np.ndarray:
        """The clip, black where it is hidden."""
        pixels = source.pixels(clip)
        frames, height, width, _ = pixels.shape
        hidden = self.mask(source, clip, variant, (frames, height, width))
        return np.where(hidden[..., None], np.uint8(0), pixels)


class ControlVideos(Config):
    """What a clip shows reduced to white marks on black: Canny's edges, or of the tiny world silhouettes or paths."""

    kind: Literal["control"] = "control"
    guide: Literal["canny", "path", "silhouette"] = Field(description="what the control video shows")

    def pixels(self, source: ClipDataset, clip: int, variant: int = 0) -> np.ndarray:
        """The control video of a clip. Raises ConfigError for a guide that this clip does not tell."""
        if self.guide == "canny":
            return canny(source.pixels(clip))
        scene = source.scene(clip)
        if scene is None:
            raise ConfigError(
                f"control {self.guide}: only the tiny world tells it; take canny, or a folder of control videos"
            )
        frames, height = source.pixels(clip).shape[:2]
        return guide_video(scene, self.guide, height, frames)


class ConditionClips(ClipDataset):
    """The condition videos of some clips of ``source``, under numbers from 0.

    ``picks``: number of the clip and of its variant, for each condition video.
    """

    def __init__(self, source: ClipDataset, maker: ConditionMaker, picks: Sequence[tuple[int, int]]) -> None:
        self.source, self.maker, self.picks = source, maker, picks

    @classmethod
    def variants_of(cls, source: ClipDataset, maker: ConditionMaker, variants: int) -> ConditionClips:
        """So many of every clip: variant v of clip c is number c * variants + v."""
        numbers = range(len(source) * variants)
        return cls(source, maker, [divmod(number, variants) for number in numbers])

    def __len__(self) -> int:
        return len(self.picks)

    def name(self, index: int) -> str:
        clip, variant = self.picks[index]
        return f"{self.source.name(clip)}, condition {variant}"

    def content(self, index: int) -> str:
        clip, variant = self.picks[index]
        how = json.dumps(self.maker.model_dump(), sort_keys=True)
        name = f"{self.source.content(clip)}/{self.source.name(clip)}"
        return hashlib.sha256(f"condition/{RULE}/{name}/{how}/{variant}".encode()).hexdigest()

    def pixels(self, index: int) -> np.ndarray:
        return self.maker.pixels(self.source, *self.picks[index])

    def caption(self, index: int, variant: int) -> str:
        return self.source.caption(self.picks[index][0], variant)

    def save_digests(self) -> None:
        self.source.save_digests()

    def to_plain(self) -> dict[str, Any]:
        return {"kind": "condition", "source": self.source.to_plain(), "maker": self.maker.model_dump()}

    def clip_to_plain(self, index: int) -> dict[str, Any]:
        clip, variant = self.picks[index]
        return {"clip": self.source.clip_to_plain(clip), "variant": variant}

    def cost(self, index: int) -> float:
        return self.source.cost(self.picks[index][0])


def maker_from_plain(values: Mapping[str, Any]) -> MaskedVideos | ControlVideos:
    """The maker whose ``model_dump`` these values are."""
    kind = MaskedVideos if values["kind"] == "masked" else ControlVideos
    return kind.parse(dict(values))


def control_maker(name: str) -> ControlVideos | None:
    """The maker of a guide by its name; None for a name that is a folder of control videos."""
    return ControlVideos(guide=name) if name in ("canny", *GUIDES) else None  # type: ignore[arg-type]

"""How files become clips where a setting may be left to the model: its own frame rate, length and size."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.data.clips import ClipSize
from cogvideox.spec import ModelSpec

MIN_BUDGET = 2_000
"""Default token budget of a micro-step where one clip is shorter: short clips are packed together up to this."""


class SizeSetting(Config):
    """As ``ClipSize``; what is null is that of the model the run starts from (CogVideoX 1.0: 49 frames at 8 per second
    of 480x720; 1.5: 81 at 16 of 768x1360), or without a model the default of ``ClipSize``."""

    fps: float | None = Field(None, gt=0, le=240, description="frames a second; null: the model's (8 or 16)")
    frames: int | None = Field(None, gt=0, description="at most so many frames, 8n + 1; null: the model's")
    least_frames: int | None = Field(None, gt=0, description="shorter videos are dropped; null: 9, or frames")
    short_side: int | None = Field(None, gt=0, description="pixels of the short side; null: the model's size")
    longest: float | None = Field(None, ge=1, description="with short_side: largest aspect kept; null: 2")
    height: int | None = Field(None, gt=0, description="with width: one size for all; null: the model's")
    width: int | None = Field(None, gt=0, description="with height: one size for all; null: the model's")
    multiple: int | None = Field(None, gt=0, description="sides are multiples of it; null: 8 times the patch")

    @model_validator(mode="before")
    @classmethod
    def _from_clip_size(cls, value: Any) -> Any:
        """A whole ``ClipSize`` says everything."""
        return value.model_dump() if isinstance(value, ClipSize) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._filled({"multiple": 8})  # every model takes that; a model may ask for more when it is known
        return self

    @classmethod
    def of(cls, size: ClipSize) -> Self:
        """The setting that leaves nothing open."""
        return cls(**size.model_dump())

    def resolved(self, model: ModelSpec | None) -> ClipSize:
        """With what is null filled in from ``model``. Raises ConfigError for sizes that cannot be."""
        if model is None:
            return self._filled({})
        step = model.vae.spatial_compression_ratio * model.transformer.patch_size
        defaults: dict[str, Any] = {"fps": model.fps, "multiple": step, "frames": whole_latents(model.frames)}
        if self.height is None and self.width is None and self.short_side is None:
            defaults |= {"height": model.height, "width": model.width}
        return self._filled(defaults)

    def _filled(self, defaults: dict[str, Any]) -> ClipSize:
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        values = defaults | given
        values.setdefault("least_frames", min(9, values.get("frames", 9)))
        return ClipSize(**values)


def clip_size(size: SizeSetting | ClipSize) -> ClipSize:
    """A size setting without a model to ask; settings that were changed in Python may hold a ``ClipSize`` already."""
    return size if isinstance(size, ClipSize) else size.resolved(None)


def whole_latents(frames: int) -> int:
    """The largest 8n + 1 within a number of frames."""
    return max(1, (frames - 1) // 8 * 8 + 1)


def tokens_of(shape: tuple[int, ...], text_len: int, patch: tuple[int, int, int]) -> int:
    """Tokens of a clip with latents ``shape`` (c, t, h, w): its patches and its text."""
    _, t, h, w = shape
    return text_len + -(-t // patch[0]) * (h // patch[1]) * (w // patch[2])


def latent_shape(size: ClipSize, model: ModelSpec) -> tuple[int, int, int, int]:
    """(c, t, h, w) of the latents of the largest clip that ``size`` makes."""
    ratio = model.vae.spatial_compression_ratio
    high, wide = size.fit(1000, round(1000 * size.longest))
    frames = (size.frames - 1) // model.vae.temporal_compression_ratio + 1
    return model.vae.latent_channels, frames, high // ratio, wide // ratio


def default_budget(size: ClipSize, model: ModelSpec) -> int:
    """Tokens of a micro-step: one clip of the largest size, or as many as ``MIN_BUDGET`` holds."""
    one = tokens_of(latent_shape(size, model), model.text_tokens, model.transformer.patch)
    return one * max(1, MIN_BUDGET // one)

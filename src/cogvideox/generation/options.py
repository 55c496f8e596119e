"""What can be asked of one video. Loads no torch: the command line reads its help from here."""

from __future__ import annotations

import secrets
import warnings
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cogvideox.config import Config

LIMITS: dict[str, tuple[float, float]] = {
    "frames": (1, 4096),
    "seconds": (0.001, 4096 / 0.01),
    "height": (1, 8192),
    "width": (1, 8192),
    "fps": (0.01, 240),
    "steps": (1, 1000),
}
"""What no model can make is refused when it is asked for, not when the work is done."""

SAMPLER_NAMES = {"ddim": "ddim", "dpm": "dpmpp_sde", "dpm-ode": "dpmpp_2m"}
SAMPLER_NAMES |= {"dpmpp_sde": "dpmpp_sde", "dpmpp_2m": "dpmpp_2m"}
"""What samplers may be called; dpm is the public pipelines' scheduler for the 5B models."""


OUTSIDE = "outside"
"""The mask of all that the given video does not fill."""

OPTION_GROUPS = {
    "Prompt and inputs": "prompt image last_image keyframe video video_use strength mask remove control context_frames "
    "join fit sample_image image_scale",
    "Size and length": "frames seconds height width fps",
    "Sampling": "steps sampler previous seed latents",
    "Guidance": "guidance guidance_schedule negative_prompt zero_negative guidance_pair",
    "Speed and memory": "attention modulation compile reuse reuse_table vae_coding tile_height tile_width",
    "Checks": "anyway check_numerics",
}
"""Where a person looks for an option: the headings of ``cogvideox generate --help``."""


class GenerateOptions(Config):
    """Everything that decides one video, besides the model. What is None is the model's own default."""

    numbers_as_text = True  # lines of a batch often hold numbers in quotes

    prompt: str = Field("", description="what the video shows, in English; long and concrete works best")
    negative_prompt: str = Field("", description="what guidance leads away from")
    zero_negative: bool = Field(
        False, description="zeros instead of an encoded negative prompt, as in the original training code"
    )
    image: str | None = Field(None, description="path of the image to start from")
    last_image: str | None = Field(None, description="path of the image to end with")
    keyframe: tuple[str, ...] = Field(
        (), description="the number of a frame and its image, such as 24=mid.png; repeatable"
    )
    video: str | None = Field(
        None, description="path of a video to change, to carry on from (see video-use), or to fill (see mask)"
    )
    video_use: Literal["change", "continue"] = Field(
        "change", description="whether the video is changed, or followed by what comes after it"
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="how much of the given video is remade, above 0 (nothing) to 1 (all of it); default: 0.8, with a "
        "mask 1",
    )
    mask: str | None = Field(
        None,
        description="where the given video is made anew: a video or image, white there, a box x,y,width,height, or "
        "outside (what fit contain leaves black)",
    )
    remove: str | None = Field(
        None, description="what is removed from the given video: a video or image, white there, or a box"
    )
    control: str | None = Field(
        None, description="path of a control video (poses, edges, depth), for a control model"
    )
    context_frames: int = Field(
        9, ge=1, description="frames of the given video that a continuation sees (image-to-video models: 1)"
    )
    join: bool = Field(False, description="put the given video before its continuation (video-use continue)")
    fit: Literal["cover", "contain", "stretch"] = Field(
        "cover",
        description="make the image or video fit by cropping (cover), with black bars (contain), or by stretching "
        "as the released code does",
    )

    frames: int | None = Field(None, description="number of frames, any number; default: the model's own")
    seconds: float | None = Field(None, description="length in seconds, instead of frames")
    height: int | None = Field(
        None, description="height in pixels, a multiple of 16; default: the model's own"
    )
    width: int | None = Field(None, description="width in pixels, a multiple of 16; default: the model's own")
    fps: float | None = Field(
        None, description="frames per second of the result; default: the model's own, or the given video's"
    )

    steps: int = Field(50, description="denoising steps; more is slower and finer")
    sampler: Literal["ddim", "dpmpp_2m", "dpmpp_sde"] = Field(
        "ddim",
        description="how a step is made: ddim, dpm (dpmpp_sde, for the 5B models) or dpm-ode (dpmpp_2m)",
    )
    previous: Literal["released", "corrected"] = Field(
        "released",
        description="where a step ends when steps does not divide 1000; corrected joins without gaps",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="how strongly to follow the prompt; 1 or less turns it off; default: the model's own, mostly 6",
    )
    guidance_schedule: Literal["constant", "wave", "cosine"] = Field(
        "constant", description="guidance over the steps; wave is the released dynamic guidance"
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="the same seed gives the same video, on any device up to rounding; default: drawn for each run",
    )

    sample_image: bool = Field(True, description="draw the given image's latents, or take their mean")
    image_scale: Literal["released", "multiply", "divide", "none"] = Field(
        "released", description="what an image's latents are scaled by; 1.5-i2v users often prefer none"
    )
    latents: Literal["model", "float32"] = Field("model", description="precision of latents between steps")
    vae_coding: Literal["chunked", "whole", "tiled", "tiny"] = Field(
        "chunked",
        description="how the autoencoder runs: released chunks, all at once, least memory (tiled), or the tiny one of "
        "tiny-vae",
    )
    tile_height: int | None = Field(None, ge=16, description="height of a tile in pixels")
    tile_width: int | None = Field(None, ge=16, description="width of a tile in pixels")
    guidance_pair: Literal["batched", "sequence"] = Field(
        "batched", description="both answers of guidance at once, or one after the other in less memory"
    )
    modulation: Literal["tables", "layers"] = Field(
        "tables",
        description="what depends on the step alone: tables (computed once for all steps) or layers (at every step)",
    )
    attention: str = Field(
        "fastest",
        description="attention kernel: fastest (the fastest correct one here), torch, torch-cudnn, flash-3, "
        "sage (8-bit), ..., or one of the hub: hub:kernels-community/flash-attn3",
    )
    compile: bool = Field(
        False,
        description="compile one block of the transformer and use it for all: faster steps after a slow first one",
    )
    reuse: float = Field(
        0.0,
        ge=0,
        le=1,
        description="relative error, such as 0.1, up to which a step reuses an earlier one (see calibrate); 0: never",
    )
    reuse_table: str | None = Field(
        None, description="path of the calibration for reuse; default: the one beside the model"
    )
    anyway: bool = Field(
        False, description="make it even if more memory than there is, or more than a day, is estimated"
    )
    check_numerics: bool = Field(True, description="when NaN or Inf appear, find the layer that made them")

    @field_validator("sampler", mode="before")
    @classmethod
    def _full_name(cls, name: Any) -> Any:
        return SAMPLER_NAMES.get(name, name) if isinstance(name, str) else name

    @field_validator("keyframe", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(as_list(value))

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is not within either
                shown = f"{value:g}" if isinstance(value, float) else value
                raise ValueError(f"{name} {shown}: must be {least:g} to {most:g}")
        if self.frames is not None and self.seconds is not None:
            raise ValueError(f"frames {self.frames} and seconds {self.seconds:g}: give one of them")
        if self.image is not None and self.video is not None:
            raise ValueError("image and video: both say how the video begins; give one of them")
        if self.mask == OUTSIDE and self.fit != "contain":
            raise ValueError(f"mask outside: fit {self.fit} fills the frame; give fit contain too")
        if (self.tile_height is None) != (self.tile_width is None):
            raise ValueError(
                f"tile_height {self.tile_height}, tile_width {self.tile_width}: give both or none"
            )
        if self.tile_height is not None and self.vae_coding != "tiled":
            warnings.warn(f"tile_height has no effect with vae_coding {self.vae_coding!r}", stacklevel=2)
        if self.reuse_table is not None and not self.reuse:
            warnings.warn("reuse_table has no effect with reuse 0", stacklevel=2)
        if self.join and self.video_use != "continue":
            warnings.warn("join has no effect without video_use 'continue'", stacklevel=2)
        return self


def as_list(value: Any) -> list[Any]:
    """What may be given once or several times, as a list: nothing, one value, or a list or tuple of them."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def draw_seed() -> int:
    """A seed nobody chose: 31 bits from the system, whatever a program has done to Python's own random numbers."""
    return secrets.randbelow(2**31)

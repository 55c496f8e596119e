"""What can be asked of one video. Loads no torch: the command line reads its help from here."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError, suggest
from cogvideox.files import short
from cogvideox.generation.control_net_entry import ControlNetEntry

LIMITS: dict[str, tuple[float, float]] = {
    "frames": (1, 4096),
    "seconds": (0.001, 4096 / 0.01),
    "height": (1, 8192),
    "width": (1, 8192),
    "fps": (0.01, 240),
    "steps": (1, 1000),
    "guidance": (0, 1000),
    "stg_scale": (0, 1000),
    "apg_eta": (-1000, 1000),
    "apg_norm": (0, 1e9),
    "tile_height": (16, 8192),
    "tile_width": (16, 8192),
}
"""What no model can make is refused when it is asked for, not when the work is done."""

SAMPLER_NAMES = {"ddim": "ddim", "dpm": "dpmpp_sde", "dpm-ode": "dpmpp_2m"}
SAMPLER_NAMES |= {"dpmpp_sde": "dpmpp_sde", "dpmpp_2m": "dpmpp_2m"}
"""What samplers may be called; dpm is the public pipelines' scheduler for the 5B models."""


OUTSIDE = "outside"
"""The mask of all that the given video does not fill."""

OPTION_GROUPS = {
    "Prompt and inputs": "prompt image last_image keyframe video video_use strength mask remove first_pass flow "
    "control control_net control_preprocessor context_frames join fit sample_image image_scale",
    "Size and length": "frames seconds height width fps",
    "Long videos": "window window_overlap window_schedule window_stride window_blend window_noise riflex",
    "Sampling": "steps times sampler previous seed latents",
    "Guidance": "guidance guidance_schedule negative_prompt zero_negative guidance_pair guidance_rule guidance_rescale "
    "guidance_start guidance_stop zero_steps apg_eta apg_norm apg_momentum stg_scale stg_layers",
    "Speed and memory": "attention modulation compile cache reuse reuse_table vae_coding tile_height tile_width",
    "Checks": "anyway check_numerics",
}
"""Where a person looks for an option: the headings of ``cogvideox generate --help``."""


class GenerateOptions(Config):
    """Everything that decides one video, besides the model. What is None is the model's own default."""

    numbers_as_text = True  # lines of a batch often hold numbers in quotes

    prompt: str = Field(
        "",
        description="what the video shows, in English; long and concrete works best; a long video may have several, "
        "with their seconds: 0-5: a red circle; 5-10: a blue square",
    )
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
    first_pass: str | None = Field(
        None,
        description="the video that the first pass of a removal made: this run is the second pass, from noise that "
        "moves like it",
    )
    flow: str | None = Field(
        None,
        description="weights of RAFT that follow the first pass (torchvision's raft_large); default: OpenCV's DIS",
    )
    control: str | None = Field(
        None,
        description="path of a control video or image (poses, edges, depth), for a control model or a control-net",
    )
    control_net: tuple[str, ...] = Field(
        (),
        description="a ControlNet that follows the control video: FOLDER:0.8@0.0-0.6 with its strength and the share "
        "of the steps; FOLDER:0.8=VIDEO with a control video of its own; repeatable",
    )
    control_preprocessor: Literal["none", "canny"] = Field(
        "none", description="what is made of the control video first: canny finds its edges"
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

    window: int | None = Field(
        None,
        ge=0,
        description="frames that the network sees at once: a longer video is made in overlapping windows of so many; "
        "default: those the model was trained on, for a video more than twice as long; 0: no windows",
    )
    window_overlap: int | None = Field(
        None, ge=0, description="frames that neighbouring windows share; default: half a window"
    )
    window_schedule: Literal["auto", "static", "uniform", "looped", "multidiffusion", "segments"] = Field(
        "auto",
        description="where windows lie: uniform (moved from step to step: auto), static (the same at every step; "
        "with a cache), looped (over the end too: plays in a loop), multidiffusion (static, the last one shorter; for "
        "removal), or segments (videos one after the other, each begun with the end of the one before)",
    )
    window_stride: int = Field(
        1,
        ge=1,
        le=8,
        description="with uniform and looped: 2 adds windows of every second frame, 3 of every fourth, and so on",
    )
    window_blend: Literal["auto", "pyramid", "linear", "flat"] = Field(
        "auto",
        description="weights of a window's frames: pyramid (most in the middle), linear (ramps over the overlap), flat",
    )
    window_noise: Literal["auto", "shuffled", "fresh"] = Field(
        "auto",
        description="the first noise of a video in windows: fresh, or shuffled (every window gets the same frames of "
        "noise in another order: FreeNoise)",
    )
    riflex: bool = Field(
        False,
        description="slow the position frequency that makes longer videos repeat (RIFLEx); for rotary positions, up to "
        "about twice the trained length without windows",
    )

    steps: int = Field(50, description="denoising steps; more is slower and finer")
    times: tuple[int, ...] = Field(
        (),
        description="the times that are visited, such as 999,856,665,399, instead of evenly spaced steps; for adapters "
        "that were trained on them",
    )
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
    guidance_rule: Literal["cfg", "zero-star", "apg"] = Field(
        "cfg",
        description="how the answers for both prompts become one: cfg (plain), zero-star (CFG-Zero*: the negative one "
        "is scaled to fit) or apg (adaptive projected guidance: less harsh colours at high guidance)",
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how far the spread of the guided answer is brought back to the prompt's; 0.7 is usual",
    )
    guidance_start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps before guidance begins; steps without it take half the time",
    )
    guidance_stop: float = Field(1.0, ge=0, le=1, description="share of the steps after which guidance ends")
    zero_steps: int = Field(
        1,
        ge=0,
        description="first steps that zero-star makes without the network; 0 for image-to-video models",
    )
    apg_eta: float = Field(
        0.0, allow_inf_nan=False, description="how much apg keeps of the part that makes colours harsh"
    )
    apg_norm: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="longest difference in apg, over the whole video; 0: any"
    )
    apg_momentum: float = Field(
        -0.5, gt=-1, lt=1, description="how much of earlier differences apg adds; usual: -0.75 to 0"
    )
    stg_scale: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="spatio-temporal guidance: how strongly the answer of a network without some blocks is avoided; "
        "1 is usual, 0: off. Takes half the time again",
    )
    stg_layers: tuple[int, ...] = Field(
        (),
        description="blocks that stg leaves out, from 0, such as 11; default: one at a quarter of the depth",
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
    cache: str = Field(
        "",
        description="skip blocks at steps that change little: first-block:0.05 or tea:0.2, the number being how much "
        "may change; more is faster and less alike, 0 skips nothing; needs no calibration",
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

    @field_validator("keyframe", "control_net", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(as_list(value))

    @field_validator("control_net")
    @classmethod
    def _readable(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            ControlNetEntry.read(text)
        return texts

    @field_validator("cache")
    @classmethod
    def _known_cache(cls, text: str) -> str:
        read_cache(text)
        return text

    @model_validator(mode="before")
    @classmethod
    def _steps_of_times(cls, values: Any) -> Any:
        """As many steps as there are times."""
        times = list_of_numbers(values.get("times") or ()) if isinstance(values, dict) else ()
        return {**values, "times": times, "steps": len(times)} if times else values

    @property
    def control_nets(self) -> tuple[ControlNetEntry, ...]:
        """The entries of ``control_net``, read."""
        return tuple(ControlNetEntry.read(text) for text in self.control_net)

    def check_change(self, before: Self, names: Sequence[str]) -> None:
        """Steps beside times have no effect."""
        check_steps({name: getattr(self, name) for name in names} | {"times": self.times}, names)

    @field_validator("stg_layers", "times", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return list_of_numbers(value)

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
        if self.window and self.window_overlap is not None and self.window_overlap >= self.window:
            raise ValueError(
                f"window_overlap {self.window_overlap} of window {self.window}: no window would go on; "
                "lower the overlap"
            )
        if (self.tile_height is None) != (self.tile_width is None):
            raise ValueError(
                f"tile_height {self.tile_height}, tile_width {self.tile_width}: give both or none"
            )
        if self.tile_height is not None and self.vae_coding != "tiled":
            warnings.warn(f"tile_height has no effect with vae_coding {self.vae_coding!r}", stacklevel=2)
        if self.guidance_start >= self.guidance_stop:
            raise ValueError(
                f"guidance_start {self.guidance_start:g}, guidance_stop {self.guidance_stop:g}: no step lies between; "
                "raise guidance_stop"
            )
        if self.control_net and self.compile:
            raise ValueError(
                "control_net and compile: compiled steps add nothing in between; give one of them"
            )
        if self.stg_scale and self.compile:
            raise ValueError("stg_scale and compile: compiled blocks cannot be left out; give one of them")
        if self.cache and self.reuse:
            raise ValueError(
                f"cache {self.cache!r} and reuse {self.reuse:g}: both skip steps; give one of them"
            )
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


CACHES = {"first-block": 0.05, "tea": 0.2}
"""Ways to skip blocks without a calibration, and the threshold of each where none is given."""


def check_steps(settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises ConfigError where ``names``, what somebody asked for, has steps, and times are set too."""
    times = list_of_numbers(settings.get("times") or ())
    if "steps" in names and times:
        shown = ",".join(str(each) for each in times)
        raise ConfigError(
            f"steps beside times {shown}: as many steps are made as there are times; give one of them"
        )


def read_cache(text: str) -> tuple[str, float]:
    """The kind and the threshold that ``cache`` names; ("", 0) for none. Raises ValueError."""
    if not text:
        return "", 0.0
    kind, colon, number = text.partition(":")
    if kind not in CACHES:
        known = " or ".join(f"{name}:{usual:g}" for name, usual in CACHES.items())
        raise ValueError(f"{short(text)}: unknown{suggest(kind, CACHES)}; write {known}")
    try:
        threshold = float(number) if colon else CACHES[kind]
    except ValueError:
        threshold = -1.0
    if not threshold >= 0:  # NaN is not either
        raise ValueError(
            f"{short(text)}: the threshold must be a number of at least 0; write {kind}:{CACHES[kind]:g}"
        )
    return kind, threshold


def list_of_numbers(value: Any) -> Any:
    """What was typed with commas between, once or several times, as one list."""
    values = value if isinstance(value, list | tuple) else [value]
    return [part for each in values for part in (each.split(",") if isinstance(each, str) else [each])]


def draw_seed() -> int:
    """A seed nobody chose: 31 bits from the system, whatever a program has done to Python's own random numbers."""
    return secrets.randbelow(2**31)

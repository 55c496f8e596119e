"""Settings of the video autoencoder and of its tiles. No torch here, so that presets are read instantly."""

from __future__ import annotations

from math import log2
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import SizeError

DOWN_BLOCK, UP_BLOCK = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"
OWN_SETTINGS = ("time_kernel", "chunk_frames", "chunk_latents", "first_latent_alone")
"""What the released ``config.json`` has no name for."""


class VAEConfig(Config):
    """The 3D causal VAE. Names are those of the released ``vae/config.json``, defaults are the 2B values.

    Every row of Table 1 is a value of three fields: ``block_out_channels`` (four stages compress space by 8,
    five by 16), ``temporal_compression_ratio`` and ``latent_channels``; ``time_kernel`` 1 with ratio 1 makes
    every convolution an image one (the baseline row).
    """

    in_channels: int = Field(3, ge=1, le=1024, description="Channels of the pixels that go in.")
    out_channels: int = Field(3, ge=1, le=1024, description="Channels of the pixels that come out.")
    latent_channels: int = Field(
        16, ge=1, le=1024, description="Channels of the latents (Table 1: 4 to 128)."
    )
    block_out_channels: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (128, 256, 256, 512),
        min_length=1,
        max_length=8,
        description="Width of each stage; each stage but the last halves height and width.",
    )
    layers_per_block: int = Field(
        3, ge=1, le=64, description="Residual blocks in an encoder stage; the decoder has one more."
    )
    norm_num_groups: int = Field(32, ge=1, le=8192, description="Groups of every group normalisation.")
    norm_eps: float = Field(
        1e-6, gt=0, le=1, description="Added to the variance in the residual blocks of the encoder."
    )
    temporal_compression_ratio: int = Field(
        4, ge=1, le=64, description="Frames per latent frame: 1, 2, 4, 8."
    )
    time_kernel: Literal[1, 3] = Field(
        3, description="Frames a convolution sees; 1 makes every convolution an image one."
    )
    sample_height: int = Field(
        480, ge=1, le=65_536, description="Usual height in pixels; tiles default to half of it."
    )
    sample_width: int = Field(
        720, ge=1, le=65_536, description="Usual width in pixels; tiles default to half of it."
    )
    scaling_factor: float = Field(
        1.15258426, gt=0, le=1e6, description="Latents are multiplied by this before diffusion."
    )
    shift_factor: float | None = Field(
        None,
        ge=-1e6,
        le=1e6,
        description="Subtracted from latents before scaling; the released models have none.",
    )
    invert_scale_latents: bool = Field(
        False, description="Image latents are divided by the scaling factor (1.5 image-to-video)."
    )
    force_upcast: bool = Field(
        True, description="Carried along for other readers of config.json; unused here."
    )
    chunk_frames: int = Field(
        8, ge=1, le=4096, description="Frames encoded at once; the released weights expect 8."
    )
    chunk_latents: int = Field(
        2, ge=2, le=4096, description="Latent frames decoded at once; the released weights expect 2."
    )
    first_latent_alone: bool = Field(
        False,
        description="The first latent is decoded by itself, also of an even number, and gives one frame (VideoX-Fun).",
    )

    # Settings of the released file with only one meaning here: read, checked, written back, never stored.
    fixed: ClassVar[dict[str, Any]] = {
        "act_fn": "silu",
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }

    @model_validator(mode="before")
    @classmethod
    def _drop_fixed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {key: value for key, value in values.items() if not key.startswith("_")}
        for key, only in cls.fixed.items():
            if key in values and values.pop(key) != only:
                raise ValueError(f"{key}: only {only!r} is known")
        for key, only in (("down_block_types", DOWN_BLOCK), ("up_block_types", UP_BLOCK)):
            if any(name != only for name in values.pop(key, ())):
                raise ValueError(f"{key}: only {only!r} is known")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        halvings = log2(self.temporal_compression_ratio)
        if halvings != int(halvings) or halvings > len(self.block_out_channels) - 1:
            raise ValueError(
                f"temporal_compression_ratio {self.temporal_compression_ratio}: must be a power of "
                f"two, at most {self.spatial_compression_ratio} for {len(self.block_out_channels)} stages"
            )
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels {width}: not divisible by norm_num_groups {self.norm_num_groups}"
                )
        if self.chunk_frames % self.temporal_compression_ratio:
            raise ValueError(
                f"chunk_frames {self.chunk_frames}: must be a multiple of temporal_compression_ratio "
                f"{self.temporal_compression_ratio}"
            )
        if self.chunk_latents % 2:
            raise ValueError(
                f"chunk_latents {self.chunk_latents}: must be even; only the first chunk may be odd"
            )
        return self

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent position, along height and along width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def time_stages(self) -> int:
        """How many stages change time: the first ones of the encoder, and the first ones of the decoder."""
        return int(log2(self.temporal_compression_ratio))

    def latent_frames(self, frames: int) -> int:
        """Latent frames made from ``frames`` pixel frames: rounded up, chunked or whole."""
        return -(-frames // self.temporal_compression_ratio)

    def pixel_frames(self, latents: int) -> int:
        """Pixel frames made from ``latents`` latent frames; only an odd count keeps a single first frame.

        With ``first_latent_alone`` every count does.
        """
        ratio = self.temporal_compression_ratio
        return ratio * (latents - 1) + 1 if latents % 2 or self.first_latent_alone else ratio * latents

    def released(self) -> dict[str, Any]:
        """Everything that the released ``config.json`` holds, in its names (our own fields are left out)."""
        values = self.model_dump(mode="json", exclude=set(OWN_SETTINGS))
        stages = len(self.block_out_channels)
        blocks = {"down_block_types": [DOWN_BLOCK] * stages, "up_block_types": [UP_BLOCK] * stages}
        return {"_class_name": "AutoencoderKLCogVideoX", **values, **self.fixed, **blocks}


class Tiles(Config):
    """How a large picture is cut into overlapping tiles; a side is cut when it is longer than its tile."""

    height: int = Field(240, ge=1, description="Height of a tile in pixels.")
    width: int = Field(360, ge=1, description="Width of a tile in pixels.")
    overlap_height: float = Field(1 / 6, ge=0, lt=1, description="Part of a tile shared with the tile above.")
    overlap_width: float = Field(
        1 / 5, ge=0, lt=1, description="Part of a tile shared with the tile to the left."
    )

    @classmethod
    def usual(cls, config: VAEConfig) -> Self:
        """The released default, half the usual height and width, rounded up to whole latents."""
        double = 2 * config.spatial_compression_ratio
        rows, columns = -(-config.sample_height // double), -(-config.sample_width // double)
        return cls.sized(config, rows * double // 2, columns * double // 2)

    @classmethod
    def sized(cls, config: VAEConfig, height: int, width: int) -> Self:
        """Tiles of this size in pixels; the default overlaps, rounded to whole latents so that strides agree."""
        overlaps = {}
        for name, pixels in (("overlap_height", height), ("overlap_width", width)):
            latents = max(1, pixels // config.spatial_compression_ratio)
            shared = min(max(1, round(latents * cls.model_fields[name].default)), latents - 1)
            overlaps[name] = shared / latents
        return cls(height=height, width=width, **overlaps)

    def grid(self, config: VAEConfig) -> TileGrid:
        """The numbers both directions need; raises SizeError when pixel and latent strides disagree."""
        ratio = config.spatial_compression_ratio
        return TileGrid(
            height=_side("height", self.height, self.overlap_height, ratio),
            width=_side("width", self.width, self.overlap_width, ratio),
        )


class Side(Config):
    """One direction of the tile grid: sizes, strides and blended lengths, in pixels and in latents."""

    pixels: int
    latents: int
    pixel_stride: int
    latent_stride: int
    pixel_blend: int
    latent_blend: int


class TileGrid(Config):
    """Both directions of the tile grid."""

    height: Side
    width: Side


def _side(name: str, pixels: int, overlap: float, ratio: int) -> Side:
    if pixels % ratio:
        raise SizeError(
            f"tile {name} {pixels}: must be a multiple of {ratio} pixels; try {-(-pixels // ratio) * ratio}"
        )
    latents = pixels // ratio
    side = Side(
        pixels=pixels,
        latents=latents,
        pixel_stride=_whole(pixels * (1 - overlap)),
        latent_stride=_whole(latents * (1 - overlap)),
        pixel_blend=_whole(pixels * overlap),
        latent_blend=_whole(latents * overlap),
    )
    # What is kept of a tile must be what the next one starts after, in both spaces; else sizes change.
    kept = (side.latents - side.latent_blend) * ratio, side.pixels - side.pixel_blend
    strides = side.pixel_stride, side.latent_stride * ratio
    if kept != strides or not strides[0] == strides[1] > 0:
        raise SizeError(
            f"tile {name} {pixels} with overlap {overlap:.3g}: tiles start every {strides[0]} pixels but "
            f"keep {kept[0]} (decoding: {strides[1]} and {kept[1]}); choose a size whose overlap is a whole "
            f"multiple of {ratio} pixels"
        )
    return side


def _whole(value: float) -> int:
    """Rounded down, as the released code does, but not for the last bit of a fraction: 5 * (1 - 2 / 5) is 3."""
    return int(value + 1e-6)

"""The settings of an expert transformer, under the names of diffusers' ``config.json``, and its arms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError
from cogvideox.transformer.modality import Experts


class TransformerConfig(Config):
    """Everything that shapes the network. The defaults are those of the class in diffusers: CogVideoX-2B."""

    num_attention_heads: int = Field(
        30, gt=0, le=256, description="heads; the width is heads times head size"
    )
    attention_head_dim: int = Field(64, gt=0, le=512, description="channels of one head, a multiple of 16")
    in_channels: int = Field(
        16, gt=0, le=4096, description="latent channels in; twice as many for an image condition"
    )
    out_channels: int = Field(16, gt=0, le=4096, description="latent channels out")
    flip_sin_to_cos: bool = Field(True, description="time sinusoid as [cos | sin] instead of [sin | cos]")
    freq_shift: int = Field(0, ge=0, le=1, description="shift in the denominator of the time frequencies")
    time_embed_dim: int = Field(512, gt=0, le=32_768, description="width of the time embedding")
    ofs_embed_dim: int | None = Field(
        None, gt=0, le=32_768, description="width of the ofs embedding (1.5-I2V), or null"
    )
    text_embed_dim: int = Field(4096, gt=0, le=65_536, description="width of the text encoder's output")
    num_layers: int = Field(30, gt=0, le=512, description="depth")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after embedding, attention and feed forward")
    attention_bias: bool = Field(True, description="biases on q, k and v")
    sample_width: int = Field(90, gt=0, le=8192, description="native width in latent pixels")
    sample_height: int = Field(60, gt=0, le=8192, description="native height in latent pixels")
    sample_frames: int = Field(49, gt=0, le=16_384, description="native number of PIXEL frames")
    patch_size: int = Field(2, gt=0, le=64, description="latent pixels of a patch along height and width")
    patch_size_t: int | None = Field(
        None, gt=0, le=64, description="latent frames of a patch (1.5: 2), or null for one"
    )
    temporal_compression_ratio: int = Field(4, gt=0, le=64, description="pixel frames for each latent frame")
    max_text_seq_length: int = Field(226, gt=0, le=16_384, description="text tokens")
    activation_fn: Literal["gelu-approximate", "gelu"] = Field("gelu-approximate", description="feed forward")
    timestep_activation_fn: Literal["silu"] = Field("silu", description="activation of the time embedding")
    norm_elementwise_affine: bool = Field(True, description="affine LayerNorms")
    norm_eps: float = Field(1e-5, gt=0, le=1, description="eps of the LayerNorms, q and k excepted")
    spatial_interpolation_scale: float = Field(1.875, gt=0, le=1000, description="divides sinusoidal h and w")
    temporal_interpolation_scale: float = Field(
        1.0, gt=0, le=1000, description="divides t in sinusoidal positions"
    )
    use_rotary_positional_embeddings: bool = Field(
        False, description="3D rotary instead of sinusoidal positions"
    )
    use_learned_positional_embeddings: bool = Field(False, description="a learned table added to x (5B-I2V)")
    patch_bias: bool = Field(True, description="bias of the patch embedding; 1.5 always has one")

    # what diffusers cannot express
    use_positional_embeddings: bool = Field(True, description="false: no positions at all (ablation)")
    position_mode: Literal["slice", "resample", "ntk", "fun", "riflex"] | None = Field(
        None,
        description="coordinates at other sizes; null: as released, resample for 1.0 and slice for 1.5; fun: as "
        "VideoX-Fun trained; riflex: as released, with one frequency in time slowed for longer videos",
    )
    riflex_frames: int | None = Field(
        None,
        gt=0,
        le=16_384,
        description="with position_mode riflex: patches in time that the slowed frequency spans; null: those of each "
        "video; the published fine-tuned weights have 25",
    )
    attention: Literal["full", "split"] = Field("full", description="3D full, or 2D + 1D (Fig. 8b, 10b)")
    experts: Experts = Field(Experts(), description="what text and video have of their own (Fig. 8a, 10c)")

    @model_validator(mode="before")
    @classmethod
    def _as_released(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("position_mode") is None:
            return {**values, "position_mode": "slice" if values.get("patch_size_t") else "resample"}
        return values

    @model_validator(mode="after")
    def _check(self) -> TransformerConfig:
        if self.attention_head_dim % 16 and self.use_rotary_positional_embeddings:
            raise ConfigError(
                f"attention_head_dim {self.attention_head_dim}: rotary positions split a head into 1/4, 3/8 "
                "and 3/8 of even size; use a multiple of 16"
            )
        if self.width % 16:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} x attention_head_dim "
                f"{self.attention_head_dim}: the width {self.width} must be a multiple of 16; use other heads"
            )
        if self.ofs_embed_dim and self.ofs_embed_dim != self.time_embed_dim:
            raise ConfigError(
                f"ofs_embed_dim {self.ofs_embed_dim}: it is added to the time embedding; "
                f"make it equal to time_embed_dim {self.time_embed_dim}"
            )
        if self.use_learned_positional_embeddings and not self.use_rotary_positional_embeddings:
            raise ConfigError(
                "use_learned_positional_embeddings true, use_rotary_positional_embeddings false: learned "
                "positions come on top of rotary ones; set both"
            )
        if self.position_mode == "riflex" and not self.use_rotary_positional_embeddings:
            raise ConfigError(
                "position_mode 'riflex', use_rotary_positional_embeddings false: it slows a frequency of rotary "
                "positions; choose another mode"
            )
        if self.riflex_frames is not None and self.position_mode != "riflex":
            raise ConfigError(
                f"riflex_frames {self.riflex_frames}: has no effect with position_mode {self.position_mode!r}; set "
                "it to 'riflex'"
            )
        if self.use_rotary_positional_embeddings and not self.use_positional_embeddings:
            raise ConfigError(
                "use_positional_embeddings false, use_rotary_positional_embeddings true: these contradict "
                "each other; change one"
            )
        return self

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def position(self) -> Literal["rotary", "rotary+learned", "sinusoidal", "none"]:
        """Which positions the flags add up to."""
        if not self.use_positional_embeddings:
            return "none"
        if self.use_rotary_positional_embeddings:
            return "rotary+learned" if self.use_learned_positional_embeddings else "rotary"
        return "sinusoidal"

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of one patch."""
        return self.patch_size_t or 1, self.patch_size, self.patch_size

    @property
    def native_patches_t(self) -> int:
        """Patches in time of a video of the native length."""
        latents = (self.sample_frames - 1) // self.temporal_compression_ratio + 1
        return -(-latents // (self.patch_size_t or 1))

    @property
    def patch_values(self) -> int:
        """Latent pixels of one patch, per channel."""
        return (self.patch_size_t or 1) * self.patch_size**2

    def with_positions(self, position: Literal["rotary", "sinusoidal", "none"]) -> TransformerConfig:
        """The position arm (Fig. 9, 10a)."""
        flags = {
            "use_positional_embeddings": position != "none",
            "use_rotary_positional_embeddings": position == "rotary",
            "use_learned_positional_embeddings": False,
        }
        return self.parse({**self.model_dump(), **flags})

    def with_arm(self, **settings: Any) -> TransformerConfig:
        """A copy with some settings changed and everything checked again."""
        return self.parse({**self.model_dump(), **settings})

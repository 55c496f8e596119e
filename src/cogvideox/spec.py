"""What a model is, as one frozen value of settings: no network, no weights, and no torch until a config is asked for.

A spec comes from the table of models (``presets``), from a model folder (``checkpoints.read_spec``) or from the configs
of networks that are in memory (``ModelSpec.of_configs``). Planning, memory predictions and the command line need no
more than it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cogvideox.diffusion.schedule import ScheduleConfig
    from cogvideox.transformer import TransformerConfig
    from cogvideox.vae import VAEConfig

Settings = Mapping[str, Any]
Kind = Literal["t2v", "i2v"]

GUIDANCE = 6.0
"""The guidance scale of the released models; ``diffusion.guidance`` has the same number."""
SIZE_OF_15 = (768, 1360)
"""Native size of the 1.5 models: their files name 300x300 latents, which is the size of their rotary table."""
FPS_OF_10, FPS_OF_15 = 8, 16


@dataclass(frozen=True)
class Condition:
    """What a network reads beside the noisy latents, in ``channels`` further input channels.

    "image": latents of the first frame, zeros after it.
    """

    kind: Literal["image"]
    channels: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: the settings of its networks and schedule, what it is given, and what it was made for.

    ``height`` and ``width`` (pixels), ``frames`` (pixel frames) and ``fps`` are the size it was trained at.
    ``dtype`` names the precision it is computed in unless another is asked for, ``text_tokens`` is the prompt
    budget, ``text_settings`` are the text encoder's in T5's names (None: it has none). ``guidance``, ``steps`` and
    ``sampler`` hold where a run asks for none. ``download_gb`` is the size of the files on the hub.
    """

    name: str = ""
    conditions: tuple[Condition, ...] = ()
    height: int
    width: int
    frames: int
    fps: float
    dtype: str = "float32"
    text_tokens: int
    guidance: float = GUIDANCE
    steps: int = 50
    sampler: Literal["ddim", "dpmpp_2m", "dpmpp_sde"] = "ddim"
    licence: str = ""
    about: str = ""
    hub: str | None = None
    download_gb: float | None = None
    vae_settings: Settings = field(default_factory=dict)
    transformer_settings: Settings = field(default_factory=dict)
    schedule_settings: Settings = field(default_factory=dict)
    text_settings: Settings | None = None

    @classmethod
    def of_configs(
        cls,
        *,
        transformer: TransformerConfig,
        vae: VAEConfig,
        schedule: ScheduleConfig,
        kind: Kind | None = None,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        fps: float | None = None,
        guidance: float | None = None,
        **others: Any,
    ) -> ModelSpec:
        """The spec of a model with these configs; ``others`` are further fields.

        What is None is derived: the size from the transformer's position tables (the 1.5 models, whose tables cover
        every size, are native at ``SIZE_OF_15``), ``fps`` from its patches in time, which the 1.5 models alone have,
        and the kind from its input channels.
        """
        is_15 = transformer.patch_size_t is not None
        table = (transformer.sample_height, transformer.sample_width)
        ratio = vae.spatial_compression_ratio
        native = SIZE_OF_15 if is_15 and table == (300, 300) else (table[0] * ratio, table[1] * ratio)
        spec = cls(
            conditions=conditions_of(transformer, kind or kind_of(transformer)),
            height=height or native[0],
            width=width or native[1],
            frames=frames or transformer.sample_frames,
            fps=fps or (FPS_OF_15 if is_15 else FPS_OF_10),
            guidance=GUIDANCE if guidance is None else guidance,
            text_tokens=transformer.max_text_seq_length,
            transformer_settings=transformer.model_dump(mode="json"),
            vae_settings=vae.model_dump(mode="json"),
            schedule_settings=schedule.model_dump(mode="json"),
            **others,
        )
        vars(spec).update(transformer=transformer, vae=vae, schedule=schedule)  # parsed already
        return spec

    @cached_property
    def vae(self) -> VAEConfig:
        """The autoencoder's settings; loads torch. Raises ConfigError."""
        from cogvideox.vae.config import VAEConfig

        return VAEConfig.parse(dict(self.vae_settings), f"{self._label}: vae")

    @cached_property
    def transformer(self) -> TransformerConfig:
        """The transformer's settings; loads torch. Raises ConfigError."""
        from cogvideox.transformer import TransformerConfig

        return TransformerConfig.parse(dict(self.transformer_settings), f"{self._label}: transformer")

    @cached_property
    def schedule(self) -> ScheduleConfig:
        """The noise schedule's settings; loads torch. Raises ConfigError."""
        from cogvideox.diffusion.schedule import ScheduleConfig

        return ScheduleConfig.parse(dict(self.schedule_settings), f"{self._label}: schedule")

    @property
    def kind(self) -> Kind:
        """ "i2v" for a model that reads an image beside the prompt, else "t2v"."""
        return "i2v" if any(condition.kind == "image" for condition in self.conditions) else "t2v"

    @property
    def pixel_multiple(self) -> int:
        """Heights and widths are multiples of this many pixels: a latent times a patch."""
        return self.vae.spatial_compression_ratio * self.transformer.patch_size

    @property
    def frame_patch(self) -> int:
        """Latent frames in one patch: 2 in the 1.5 models, else 1."""
        return self.transformer.patch_size_t or 1

    @property
    def latent_channels(self) -> int:
        """Channels of the noisy latents, those of conditions not counted."""
        return self.transformer.out_channels

    @property
    def _label(self) -> str:
        return f"preset {self.name}" if self.name else "model"


def kind_of(transformer: TransformerConfig) -> Kind:
    """An image-to-video model has more input channels than output channels: it reads the image's latents too."""
    return "i2v" if transformer.in_channels > transformer.out_channels else "t2v"


def conditions_of(transformer: TransformerConfig, kind: Kind) -> tuple[Condition, ...]:
    """What a network of this kind reads beside the noisy latents."""
    more = transformer.in_channels - transformer.out_channels
    return (Condition("image", more),) if kind == "i2v" else ()

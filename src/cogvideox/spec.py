"""What a model is, as one frozen value of settings: no network, no weights, and no torch until a config is asked for.

A spec comes from the table of models (``presets``), from a model folder (``checkpoints.read_spec``) or from the configs
of networks that are in memory (``ModelSpec.of_configs``). Planning, memory predictions and the command line need no
more than it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from cogvideox.errors import ConfigError

if TYPE_CHECKING:
    from cogvideox.diffusion.schedule import ScheduleConfig
    from cogvideox.transformer import TransformerConfig
    from cogvideox.vae import VAEConfig

Settings = Mapping[str, Any]
Kind = Literal["t2v", "i2v", "i2v-every-frame", "inpaint", "control", "removal"]
"""What a model makes a video from: see ``ABOUT_KINDS``."""
ConditionKind = Literal[
    "image", "image-every-frame", "mask", "masked-video", "control", "coded-mask", "video"
]

ABOUT_KINDS: dict[Kind, str] = {
    "t2v": "a prompt",
    "i2v": "an image at its place in time",
    "i2v-every-frame": "an image, read at every frame",
    "inpaint": "a video, and a mask of what is made anew in it",
    "control": "a control video: poses, edges or depth",
    "removal": "a video, and a mask of what is removed from it",
}

GUIDANCE = 6.0
"""The guidance scale of the released models; ``diffusion.guidance`` has the same number."""
SIZE_OF_15 = (768, 1360)
"""Native size of the 1.5 models: their files name 300x300 latents, which is the size of their rotary table."""
FPS_OF_10, FPS_OF_15 = 8, 16


@dataclass(frozen=True)
class Condition:
    """What a network reads beside the noisy latents, in ``channels`` further input channels.

    "image": latents of pictures where they stand in time, zeros elsewhere. "image-every-frame": latents of one picture,
    again and again. "control": latents of a control video. "mask": one channel, above zero where a video is known.
    "masked-video": latents of that video, black where it is not known. "coded-mask": latents of a mask, coded as a grey
    picture. "video": latents of a video. ``noise``: standard deviation of normal noise that is added to the pixels
    before they are encoded, as in the network's training.
    """

    kind: ConditionKind
    channels: int
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: the settings of its networks and schedule, what it is given, and what it was made for.

    ``height`` and ``width`` (pixels), ``frames`` (pixel frames) and ``fps`` are the size it was trained at.
    ``dtype`` names the precision it is computed in unless another is asked for, ``text_tokens`` is the prompt
    budget, ``text_settings`` are the text encoder's in T5's names (None: it has none). ``guidance``, ``steps`` and
    ``sampler`` hold where a run asks for none; ``times`` are those of a model of few steps, which visits no others.
    ``download_gb`` is the size of the files on the hub.
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
    times: tuple[int, ...] = ()
    sampler: Literal["ddim", "dpmpp_2m", "dpmpp_sde"] = "ddim"
    licence: str = ""
    about: str = ""
    hub: str | None = None
    download_gb: float | None = None
    vae_settings: Settings = field(default_factory=dict)
    transformer_settings: Settings = field(default_factory=dict)
    schedule_settings: Settings = field(default_factory=dict)
    text_settings: Settings | None = None
    stored_bytes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Bytes of each quantised weight, by network and by name (``any_block``); a network of plain weights has none."""

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
        condition_noise: float = 0.0,
        **others: Any,
    ) -> ModelSpec:
        """The spec of a model with these configs; ``others`` are further fields.

        What is None is derived: the size from the transformer's position tables (the 1.5 models, whose tables cover
        every size, are native at ``SIZE_OF_15``), ``fps`` from its patches in time, which the 1.5 models alone have,
        and the kind from its input channels. ``condition_noise``: see ``Condition.noise``.
        """
        is_15 = transformer.patch_size_t is not None
        table = (transformer.sample_height, transformer.sample_width)
        ratio = vae.spatial_compression_ratio
        native = SIZE_OF_15 if is_15 and table == (300, 300) else (table[0] * ratio, table[1] * ratio)
        spec = cls(
            conditions=conditions_of(transformer, kind or kind_of(transformer), condition_noise),
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
        """What the model makes a video from, by the conditions that it reads."""
        return _KIND_OF[tuple(condition.kind for condition in self.conditions)]

    @property
    def needs_image(self) -> bool:
        """Whether a video of this model begins with an image that is given."""
        return self.kind in ("i2v", "i2v-every-frame")

    @property
    def reads_whole_video(self) -> bool:
        """Whether it reads every frame of a video (masked, to be changed, a control): all of them are encoded first."""
        return self.kind in ("inpaint", "control", "removal")

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


def any_block(name: str) -> str:
    """The name of a weight with a star for the number of its block: blocks are alike."""
    return re.sub(r"\b(transformer_blocks|encoder\.block)\.\d+\.", r"\1.*.", name)


_CONDITIONS: dict[Kind, tuple[ConditionKind, ...]] = {
    "t2v": (),
    "i2v": ("image",),
    "i2v-every-frame": ("image-every-frame",),
    "inpaint": ("mask", "masked-video"),
    "control": ("control",),
    "removal": ("coded-mask", "video"),
}
"""The conditions of each kind of model, in the order of its input channels."""
_KIND_OF = {conditions: kind for kind, conditions in _CONDITIONS.items()}


def kinds_of(transformer: TransformerConfig) -> tuple[Kind, ...]:
    """The kinds of model whose conditions have this network's input channels, the likeliest first."""
    more, latents = transformer.in_channels - transformer.out_channels, transformer.out_channels
    return tuple(kind for kind in _CONDITIONS if condition_channels(kind, latents) == more)


def kind_of(transformer: TransformerConfig) -> Kind:
    """The likeliest kind of a network by its input channels. Raises ConfigError for channels that no kind has."""
    kinds = kinds_of(transformer)
    if not kinds:
        raise ConfigError(
            f"in_channels {transformer.in_channels}: beside {transformer.out_channels} noisy channels no known "
            f"condition has {transformer.in_channels - transformer.out_channels}; known are "
            + ", ".join(
                f"{condition_channels(kind, transformer.out_channels)} ({kind})" for kind in _CONDITIONS
            )
        )
    return kinds[0]


def conditions_of(transformer: TransformerConfig, kind: Kind, noise: float = 0.0) -> tuple[Condition, ...]:
    """What a network of this kind reads beside the noisy latents. Raises ConfigError where its channels are others."""
    latents = transformer.out_channels
    if kind not in kinds_of(transformer):
        raise ConfigError(
            f"kind {kind!r}: needs in_channels {latents + condition_channels(kind, latents)}, the transformer has "
            f"{transformer.in_channels}; {' or '.join(kinds_of(transformer)) or 'no kind'} has these"
        )
    noisy = ("masked-video", "video")
    return tuple(
        Condition(each, 1 if each == "mask" else latents, noise if each in noisy else 0.0)
        for each in _CONDITIONS[kind]
    )


def condition_channels(kind: Kind, latent_channels: int) -> int:
    """Input channels that a network of this kind has beside those of the noisy latents."""
    return sum(1 if each == "mask" else latent_channels for each in _CONDITIONS[kind])

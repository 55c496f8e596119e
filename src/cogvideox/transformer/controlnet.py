"""ControlNets (TheDenk's): a network beside the transformer that reads a control video and adds to its video tokens.

Frames of the control video (edges, lines) are folded to latent size, compressed in time and laid beside the noisy
latents. Blocks like the transformer's own follow; after each of them its video tokens, weighted, are added to those of
the transformer behind its block of the same number. Text tokens are left alone. Both networks walk side by side, one
block after the other, so that what is added is there once and not once for every block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from cogvideox.brief import Brief
from cogvideox.cpu_ops import Linear
from cogvideox.errors import ConfigError, SizeError
from cogvideox.transformer.calls import sampler_call
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.layout import Layout, TokenGrid
from cogvideox.transformer.reuse import replacing_blocks
from cogvideox.transformer.transformer import PatchEmbed, TimestepEmbedding, Transformer, block_of, sinusoid

GROUPS = 2
"""Groups of the norms over the folded control video."""
TIME_RATIO = 4
"""Frames of the control video for each latent: it is compressed in pairs, twice."""


class ControlNetConfig(TransformerConfig):
    """The values of a ControlNet's ``config.json``; those of its blocks are the transformer's."""

    in_channels: int = Field(3, gt=0, le=64, description="channels of the control video")
    vae_channels: int = Field(16, gt=0, le=4096, description="noisy latent channels")
    downscale_coef: int = Field(
        8, gt=0, le=64, description="pixels a latent pixel is wide: the fold of the video"
    )
    out_proj_dim: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="width of the transformer it was trained for, null where it is its own",
    )
    num_layers: int = Field(8, gt=0, le=512, description="blocks of the ControlNet")

    @model_validator(mode="after")
    def _check_fold(self) -> ControlNetConfig:
        if self.folded % 8:
            raise ConfigError(
                f"in_channels {self.in_channels}, downscale_coef {self.downscale_coef}: {self.folded} folded channels "
                "are halved twice and normalised in two groups; they must be a multiple of 8"
            )
        return self

    @property
    def folded(self) -> int:
        """Channels of the folded control video: 3 x 8 x 8."""
        return self.in_channels * self.downscale_coef**2

    @property
    def added_width(self) -> int:
        """Channels of the tokens that it adds: the width of the transformer it is for."""
        return self.out_proj_dim or self.width

    def embedding(self) -> TransformerConfig:
        """The settings of its patch embedding, which reads noisy latents and the folded video side by side."""
        values = {name: getattr(self, name) for name in TransformerConfig.model_fields}
        channels = self.vae_channels + self.folded // 4
        return TransformerConfig(**values | {"in_channels": channels, "out_channels": self.vae_channels})

    def why_not(self, transformer: TransformerConfig) -> str:
        """Why it cannot steer a transformer of these settings, both values named; "" where it can."""
        both = {
            "width": (self.added_width, transformer.width),
            "latent channels": (self.vae_channels, transformer.out_channels),
            "text width": (self.text_embed_dim, transformer.text_embed_dim),
            "patches": (list(self.patch), list(transformer.patch)),
        }
        if transformer.use_rotary_positional_embeddings:  # it is handed the transformer's own table
            both["head size"] = self.attention_head_dim, transformer.attention_head_dim
        return ", ".join(
            f"{what} {one}, the transformer has {other}"
            for what, (one, other) in both.items()
            if one != other
        )


class ControlNet(nn.Module):
    """Predicts what is added to the video tokens of a transformer; the state dict is that of the published files.

    ``weights``: the SHA-256 of each of its files by name, for records; empty where nobody asked.
    """

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        self.weights: dict[str, str] = {}
        half, quarter = config.folded // 2, config.folded // 4
        self.controlnet_encode_first = nn.Sequential(
            nn.Conv2d(config.folded, half, 1), nn.GroupNorm(GROUPS, half), nn.ReLU()
        )
        self.controlnet_encode_second = nn.Sequential(
            nn.Conv2d(half, quarter, 1), nn.GroupNorm(GROUPS, quarter), nn.ReLU()
        )
        inner = config.embedding()
        self.patch_embed = PatchEmbed(inner)
        self.time_embedding = TimestepEmbedding(inner.width, inner.time_embed_dim)
        self.transformer_blocks = nn.ModuleList(block_of(inner) for _ in range(config.num_layers))
        if config.out_proj_dim is not None:
            self.out_projectors = nn.ModuleList(
                Linear(inner.width, config.out_proj_dim) for _ in range(config.num_layers)
            )

    def encode(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b k t h8 w8"]:
        """A control video in [-1, 1], folded to latent size and compressed four times in time. Once for a run.

        Raises SizeError for sides that cannot be folded.
        """
        batch, config = pixels.shape[0], self.config
        if pixels.shape[3] % config.downscale_coef or pixels.shape[4] % config.downscale_coef:
            raise SizeError(
                f"control of {pixels.shape[3]}x{pixels.shape[4]}: both must be multiples of {config.downscale_coef}"
            )
        x = F.pixel_unshuffle(pixels.transpose(1, 2).flatten(0, 1), config.downscale_coef)
        for layers in (self.controlnet_encode_first, self.controlnet_encode_second):
            x = compress_time(layers(x).unflatten(0, (batch, -1))).flatten(0, 1)
        return x.unflatten(0, (batch, -1)).transpose(1, 2).contiguous()

    def states(
        self,
        latents: Float[Tensor, "b c t h w"],
        text: Float[Tensor, "b l e"],
        timestep: Float[Tensor, "..."],
        control: Float[Tensor, "1 k t h w"],
        rotary_emb: Tensor | None = None,
    ) -> Iterator[Float[Tensor, "b n d"]]:
        """What is added behind each block in turn, computed when it is asked for.

        ``control`` is what ``encode`` gave, ``rotary_emb`` the transformer's own table.
        """
        config, kind = self.patch_embed.config, next(self.time_embedding.parameters()).dtype
        sides = zip(
            latents.shape[2:], config.patch, strict=True
        )  # the transformer has checked that they divide
        layout = Layout.plain(text.shape[1], TokenGrid(*(side // patch for side, patch in sides)))
        beside = control.expand(len(latents), -1, -1, -1, -1)
        read = torch.cat([latents.to(kind), beside.to(kind)], dim=1)
        x = torch.cat(self.patch_embed(read, text.to(kind), layout.clips[0].grid), dim=1)
        times = sinusoid(
            timestep.expand(len(latents)), config.width, config.flip_sin_to_cos, config.freq_shift
        )
        temb = F.silu(self.time_embedding(times.to(kind)))[:, None]
        for number, block in enumerate(self.transformer_blocks):
            x = block(x, temb, rotary_emb, layout)
            video = x[:, text.shape[1] :]
            yield self.out_projectors[number](video) if self.config.out_proj_dim else video


@dataclass(frozen=True, repr=False)
class Control(Brief):
    """A ControlNet at work in a run: its encoded video, how strongly it adds, and in which share of the steps.

    ``start`` and ``stop``: shares of the steps, 0 to 1; a step of just these shares belongs to it, as published.
    """

    network: ControlNet
    video: Float[Tensor, "1 k t h w"]
    strength: float = 1.0
    start: float = 0.0
    stop: float = 1.0

    def is_active(self, step: int, steps: int) -> bool:
        """Whether it adds anything at a step (from 0) of so many."""
        return self.strength != 0 and self.start <= step / steps <= self.stop


class Controlled:
    """The blocks of a transformer with those of ControlNets beside them; stands in for ``Transformer.run_blocks``."""

    def __init__(
        self, blocks: Callable[..., Tensor], count: int, controls: Sequence[Control], steps: int
    ) -> None:
        self.blocks, self.count = blocks, count
        self.controls, self.steps = controls, steps
        self.walking: list[tuple[float, Iterator[Tensor]]] = []

    def __call__(
        self,
        x: Float[Tensor, "b n d"],
        temb: Float[Tensor, "b clips s"],
        rotary_emb: Complex[Tensor, "n 1 e_half"] | Tensor | None,
        layout: Layout,
        start: int = 0,
        stop: int | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Blocks ``start`` to before ``stop``, each followed by what the ControlNets add; a call begins at block 0."""
        if start == 0:
            self.walking = self._begun(rotary_emb)
        if not self.walking:
            return self.blocks(x, temb, rotary_emb, layout, start, stop)
        for number in range(self.count)[start:stop]:
            x = self.blocks(x, temb, rotary_emb, layout, number, number + 1)
            for strength, states in self.walking:
                if (state := next(states, None)) is not None:
                    x[:, layout.clips[0].text_len :].add_(state.to(x.dtype), alpha=strength)
        if stop is None:
            self.walking = []
        return x

    def _begun(self, rotary_emb: Tensor | None) -> list[tuple[float, Iterator[Tensor]]]:
        """The walks of the ControlNets that are active at the step of this call, none of them begun."""
        call = sampler_call()
        active = [each for each in self.controls if each.is_active(call.step, self.steps)]
        if not active:
            return []
        if call.latents is None or call.text is None or call.timestep is None:
            raise ConfigError(
                "controlnet: nobody says which latents are denoised; call it inside of answering"
            )
        asked = call.latents, call.text, call.timestep
        videos = [each.video[:, :, list(call.window)] if call.window else each.video for each in active]
        return [
            (each.strength, each.network.states(*asked, video, rotary_emb))
            for each, video in zip(active, videos, strict=True)
        ]


@contextmanager
def controlled(network: Transformer, controls: Sequence[Control], steps: int) -> Iterator[None]:
    """Inside, the blocks of ``network`` are followed by what ControlNets add, at each of so many steps.

    For inference; enter it before what skips blocks (``reuse``), which then keeps what was added too. Raises
    ConfigError for a ControlNet of another transformer.
    """
    for control in controls:
        if why := control.network.config.why_not(network.config):
            raise ConfigError(f"controlnet: {why}; use the one that was trained for this model")
    if not controls:
        yield
        return
    both = Controlled(network.run_blocks, len(network.transformer_blocks), controls, steps)
    with replacing_blocks(network, both):
        yield


def compress_time(x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 c h w"]:
    """Half as many frames: means of pairs; of an odd number the first frame stays alone."""
    single = x.shape[1] % 2
    return torch.cat([x[:, :single], x[:, single:].unflatten(1, (-1, 2)).mean(dim=2)], dim=1)

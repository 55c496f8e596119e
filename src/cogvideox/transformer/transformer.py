"""Patches in, patches out: the expert transformer (paper section 2.2) with diffusers' parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.cpu_ops import Linear, via_float32
from cogvideox.errors import ConfigError, FrameError, SizeError
from cogvideox.transformer.block import Block
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.layout import VIDEO, Layout, TokenGrid
from cogvideox.transformer.position import Rotary, Sinusoidal, learned_positions

OFS = 2.0
"""The constant that 1.5-I2V was trained with."""


class Transformer(nn.Module):
    """Predicts v from noisy latents, text and timestep; the state dict is that of diffusers' transformer."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(config)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.time_embedding = TimestepEmbedding(width, config.time_embed_dim)
        if config.ofs_embed_dim:
            self.ofs_embedding = TimestepEmbedding(config.ofs_embed_dim, config.ofs_embed_dim)
        self.transformer_blocks = nn.ModuleList(block_of(config) for _ in range(config.num_layers))
        self.norm_final = nn.LayerNorm(width, config.norm_eps, config.norm_elementwise_affine)
        self.norm_out = FinalNorm(config)
        self.proj_out = Linear(width, config.patch_values * config.out_channels)
        base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        rotary = config.position in ("rotary", "rotary+learned")
        self.rotary = _rotary(config, base) if rotary else None

    def forward(
        self,
        latents: Float[Tensor, "b c t h w"],
        text: Float[Tensor, "b l e"],
        timestep: Float[Tensor, " b"],
        ofs: Float[Tensor, 1] | None = None,
    ) -> Float[Tensor, "b out t h w"]:
        """v for a batch of clips of one size; timestep is the training timestep, 0 to 999.

        Raises SizeError, FrameError or ConfigError when the latents or the text do not fit the model.
        """
        layout = Layout.plain(text.shape[1], self.grid(latents))
        x = torch.cat(self.patch_embed(latents, text, layout.clips[0].grid), dim=1)
        temb = self.temb(timestep.expand(latents.shape[0]), ofs, latents.dtype)[:, None]
        return self.run(x, temb, layout)[0]

    def forward_packed(
        self,
        clips: Sequence[Float[Tensor, "c t h w"]],
        texts: Sequence[Float[Tensor, "l e"]],
        timesteps: Float[Tensor, " clips"],
        ofs: Float[Tensor, 1] | None = None,
    ) -> list[Float[Tensor, "out t h w"]]:
        """v for clips of any size packed in one sequence (frame pack): the numbers of each clip by itself.

        Raises ConfigError unless there are as many texts and timesteps as clips, and what ``forward`` raises.
        """
        if not len(clips) == len(texts) == len(timesteps) or not clips:
            raise ConfigError(
                f"{len(clips)} clips, {len(texts)} texts, {len(timesteps)} timesteps: a packed sequence needs "
                "one text and one timestep for each clip, and at least one clip"
            )
        grids = [self.grid(clip[None]) for clip in clips]
        layout = Layout.packed([len(text) for text in texts], grids)
        tokens = [
            modality
            for clip, text, grid in zip(clips, texts, grids, strict=True)
            for modality in self.patch_embed(clip[None], text[None], grid)
        ]
        x = torch.cat(tokens, dim=1)
        temb = self.temb(timesteps, ofs, clips[0].dtype)[None]
        return [v[0] for v in self.run(x, temb, layout)]

    def grid(self, latents: Float[Tensor, "b c t h w"]) -> TokenGrid:
        """The patches of these latents; raises SizeError or FrameError when they do not divide."""
        _, _, t, h, w = latents.shape
        patch_t, patch_h, patch_w = self.config.patch
        if h % patch_h or w % patch_w or not h or not w:
            raise SizeError(
                f"latents of {h}x{w}: patches are {patch_h}x{patch_w} latent pixels; "
                f"use multiples of {patch_h} (height and width in pixels: multiples of {8 * patch_h})"
            )
        if t % patch_t or not t:
            raise FrameError(
                f"{t} latent frames: patches are {patch_t} latent frames long; "
                f"use a multiple of {patch_t}, for example {max(patch_t, -(-t // patch_t) * patch_t)}"
            )
        return TokenGrid(t // patch_t, h // patch_h, w // patch_w)

    def temb(
        self, timesteps: Float[Tensor, " b"], ofs: Float[Tensor, 1] | None, dtype: torch.dtype
    ) -> Float[Tensor, "b s"]:
        """SiLU of the time embedding (plus that of ofs): what every modulation reads."""
        return F.silu(self.time_emb(timesteps, ofs, dtype))

    def time_emb(
        self, timesteps: Float[Tensor, " b"], ofs: Float[Tensor, 1] | None, dtype: torch.dtype
    ) -> Float[Tensor, "b s"]:
        """The time embedding, plus that of ofs where the model has one."""
        config = self.config
        flip, shift = config.flip_sin_to_cos, config.freq_shift
        emb = self.time_embedding(sinusoid(timesteps, config.width, flip, shift).to(dtype))
        if config.ofs_embed_dim:
            ofs = timesteps.new_full((1,), OFS, dtype=torch.float32) if ofs is None else ofs.reshape(-1)
            emb = emb + self.ofs_embedding(sinusoid(ofs, config.ofs_embed_dim, flip, shift).to(dtype))
        elif ofs is not None:
            raise ConfigError("ofs: this model has no ofs embedding (ofs_embed_dim null); leave ofs out")
        return emb

    def run(
        self, x: Float[Tensor, "b n d"], temb: Float[Tensor, "b clips s"], layout: Layout
    ) -> list[Float[Tensor, "b out t h w"]]:
        """All layers on an embedded sequence, and v of each of its clips."""
        x = self.embedding_dropout(x)
        rotary_emb = self.rotary.table(layout, x.device) if self.rotary else None
        x = self.run_blocks(x, temb, rotary_emb, layout)
        segments = zip(layout.segments, x.split(layout.lengths, dim=1), strict=True)
        return [self._head(tokens, temb, s.clip, layout) for s, tokens in segments if s.modality == VIDEO]

    def run_blocks(
        self,
        x: Float[Tensor, "b n d"],
        temb: Float[Tensor, "b clips s"],
        rotary_emb: Complex[Tensor, "n 1 e_half"] | None,
        layout: Layout,
        start: int = 0,
        stop: int | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Blocks ``start`` to before ``stop`` in order, by default all: the seam for skipping them (``reuse``) and for
        CUDA graphs (``compiled``)."""
        for block in list(self.transformer_blocks)[start:stop]:
            x = block(x, temb, rotary_emb, layout)
        return x

    def _head(self, x: Tensor, temb: Tensor, clip: int, layout: Layout) -> Float[Tensor, "b out t h w"]:
        x = self.norm_out(self.norm_final(x), temb[:, clip, None])
        return unpatchify(self.proj_out(x), layout.clips[clip].grid, self.config.patch)


def _rotary(config: TransformerConfig, base: tuple[int, int]) -> Rotary:
    mode, slowed = config.position_mode, None
    assert mode is not None  # the config fills it in
    if mode == "riflex":
        mode, slowed = ("slice" if config.patch_size_t else "resample"), config.riflex_frames or 0
    return Rotary(config.attention_head_dim, mode, base, config.native_patches_t, slowed)


def block_of(config: TransformerConfig) -> Block:
    """One block with the settings of a transformer."""
    return Block(
        config.width,
        config.num_attention_heads,
        config.time_embed_dim,
        experts=config.experts,
        attention=config.attention,
        attention_bias=config.attention_bias,
        norm_eps=config.norm_eps,
        norm_affine=config.norm_elementwise_affine,
        approximate="tanh" if config.activation_fn == "gelu-approximate" else "none",
        dropout=config.dropout,
    )


class PatchEmbed(nn.Module):
    """Latents and text to tokens, with the positions that are added to x."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        values = config.patch_values * config.in_channels
        if config.patch_size_t is None:
            self.proj: nn.Module = FlatPatch(
                config.in_channels, config.width, config.patch_size, bias=config.patch_bias
            )
        else:
            self.proj = Linear(values, config.width)
        self.text_proj = Linear(config.text_embed_dim, config.width)
        self.sinusoidal = Sinusoidal(
            config.width,
            config.spatial_interpolation_scale,
            config.temporal_interpolation_scale,
            self.native_grid[1:] if config.position_mode == "fun" else None,
        )
        if config.use_learned_positional_embeddings:
            tokens = config.max_text_seq_length + self.native_grid.tokens
            self.pos_embedding = nn.Parameter(torch.zeros(1, tokens, config.width))

    @property
    def native_grid(self) -> TokenGrid:
        """The patches of the size that the model was trained for."""
        config = self.config
        frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        return TokenGrid(
            frames, config.sample_height // config.patch_size, config.sample_width // config.patch_size
        )

    def forward(
        self, latents: Float[Tensor, "b c t h w"], text: Float[Tensor, "b l e"], grid: TokenGrid
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b n d"]]:
        """Text tokens and video tokens."""
        self._check(latents, text)
        text = self.text_proj(text)
        video = self.proj(patchify(latents, self.config.patch))
        if self.config.position == "sinusoidal":
            video = video + self.sinusoidal.table(grid, video.device).to(video.dtype)
        elif self.config.position == "rotary+learned":
            limit, table = self.config.max_text_seq_length, self.pos_embedding.to(video.dtype)
            for_text, for_video = learned_positions(
                table, text.shape[1], grid, self.native_grid, limit, self.sinusoidal
            )
            text, video = text + for_text, video + for_video
        return text, video

    def _check(self, latents: Tensor, text: Tensor) -> None:
        config = self.config
        if latents.shape[1] != config.in_channels:
            raise ConfigError(
                f"latents with {latents.shape[1]} channels: the model has in_channels {config.in_channels}; "
                "an image-to-video model wants noisy latents and image latents side by side"
            )
        if text.shape[-1] != config.text_embed_dim:
            raise ConfigError(
                f"text embedding of width {text.shape[-1]}: the model has text_embed_dim "
                f"{config.text_embed_dim}; use the text encoder it was trained with"
            )


class FlatPatch(nn.Conv2d):
    """The weight of a patch convolution, applied to patches that are already flat: one matrix product."""

    def __init__(self, channels: int, width: int, patch: int, bias: bool):
        super().__init__(channels, width, kernel_size=patch, stride=patch, bias=bias)

    def forward(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """Tokens from flat patches, each in the order (c, h, w)."""
        return via_float32(F.linear, patches, self.weight.flatten(1), self.bias)


class TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between, after a sinusoid."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.linear_1 = Linear(width_in, width)
        self.linear_2 = Linear(width, width)

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b s"]:
        """The embedding of a sinusoid."""
        return self.linear_2(F.silu(self.linear_1(x)))


class FinalNorm(nn.Module):
    """The last LayerNorm, shifted and scaled by the timestep."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.linear: nn.Module = Linear(config.time_embed_dim, 2 * config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps, config.norm_elementwise_affine)

    def forward(self, x: Float[Tensor, "b n d"], temb: Float[Tensor, "b 1 s"]) -> Float[Tensor, "b n d"]:
        """norm(x) · (1 + scale) + shift, for the tokens of one clip."""
        shift, scale = self.linear(temb).chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


def sinusoid(
    values: Float[Tensor, " b"], width: int, flip: bool = True, shift: float = 0
) -> Float[Tensor, "b width"]:
    """[cos | sin] (flipped) or [sin | cos] of values · 10000^(−k/(half − shift)), in float32."""
    half = width // 2
    k = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = values.float()[:, None] * torch.exp(-math.log(10000) * k / (half - shift))
    waves = (angles.cos(), angles.sin()) if flip else (angles.sin(), angles.cos())
    return torch.cat(waves, dim=-1)


def patchify(latents: Float[Tensor, "b c t h w"], patch: tuple[int, int, int]) -> Float[Tensor, "b n p"]:
    """Flat patches in (t, h, w) order, each as (c, t, h, w): the released order of the patch weights."""
    b, c, t, h, w = latents.shape
    pt, ph, pw = patch
    x = latents.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatchify(
    patches: Float[Tensor, "b n p"], grid: TokenGrid, patch: tuple[int, int, int]
) -> Float[Tensor, "b c t h w"]:
    """The inverse of ``patchify``."""
    x = patches.unflatten(1, grid).unflatten(-1, (-1, *patch))  # b t h w c pt ph pw
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)

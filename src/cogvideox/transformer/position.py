"""Positions of tokens: rotary (q and k are rotated in every layer), sinusoidal and learned (added to x once).

Tables are computed in float32 or better, from the grid alone, and cached per grid; text tokens get the
neutral element (no rotation, nothing added).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from cogvideox.errors import ConfigError, SizeError
from cogvideox.recompute import in_place, recomputable
from cogvideox.transformer.layout import Layout, TokenGrid

THETA = 10000.0
PositionMode = Literal["slice", "resample", "ntk", "fun"]


class Rotary:
    """3D rotary positions (paper section 2.2): a quarter of a head rotates with t, 3/8 with h, 3/8 with w.

    ``slice`` uses the patch indices themselves: the paper's extrapolation, and the rule of 1.5.
    ``resample`` squeezes any grid into the native one (``base`` = (h, w)): the rule of 1.0 in diffusers. ``ntk`` keeps
    the indices and slows slow channels down where a grid is larger than the native one, so that its last patch is
    as far as the native last one for the slowest channel, while fast channels stay as they were. ``fun`` squeezes as
    VideoX-Fun does, whose steps are those of the cropped region alone.

    ``frames``: patches in time of the native length. ``riflex``: whether one frequency in time is slowed (RIFLEx, see
    ``slowed_frequency``): None: not; 0: for videos that are longer than its period; else always, for so many patches.
    """

    def __init__(
        self,
        head_dim: int,
        mode: PositionMode,
        base: tuple[int, int],
        frames: int = 1,
        riflex: int | None = None,
    ):
        self.head_dim, self.mode, self.base, self.frames = head_dim, mode, base, frames
        self.riflex = riflex
        self.real = False

    def table(
        self, layout: Layout, device: torch.device
    ) -> Complex[Tensor, "n 1 e_half"] | Float[Tensor, "n 1 2 e"]:
        """The factor exp(i angle) of every token and pair of channels; with ``real`` set, as ``as_real`` has it."""
        slowed = None if self.riflex is None else (self.frames, self.riflex)
        table = _rotary_table(layout, self.head_dim, self.mode, self.base, device, slowed)
        return as_real(table) if self.real else table


@contextmanager
def riflex(rotary: Rotary) -> Iterator[None]:
    """Inside, videos longer than the period of the frequency that would repeat have it slowed (RIFLEx)."""
    before, rotary.riflex = rotary.riflex, 0
    try:
        yield
    finally:
        rotary.riflex = before


def as_real(rotary_emb: Complex[Tensor, "n 1 e_half"]) -> Float[Tensor, "n 1 2 e"]:
    """Cosine and sine of each factor, for both channels of its pair, the sine of the first negated: what compiled code
    reads channel by channel, in the pass that normalises."""
    cos, sin = rotary_emb.real, rotary_emb.imag
    return torch.stack([cos, cos, -sin, sin], dim=-1).unflatten(-1, (2, 2)).transpose(2, 3).flatten(3)


@recomputable
def apply_rotary_emb(
    x: Float[Tensor, "b n k e"],
    rotary_emb: Complex[Tensor, "n 1 e_half"] | Float[Tensor, "n 1 2 e"] | None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "b n k e"]:
    """``x`` with neighbouring channels rotated as complex numbers, x · exp(i angle), in float32; cast to ``dtype``.

    ``rotary_emb``: the factors of ``Rotary.table``, complex or real; None rotates nothing. Without gradients ``x`` may
    be written over.
    """
    dtype = dtype or x.dtype
    if rotary_emb is None:
        return x.to(dtype)
    if not rotary_emb.is_complex():
        (cos, sin), swapped = rotary_emb.unbind(2), x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return (x * cos + swapped * sin).type_as(x).to(dtype)
    if torch.compiler.is_compiling():  # compilers know no complex numbers
        (a, b), cos, sin = x.float().unflatten(-1, (-1, 2)).unbind(-1), rotary_emb.real, rotary_emb.imag
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).type_as(x).to(dtype)
    if in_place() and x.dtype == torch.float32:
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(rotary_emb)
        return x.to(dtype)
    if in_place():
        return _rotate_half_precision(x, rotary_emb).to(dtype)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary_emb).flatten(-2).type_as(x).to(dtype)


def _rotate_half_precision(
    x: Float[Tensor, "b n k e"], rotary_emb: Complex[Tensor, "n 1 e_half"]
) -> Float[Tensor, "b n k e"]:
    """The same without a copy of ``x`` in float32: x0 cos − x1 sin, x1 cos + x0 sin, widened number by number."""
    pairs, sin, out = x.unflatten(-1, (-1, 2)), rotary_emb.imag, torch.empty_like(x)
    wide = pairs * rotary_emb.real[..., None]  # float32
    torch.addcmul(wide[..., 0], pairs[..., 1], sin, value=-1, out=out[..., 0::2])
    torch.addcmul(wide[..., 1], pairs[..., 0], sin, out=out[..., 1::2])
    return out


def coordinates(
    grid: TokenGrid, mode: PositionMode, base: tuple[int, int]
) -> tuple[Float[Tensor, " t"], Float[Tensor, " h"], Float[Tensor, " w"]]:
    """The coordinate of every patch along each axis; ``base`` is the native patch grid (h, w)."""
    t = torch.arange(grid.t, dtype=torch.float32)
    if mode in ("slice", "ntk"):
        return t, torch.arange(grid.h, dtype=torch.float32), torch.arange(grid.w, dtype=torch.float32)
    top, left, height, width = crop_region(grid.h, grid.w, base)
    spread = _spread_evenly if mode == "fun" else _spread
    return t, spread(top, height, grid.h), spread(left, width, grid.w)


def crop_region(h: int, w: int, base: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the native grid that a grid of h x w patches covers, aspect ratio kept.

    Python's rounding, halves to even, is part of the released numbers.
    """
    base_h, base_w = base
    if h / w > base_h / base_w:
        height, width = base_h, round(base_h / h * w)
    else:
        height, width = round(base_w / w * h), base_w
    return round((base_h - height) / 2), round((base_w - width) / 2), height, width


def _spread(start: int, extent: int, size: int) -> Float[Tensor, " n"]:
    # as released: the last coordinate is (start + extent)·(size − 1)/size, not start + extent·(size − 1)/size
    return torch.linspace(start, (start + extent) * (size - 1) / size, size, dtype=torch.float32)


def _spread_evenly(start: int, extent: int, size: int) -> Float[Tensor, " n"]:
    return start + torch.arange(size, dtype=torch.float32) * (extent / size)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _rotary_table(
    layout: Layout,
    head_dim: int,
    mode: PositionMode,
    base: tuple[int, int],
    device: torch.device,
    slowed: tuple[int, int] | None = None,
) -> Complex[Tensor, "n 1 e_half"]:
    tables = []
    for text_len, grid in layout.clips:
        video = _rotary_table_of_grid(grid, head_dim, mode, base, slowed)
        tables += [video.new_ones(text_len, 1, head_dim // 2), video]
    return torch.cat(tables).to(device)


@lru_cache(maxsize=64)  # packed sequences differ from step to step, the sizes of their clips come again
@torch.inference_mode(False)
def _rotary_table_of_grid(
    grid: TokenGrid,
    head_dim: int,
    mode: PositionMode,
    base: tuple[int, int],
    slowed: tuple[int, int] | None = None,
) -> Complex[Tensor, "n 1 e_half"]:
    angles = _angles(grid, head_dim, mode, base, slowed)
    return torch.complex(angles.cos(), angles.sin())[:, None]


def _angles(
    grid: TokenGrid,
    head_dim: int,
    mode: PositionMode,
    base: tuple[int, int],
    slowed: tuple[int, int] | None = None,
) -> Float[Tensor, "n e_half"]:
    axes = coordinates(grid, mode, base)
    dims = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    stretch = (
        (1.0, max(1.0, grid.h / base[0]), max(1.0, grid.w / base[1])) if mode == "ntk" else (1.0, 1.0, 1.0)
    )
    frequencies = [_frequencies(dim, s) for dim, s in zip(dims, stretch, strict=True)]
    if slowed is not None:
        trained, spanned = slowed
        frequencies[0] = slowed_frequency(frequencies[0], trained, spanned or grid.t, always=spanned > 0)
    t, h, w = (torch.outer(p, each) for p, each in zip(axes, frequencies, strict=True))
    angles = (
        t[:, None, None].expand(*grid, -1),
        h[None, :, None].expand(*grid, -1),
        w[None, None].expand(*grid, -1),
    )
    return torch.cat(angles, -1).flatten(0, 2)


def _frequencies(dim: int, stretch: float = 1.0) -> Float[Tensor, " half"]:
    """THETA^(-2k / dim); with a stretch the last is that much slower and the first unchanged (NTK-aware scaling)."""
    theta = THETA * stretch ** (dim / (dim - 2)) if stretch > 1 else THETA
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def slowed_frequency(
    frequencies: Float[Tensor, " half"], trained: int, spanned: int, always: bool = False
) -> Float[Tensor, " half"]:
    """RIFLEx (arXiv 2502.15894): the frequency that makes a long video repeat, slowed to 0.9 periods in ``spanned``.

    That is the fastest one with a period of at least the ``trained`` patches: the second of the released models, of
    19.87 latent frames. A video that is no longer than the period has no need of it and is left alone, unless
    ``always``.
    """
    index = _repeating(frequencies, trained)
    if not always and spanned <= _period(frequencies, trained):
        return frequencies
    slower = frequencies.clone()
    slower[index] = 0.9 * 2 * math.pi / spanned
    return slower


def repeats_after(head_dim: int, trained: int) -> int:
    """The patches in time after which rotary positions of such heads repeat, rounded up: 20 of the released models."""
    return _period(_frequencies(head_dim // 4), trained)


def _repeating(frequencies: Float[Tensor, " half"], trained: int) -> int:
    """Which frequency in time makes a video repeat, from 0."""
    periods = (2 * math.pi / frequencies.double()).tolist()
    return next((index for index, period in enumerate(periods) if period >= trained), len(periods) - 1)


def _period(frequencies: Float[Tensor, " half"], trained: int) -> int:
    return math.ceil(2 * math.pi / float(frequencies[_repeating(frequencies, trained)]))


class Sinusoidal:
    """3D sine and cosine positions, added to x: a quarter of the width for t, 3/8 for w, 3/8 for h.

    ``resized_from``: the patches (h, w) of a native table that is resized to those of a clip (VideoX-Fun's 2B); None:
    every patch has the positions of its own indices.
    """

    def __init__(
        self,
        width: int,
        spatial_scale: float,
        temporal_scale: float,
        resized_from: tuple[int, int] | None = None,
    ):
        self.width, self.spatial_scale, self.temporal_scale = width, spatial_scale, temporal_scale
        self.resized_from = resized_from

    def table(self, grid: TokenGrid, device: torch.device | None = None) -> Float[Tensor, "n d"]:
        """What is added to the video tokens of one clip."""
        device = device or torch.device("cpu")
        settings = self.width, self.spatial_scale, self.temporal_scale
        if self.resized_from is None or self.resized_from == (grid.h, grid.w):
            return _sinusoidal(grid, *settings, device)
        return _resized_sinusoidal(grid, TokenGrid(grid.t, *self.resized_from), *settings, device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _resized_sinusoidal(
    grid: TokenGrid,
    native: TokenGrid,
    width: int,
    spatial: float,
    temporal: float,
    device: torch.device,
) -> Float[Tensor, "n d"]:
    """The table of the ``native`` grid, resized linearly in space."""
    table = _sinusoidal(native, width, spatial, temporal, torch.device("cpu")).unflatten(0, tuple(native))
    resized = F.interpolate(table.movedim(-1, 1), (grid.h, grid.w), mode="bilinear", align_corners=False)
    return resized.movedim(1, -1).flatten(0, 2).to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _sinusoidal(
    grid: TokenGrid, width: int, spatial: float, temporal: float, device: torch.device
) -> Float[Tensor, "n d"]:
    t = _sin_cos(torch.arange(grid.t) / temporal, width // 4)[:, None, None]
    h = _sin_cos(torch.arange(grid.h) / spatial, width // 8 * 3)[None, :, None]
    w = _sin_cos(torch.arange(grid.w) / spatial, width // 8 * 3)[None, None]
    # the trap: width comes before height here, while rotary positions go t, h, w
    table = torch.cat([axis.expand(*grid, -1) for axis in (t, w, h)], -1)
    return table.flatten(0, 2).float().to(device)


def _sin_cos(positions: Float[Tensor, " n"], width: int) -> Float[Tensor, "n width"]:
    omega = THETA ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.outer(positions.double(), omega)
    return torch.cat([angles.sin(), angles.cos()], -1)


def learned_positions(
    table: Float[Tensor, "1 m d"],
    text_len: int,
    grid: TokenGrid,
    native: TokenGrid,
    max_text_len: int,
    fallback: Sinusoidal,
) -> tuple[Float[Tensor, "l d"], Float[Tensor, "n d"]]:
    """The entries of a learned table for the text and for the video of one clip (5B-I2V).

    Raises SizeError for another height or width than the table's, ConfigError for more text tokens than it has.
    Another number of frames falls back to sinusoidal positions, as diffusers does, with a warning.
    """
    if (grid.h, grid.w) != (native.h, native.w):
        raise SizeError(
            f"latent patches {grid.h}x{grid.w}: the learned positions are for {native.h}x{native.w} only; "
            "use that size, or a model without learned positions"
        )
    if text_len > max_text_len:
        raise ConfigError(
            f"text of {text_len} tokens: the learned positions have {max_text_len} for text; shorten it"
        )
    if grid.t == native.t:
        return table[0, :text_len], table[0, max_text_len:]
    warnings.warn(
        f"{grid.t} latent frames: the learned positions have {native.t}; sinusoidal ones are used instead",
        stacklevel=2,
    )
    video = fallback.table(grid, table.device).to(table.dtype)
    return video.new_zeros(text_len, video.shape[1]), video


def forget_tables() -> None:
    """Empty the caches: before and after work on tensors without memory, which must not meet real ones there."""
    for cached in (_rotary_table, _rotary_table_of_grid, _sinusoidal, _resized_sinusoidal):
        cached.cache_clear()

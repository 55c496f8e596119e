"""Code pictures larger than memory: tile by tile, with overlaps that are blended (the released numerics).

Every tile is a video of its own, with its own statistics and past, so tiled and untiled differ a little.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.vae.config import Side, Tiles
from cogvideox.vae.vae import VAE, Gaussian


def encode_tiled(vae: VAE, pixels: Float[Tensor, "b c f h w"], tiles: Tiles | None = None) -> Gaussian:
    """``vae.encode`` tile by tile; the same as ``vae.encode`` when the picture is no larger than a tile.

    Raises SizeError when the tiles' pixel and latent strides disagree.
    """
    grid = (tiles or Tiles.usual(vae.config)).grid(vae.config)
    if pixels.shape[3] <= grid.height.pixels and pixels.shape[4] <= grid.width.pixels:
        return vae.encode(pixels)

    def code(tile: Tensor) -> Tensor:
        latents = vae.encode(tile)
        return torch.cat([latents.mean, latents.logvar], dim=1)

    return Gaussian(*_tiled(code, pixels, _encoding(grid.height), _encoding(grid.width)).chunk(2, dim=1))


def decode_tiled(
    vae: VAE, latents: Float[Tensor, "b c t h w"], tiles: Tiles | None = None
) -> Float[Tensor, "b c f h w"]:
    """``vae.decode`` tile by tile; the same as ``vae.decode`` when the picture is no larger than a tile.

    Raises SizeError when the tiles' pixel and latent strides disagree.
    """
    grid = (tiles or Tiles.usual(vae.config)).grid(vae.config)
    if latents.shape[3] <= grid.height.latents and latents.shape[4] <= grid.width.latents:
        return vae.decode(latents)
    return _tiled(vae.decode, latents, _decoding(grid.height), _decoding(grid.width))


def _encoding(side: Side) -> tuple[int, int, int, int]:
    return side.pixels, side.pixel_stride, side.latents - side.latent_blend, side.latent_blend


def _decoding(side: Side) -> tuple[int, int, int, int]:
    return side.latents, side.latent_stride, side.pixels - side.pixel_blend, side.pixel_blend


def _tiled(
    code: Callable[[Tensor], Tensor], x: Tensor, height: tuple[int, ...], width: tuple[int, ...]
) -> Tensor:
    """Raster order: blend with the tile above, then the one to the left (both blended); crop; join."""
    (tall, down, keep_h, blend_h), (wide, right, keep_w, blend_w) = height, width
    above: list[Tensor] = []
    strips = []
    for i in range(0, x.shape[3], down):
        row: list[Tensor] = []
        for j in range(0, x.shape[4], right):
            tile = code(x[:, :, :, i : i + tall, j : j + wide])
            if above:
                tile = blend(above[len(row)], tile, blend_h, dim=3)
            if row:
                tile = blend(row[-1], tile, blend_w, dim=4)
            row.append(tile)
        strips.append(torch.cat([tile[:, :, :, :keep_h, :keep_w] for tile in row], dim=4))
        above = row
    return torch.cat(strips, dim=3)


def blend(before: Tensor, after: Tensor, extent: int, dim: int) -> Tensor:
    """``after`` with its first ``extent`` lines along ``dim`` faded in from the last lines of ``before``."""
    extent = min(before.shape[dim], after.shape[dim], extent)
    if not extent:
        return after
    fade = torch.arange(extent, device=after.device, dtype=torch.float32) / extent
    fade = fade.view([extent if i == dim else 1 for i in range(after.ndim)])
    old = before.narrow(dim, before.shape[dim] - extent, extent)
    mixed = (old * (1 - fade) + after.narrow(dim, 0, extent) * fade).to(after.dtype)
    return torch.cat([mixed, after.narrow(dim, extent, after.shape[dim] - extent)], dim=dim)

"""Noise that moves with a video: Go-with-the-Flow (Burgert et al. 2025), as the second pass of Netflix VOID uses it.

Noise lives on a grid finer than the frames, and each point of it has a weight: how much noise has gathered there. From
one frame to the next it is carried along the optical flow. Where points gather, their noise is added; where a picture
grows, one point's noise is shared by several and made independent again, so that every frame alone is normal noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cogvideox.errors import SizeError


@dataclass(frozen=True)
class NoiseGrid:
    """Noise [c, h, w], and the weight of each point [1, h, w]."""

    noise: Float[Tensor, "c h w"]
    weight: Float[Tensor, "1 h w"]

    @classmethod
    def fresh(cls, channels: int, height: int, width: int, generator: torch.Generator) -> NoiseGrid:
        """Independent normal noise, every point of weight 1."""
        noise = torch.randn(channels, height, width, generator=generator)
        return cls(noise, torch.ones(1, height, width))

    def warped(self, flow: Float[Tensor, "2 h w"], generator: torch.Generator) -> NoiseGrid:
        """The grid carried along ``flow``, points right and down from the frame before to this one.

        Fresh noise fills what nothing moves to.
        """
        _, h, w = self.noise.shape
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        here, nowhere = y * w + x, h * w
        # looked up backwards: where a picture grows, one point is the source of several
        sx, sy = (x - flow[0]).round().long(), (y - flow[1]).round().long()
        known = (sx >= 0) & (sx < w) & (sy >= 0) & (sy < h)
        source = torch.where(known, sy * w + sx, nowhere)
        # sent forwards: where it shrinks, several points meet
        tx, ty = (x + flow[0]).round().long(), (y + flow[1]).round().long()
        stays = (tx >= 0) & (tx < w) & (ty >= 0) & (ty < h)
        target = torch.where(stays, ty * w + tx, here).flatten()
        hit = torch.zeros(h * w, dtype=torch.bool)
        hit[target] = True
        origin = torch.stack(
            (torch.where(hit.view(h, w), nowhere, source), torch.where(stays, here, nowhere))
        )
        noise, shares = regaussianised(_at(self.noise, origin, 0.0), origin, generator)
        weight = _at(self.weight, origin, 1.0) / shares[:, None]
        gathered, total = _gathered(noise[1], weight[1], target)
        where = hit.view(1, h, w)
        moved, weight = torch.where(where, gathered, noise[0]), torch.where(where, total, weight[0])
        return NoiseGrid(moved, (weight / weight.mean() + 1e-5) ** 0.9999)

    def pooled(self, factor: int) -> Float[Tensor, "c h2 w2"]:
        """The noise of squares of ``factor`` points, of variance 1 where their points are independent."""
        return F.avg_pool2d(self.noise[None], factor)[0] * factor


def regaussianised(
    noise: Float[Tensor, "n c h w"], origin: Int[Tensor, "n h w"], generator: torch.Generator
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n h w"]]:
    """Noise in which points of one ``origin``, which hold the same value, are independent again; and how many they are.

    A value of c points becomes value / sqrt(c) at each, plus fresh noise less its mean over them: each point is normal
    of variance 1, and their sum is sqrt(c) times the value. (The published program finds such points by equal values.)
    """
    flat = origin.flatten()
    counts = torch.bincount(flat).to(noise)
    shares = counts[flat].view(origin.shape)
    mixed = noise / shares[:, None].sqrt()
    for channel in range(noise.shape[1]):  # one at a time: a grid holds many points
        fresh = torch.randn(flat.shape, generator=generator).to(noise)
        sums = torch.zeros_like(counts).index_add_(0, flat, fresh)
        mixed[:, channel] += (fresh - (sums / counts)[flat]).view(origin.shape)
    return mixed, shares


def warped_noise(
    flows: Iterable[Float[Tensor, "2 h w"]],
    channels: int,
    height: int,
    width: int,
    factor: int,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, "c h w"]]:
    """Noise of one more frame than ``flows``, [channels, height, width] each, that moves as they say.

    ``flows``: between neighbouring frames, on the grid of ``factor`` points a side for each value. The first frame is
    plain noise. Raises SizeError for flows of another size.
    """
    grid = NoiseGrid.fresh(channels, height * factor, width * factor, generator)
    yield grid.pooled(factor)
    for flow in flows:
        if tuple(flow.shape) != (2, height * factor, width * factor):
            raise SizeError(
                f"flow of {list(flow.shape)}: noise of {height}x{width} with {factor} points a side needs "
                f"{[2, height * factor, width * factor]}"
            )
        grid = grid.warped(flow, generator)
        yield grid.pooled(factor)


def _at(
    values: Float[Tensor, "c h w"], origin: Int[Tensor, "n h w"], nowhere: float
) -> Float[Tensor, "n c h w"]:
    """Values of the points of ``origin``; ``nowhere`` for those behind the last point."""
    extended = torch.cat([values.flatten(1), values.new_full((len(values), 1), nowhere)], 1)
    return extended[:, origin].transpose(0, 1)


def _gathered(
    noise: Float[Tensor, "c h w"], weight: Float[Tensor, "1 h w"], target: Int[Tensor, " points"]
) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "1 h w"]]:
    """The noise that arrives at each point, and its weight: the sum of noise · weight over the root of its squares."""
    c, h, w = noise.shape
    flat, weights = noise.flatten(1), weight.flatten(1)
    arrived = torch.zeros(c, h * w).index_add_(1, target, flat * weights)
    squares = torch.zeros(1, h * w).index_add_(1, target, weights**2)
    total = torch.zeros(1, h * w).index_add_(1, target, weights)
    return (arrived / squares.sqrt().clamp(min=1e-12)).view(c, h, w), total.view(1, h, w)

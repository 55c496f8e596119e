"""Noise that moves with a video: Go-with-the-Flow (Burgert et al. 2025), as the second pass of Netflix VOID uses it.

Noise lives on a grid finer than the frames, and each point of it has a weight: how much noise has gathered there. From
one frame to the next it is carried along the optical flow. Where points gather, their noise is added; where a picture
grows, one point's noise is shared by several and made independent again, so that every frame alone is normal noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cogvideox.errors import SizeError


@dataclass(frozen=True)
class NoiseGrid:
    """Noise [c, h, w], the weight of each point and its place within a point, each [1, h, w]."""

    noise: Float[Tensor, "c h w"]
    weight: Float[Tensor, "1 h w"]
    dx: Float[Tensor, "1 h w"]
    dy: Float[Tensor, "1 h w"]

    @classmethod
    def fresh(cls, channels: int, height: int, width: int, generator: torch.Generator) -> NoiseGrid:
        """Independent normal noise, every point of weight 1."""
        noise = torch.randn(channels, height, width, generator=generator)
        zero = torch.zeros(1, height, width)
        return cls(noise, zero + 1, zero, zero.clone())

    def warped(self, flow: Float[Tensor, "2 h w"], generator: torch.Generator) -> NoiseGrid:
        """The grid carried along ``flow``, points right and down from the frame before to this one.

        Fresh noise fills what nothing moves to.
        """
        _, h, w = self.noise.shape
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grown, came = self._grown(flow, x, y)
        tx, ty = (x + self.dx[0] + flow[0]).round().long(), (y + self.dy[0] + flow[1]).round().long()
        inside = (tx >= 0) & (tx < w) & (ty >= 0) & (ty < h)
        target = torch.where(inside, ty * w + tx, y * w + x).flatten()
        shrunk = torch.where(inside, self.noise, 0.0)
        weight = torch.where(inside, self.weight, 1.0)
        hit = torch.zeros(h * w, dtype=torch.bool)
        hit[target] = True
        hit = hit.view(1, h, w)
        both = torch.stack((torch.where(hit, 0.0, grown), shrunk))
        weights = torch.stack((torch.where(hit, 1.0, came), weight))
        both, shares = regaussianised(both, generator)
        weights = weights / shares
        gathered, total = _gathered(both[1], weights[1], target)
        noise, weight = torch.where(hit, gathered, both[0]), torch.where(hit, total, weights[0])
        weight = (weight / weight.mean() + 1e-5) ** 0.9999
        zero = torch.zeros_like(weight)
        return NoiseGrid(noise, weight, zero, zero.clone())

    def pooled(self, factor: int) -> Float[Tensor, "c h2 w2"]:
        """The noise of squares of ``factor`` points, of variance 1 where their points are independent."""
        return F.avg_pool2d(self.noise[None], factor)[0] * factor

    def _grown(
        self, flow: Float[Tensor, "2 h w"], x: Int[Tensor, "h w"], y: Int[Tensor, "h w"]
    ) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "1 h w"]]:
        """Where a point comes from, looked up backwards: its noise and its weight; 0 and 1 from outside."""
        _, h, w = self.noise.shape
        sx, sy = (x - flow[0]).round().long(), (y - flow[1]).round().long()
        inside = (sx >= 0) & (sx < w) & (sy >= 0) & (sy < h)
        at = (sy.clamp(0, h - 1) * w + sx.clamp(0, w - 1)).flatten()
        noise = self.noise.flatten(1)[:, at].view_as(self.noise)
        weight = self.weight.flatten(1)[:, at].view_as(self.weight)
        return torch.where(inside, noise, 0.0), torch.where(inside, weight, 1.0)


def regaussianised(
    noise: Float[Tensor, "n c h w"], generator: torch.Generator
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 1 h w"]]:
    """Noise in which points that hold the same value are independent again, and how many share each value.

    A value of c points becomes value / sqrt(c) at each, plus fresh noise less its mean over them: each point is normal
    of variance 1, and their sum is sqrt(c) times the value.
    """
    n, c, h, w = noise.shape
    flat = noise.permute(1, 0, 2, 3).reshape(c, -1)
    _, group, counts = torch.unique(flat[0], return_inverse=True, return_counts=True)
    size = counts[group].to(flat)
    fresh = torch.randn(flat.shape, generator=generator)
    sums = torch.zeros(c, len(counts)).index_add_(1, group, fresh)
    mixed = flat / size.sqrt() + fresh - (sums / counts)[:, group]
    return mixed.view(c, n, h, w).permute(1, 0, 2, 3), size.view(1, n, h, w).permute(1, 0, 2, 3)


def warped_noise(
    flows: Sequence[Float[Tensor, "2 h w"]],
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

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
        ).flatten(1)
        counts = torch.bincount(origin.flatten(), minlength=nowhere + 1).to(self.noise)
        weight = torch.cat((self.weight.flatten(), self.weight.new_ones(1)))[origin] / counts[origin]
        grown, sent = (~hit).nonzero().flatten(), (counts[origin[1]] > 1).nonzero().flatten()
        moved, noise = torch.zeros(len(self.noise), h * w), self.noise.flatten(1).clone()
        members = torch.cat((origin[0, grown], origin[1, sent]))
        for channel, values in enumerate(shared_noise(self.noise.flatten(1), members, counts, generator)):
            moved[channel, grown], noise[channel, sent] = values.split((len(grown), len(sent)))
        gathered, total = _gathered(noise, weight[1], target)
        moved, weight = torch.where(hit, gathered, moved), torch.where(hit, total, weight[0])
        weight = (weight / weight.mean() + 1e-5) ** 0.9999
        return NoiseGrid(moved.view_as(self.noise), weight.view_as(self.weight))

    def pooled(self, factor: int) -> Float[Tensor, "c h2 w2"]:
        """The noise of squares of ``factor`` points, of variance 1 where their points are independent."""
        return F.avg_pool2d(self.noise[None], factor)[0] * factor


def shared_noise(
    noise: Float[Tensor, "c points"],
    origin: Int[Tensor, " members"],
    counts: Float[Tensor, " origins"],
    generator: torch.Generator,
) -> Iterator[Float[Tensor, " members"]]:
    """The noise of points that come from one ``origin`` each, made independent of each other; channel by channel.

    A value of c points (``counts``) becomes value / sqrt(c) at each, plus fresh noise less its mean over them: each
    point is normal of variance 1, and their sum is sqrt(c) times the value. What comes from behind the last point is
    fresh. (The published program finds points of one origin by equal values.)
    """
    known = origin < noise.shape[1]
    root, size = counts[origin].sqrt(), counts[origin]
    for values in noise:
        fresh = torch.randn(len(origin), generator=generator)
        sums = torch.zeros_like(counts).index_add_(0, origin, fresh)
        kept = torch.cat((values, values.new_zeros(1)))[origin] / root
        yield torch.where(known, kept + fresh - sums[origin] / size, fresh)


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


def _gathered(
    noise: Float[Tensor, "c points"], weight: Float[Tensor, " points"], target: Int[Tensor, " points"]
) -> tuple[Float[Tensor, "c points"], Float[Tensor, " points"]]:
    """The noise that arrives at each point, and its weight: the sum of noise · weight over the root of its squares."""
    arrived = torch.zeros_like(noise).index_add_(1, target, noise * weight)
    squares = torch.zeros_like(weight).index_add_(0, target, weight**2)
    total = torch.zeros_like(weight).index_add_(0, target, weight)
    return arrived / squares.sqrt().clamp(min=1e-12), total

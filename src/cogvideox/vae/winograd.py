"""Wide 3x3x3 convolutions with less than half of the multiplications, on a CPU.

Winograd's F(2, 3) makes two neighbouring outputs of a 3-tap filter of four products, where six are usual: sums of
inputs meet sums of taps, and the outputs are sums of the products (Lavin and Gray 2015, arXiv 1509.09308). Here it is
applied along time and along height: 12 products for an output and a pair of channels instead of 27. Width stays
as it is, so that every sum runs over whole rows. What is left are matrix products, which a CPU computes at its peak.

Numbers change by rounding only; sums are shorter, and closer to the exact result than those of a direct convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.cpu_ops import conv3d

LEAST_CHANNELS = 128  # below, the sums cost what the products save
LEAST_POSITIONS = 4  # outputs of a channel per channel: with fewer, weights are what is worked on
WORKSPACE = 2**22  # elements of transformed input at a time: it is read while it is in cache


def is_faster(weight: Float[Tensor, "d c kt kh kw"], positions: int) -> bool:
    """Whether float32 convolutions with ``weight`` on a CPU are faster by ``Winograd``, for so many outputs a channel.

    Only without gradients: the sums are written in place.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    channels = weight.shape[:2]
    wide = min(channels) >= LEAST_CHANNELS and positions >= LEAST_POSITIONS * max(channels)
    return weight.is_cpu and wide and tuple(weight.shape[3:]) == (3, 3)


class Winograd:
    """A convolution of 1, 2 or 3 x 3 x 3 taps, its weights transformed once.

    Height and width are padded with zeros, time is not: [b, c, t + taps - 1, h, w] -> [b, d, t, h, w].
    """

    def __init__(self, weight: Float[Tensor, "d c kt 3 3"]) -> None:
        self.plain, self.taps = weight, weight.shape[2]
        self.frames = min(self.taps, 2)  # made at a time
        by_tap = weight.permute(2, 3, 4, 0, 1).contiguous()  # kt kh kw d c
        over_time = torch.stack(_of_taps(by_tap.unbind(0)))
        over_rows = torch.stack(_of_taps(over_time.unbind(1)), dim=1)
        self.weight = over_rows.flatten(0, 1)  # positions kw d c

    def __call__(
        self, x: Float[Tensor, "b c tin h w"], bias: Float[Tensor, " d"] | None
    ) -> Float[Tensor, "b d t h w"]:
        """The convolution; of an odd number of frames the last is computed directly."""
        count = x.shape[2] - self.taps + 1
        out = x.new_empty(len(x), self.weight.shape[2], count, *x.shape[3:])
        scratch = _Scratch.like(out, self.weight)
        for clip, made in zip(x, out, strict=True):
            for t in range(0, count - self.frames + 1, self.frames):
                stop = t + self.frames
                self._convolve(clip[:, t : stop + self.taps - 1], bias, made[:, t:stop], scratch)
        if count % self.frames:
            out[:, :, -1:] = conv3d(x[:, :, -self.taps :], self.plain, bias, padding=(0, 1, 1))
        return out

    def _convolve(
        self,
        x: Float[Tensor, "c tin h w"],
        bias: Tensor | None,
        out: Float[Tensor, "d t h w"],
        scratch: _Scratch,
    ) -> None:
        """One or two output frames, a few rows at a time."""
        for top in range(0, x.shape[2], scratch.height):
            scratch.read(x, top)
            scratch.multiply(self.weight, bias, int(self.taps > 1))
            scratch.write(out, top)


@dataclass
class _Scratch:
    """Memory for some rows on their way: summed over time, summed over rows too, multiplied, summed over rows again."""

    over_time: Float[Tensor, "p c r2 w2"]  # two rows and two columns more than are made: the borders
    inputs: Float[Tensor, "p 4 c r w2"]  # r: pairs of rows
    products: Float[Tensor, "p 4 d r w2"]
    pairs: Float[Tensor, "p d r2 w2"]

    @classmethod
    def like(cls, out: Float[Tensor, "b d t h w"], weight: Float[Tensor, "p4 3 d c"]) -> _Scratch:
        """For outputs like ``out`` by these weights."""
        (positions, _, d, c), (h, w) = weight.shape, out.shape[3:]
        most = max(1, WORKSPACE // (positions * c * (w + 2)))
        pairs = -(-h // 2)
        pairs = -(-pairs // -(-pairs // most))
        p = positions // 4
        return cls(
            out.new_zeros(p, c, 2 * pairs + 2, w + 2),
            out.new_empty(p, 4, c, pairs, w + 2),
            out.new_empty(p, 4, d, pairs, w + 2),
            out.new_empty(p, d, 2 * pairs, w + 2),
        )

    @property
    def height(self) -> int:
        """Rows made at a time."""
        return self.pairs.shape[2]

    def read(self, x: Float[Tensor, "c tin h w"], top: int) -> None:
        """Sums of frames and of rows; beyond the borders are zeros."""
        first, stop = max(top - 1, 0), min(top + self.height + 1, x.shape[2])
        inside = self.over_time[:, :, first - top + 1 : stop - top + 1]
        self.over_time[:, :, : first - top + 1] = 0
        self.over_time[:, :, stop - top + 1 :] = 0
        _of_inputs(x[:, :, first:stop].unbind(1), inside[..., 1:-1].unbind(0))
        rows = [self.over_time[:, :, i : i + self.height - 1 : 2] for i in range(4)]
        _of_inputs(rows, self.inputs.unbind(1))

    def multiply(self, weight: Float[Tensor, "p4 3 d c"], bias: Tensor | None, one: int) -> None:
        """The taps along the width: one matrix product each, of rows read one number further on.

        The bias goes to the products that every output contains once: number ``one`` over time, 1 over rows.
        """
        inputs = self.inputs.flatten(0, 1).flatten(2)
        columns = inputs.shape[2] - 2  # the last two would read on: they lie outside of the picture
        products = self.products.flatten(0, 1).flatten(2)[:, :, :columns]
        torch.bmm(weight[:, 0], inputs[:, :, :columns], out=products)
        for tap in (1, 2):
            products.baddbmm_(weight[:, tap], inputs[:, :, tap : tap + columns])
        if bias is not None:
            products[4 * one + 1] += bias[:, None]

    def write(self, out: Float[Tensor, "d t h w"], top: int) -> None:
        """Sums of products over rows, then over time, into their place."""
        _of_products(self.products.unbind(1), [self.pairs[:, :, 0::2], self.pairs[:, :, 1::2]])
        rows = min(self.height, out.shape[2] - top)
        _of_products(self.pairs[:, :, :rows, :-2].unbind(0), out[:, :, top : top + rows].unbind(1))


def _of_taps(taps: Sequence[Tensor]) -> list[Tensor]:
    """What the sums of inputs are multiplied by: F(2, 3), F(2, 2), or a single tap as it is."""
    if len(taps) == 1:
        return [*taps]
    if len(taps) == 2:
        return [taps[0], taps[0] + taps[1], taps[1]]
    first, middle, last = taps
    outer, inner = (first + last) / 2, middle / 2
    return [first, outer + inner, outer - inner, last]


def _of_inputs(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """The sums of neighbouring inputs that are multiplied, for as many taps as there are sums less one."""
    if len(x) == 1:
        out[0].copy_(x[0])
    elif len(x) == 3:
        torch.sub(x[0], x[1], out=out[0])
        out[1].copy_(x[1])
        torch.sub(x[2], x[1], out=out[2])
    else:
        torch.sub(x[0], x[2], out=out[0])
        torch.add(x[1], x[2], out=out[1])
        torch.sub(x[2], x[1], out=out[2])
        torch.sub(x[1], x[3], out=out[3])


def _of_products(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Two neighbouring outputs as sums of products; of one product the one output."""
    if len(m) == 1:
        out[0].copy_(m[0])
    elif len(m) == 3:
        torch.add(m[0], m[1], out=out[0])
        torch.add(m[1], m[2], out=out[1])
    else:
        torch.add(m[0], m[1], out=out[0]).add_(m[2])
        torch.sub(m[1], m[2], out=out[1]).sub_(m[3])

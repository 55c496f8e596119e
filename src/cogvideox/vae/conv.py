"""Convolutions of the video autoencoder: causal in time, and per frame where space changes size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.vae.past import Past, StartOfVideo

MOST_ELEMENTS = 2**30  # larger inputs are convolved in pieces of time: 32-bit indexing ends at 2**31


class CausalConv3d(nn.Module):
    """A convolution whose output frame t sees input frames <= t; the ``Past`` says what precedes them.

    Space is padded with zeros, time never behind. The weights live in ``.conv`` (the released names).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, time_kernel: int = 3) -> None:
        super().__init__()
        pad = (0, kernel // 2, kernel // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, (time_kernel, kernel, kernel), padding=pad)

    def forward(self, x: Float[Tensor, "b c t h w"], past: Past) -> Float[Tensor, "b d t h w"]:
        before = self.conv.kernel_size[0] - 1
        if before and x.shape[2] == 1 and type(past) is StartOfVideo:
            return self._still(x)
        if before:
            x = torch.cat([past.before(self, x, before), x], dim=2)  # [b, c, before + t, h, w]
        if x.numel() <= MOST_ELEMENTS:
            return self.conv(x)
        return _in_pieces(self.conv, x, before)

    def _still(self, x: Float[Tensor, "b c 1 h w"]) -> Float[Tensor, "b d 1 h w"]:
        """An image: all frames under the kernel are equal, so its time taps add up, at a third of the price."""
        weight = self.conv.weight.sum(2)
        return F.conv2d(x[:, :, 0], weight, self.conv.bias, padding=self.conv.padding[1:])[:, :, None]


class Downsample(nn.Module):
    """Half the height and width, and with ``compress_time`` half the frames (mean of pairs).

    An odd number of frames keeps its first frame as it is; so does a single frame:
    [b, c, t, h, w] -> [b, c, ceil(t/2), h/2, w/2].
    """

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.compress_time = compress_time

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        if self.compress_time:
            x = _mean_of_pairs(x)
        return per_frame(self.conv, F.pad(x, (0, 1, 0, 1)))  # zeros to the right and below only


class Upsample(nn.Module):
    """Twice the height and width (nearest), and with ``compress_time`` twice the frames (each shown twice).

    An odd number of frames shows its first frame once: [b, c, t, h, w] -> [b, c, 2t-1 or 2t, 2h, 2w].
    """

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.compress_time = compress_time

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        b, c, t, h, w = x.shape
        x = x[..., :, None, :, None].expand(b, c, t, h, 2, w, 2).reshape(b, c, t, 2 * h, 2 * w)
        x = per_frame(self.conv, x)
        # Equal frames have equal convolutions: repeat them after, not before.
        return _each_twice(x) if self.compress_time and t > 1 else x


def per_frame(conv: nn.Conv2d, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h2 w2"]:
    """Apply an image convolution to every frame, without changing the layout."""
    stride, padding = (1, *conv.stride), (0, *conv.padding)
    return F.conv3d(x, conv.weight.unsqueeze(2), conv.bias, stride, padding)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x); writes over ``x`` when nobody needs gradients."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _mean_of_pairs(x: Tensor) -> Tensor:
    t = x.shape[2]
    if t == 1:
        return x
    odd = t % 2
    pairs = (x[:, :, odd::2] + x[:, :, odd + 1 :: 2]) * 0.5
    return torch.cat([x[:, :, :1], pairs], dim=2) if odd else pairs


def _each_twice(x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    twice = x[:, :, :, None].expand(b, c, t, 2, h, w).reshape(b, c, 2 * t, h, w)
    return twice[:, :, 1:] if t % 2 else twice


def _in_pieces(conv: nn.Conv3d, x: Tensor, before: int) -> Tensor:
    frames = x.shape[2] - before
    pieces = -(-x.numel() // MOST_ELEMENTS)
    length = -(-frames // min(pieces, frames))
    return torch.cat([conv(x[:, :, i : i + length + before]) for i in range(0, frames, length)], dim=2)

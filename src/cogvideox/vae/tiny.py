"""A tiny autoencoder for latents of this family (taecvx, by the layout of TAEHV): pictures in a hundredth of the time.

All its convolutions are of one frame. Time enters through blocks that see what they were given for the frame before
(``MemoryBlock``), through frames joined in pairs (``TimePool``) and through frames made of one (``TimeGrow``). So it
can run over all frames at once, or frame by frame in constant memory, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
DROPPED = 3
"""Frames before the first one that an odd number of latents is decoded to."""


class MemoryBlock(nn.Module):
    """ReLU(convolutions of (x, what came a frame before) + x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(
        self, x: Float[Tensor, "n c h w"], past: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """``past``: what this block was given for the frame before, zeros at the first one."""
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class TimePool(nn.Module):
    """``stride`` frames in a row, as channels of one."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "n cs h w"]) -> Float[Tensor, "n c h w"]:
        """The frames joined in the channels, to one frame."""
        return self.conv(x)


class TimeGrow(nn.Module):
    """One frame to ``stride`` frames, side by side in the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n cs h w"]:
        """The frames, one after the other in the channels."""
        return self.conv(x)


class SoftClamp(nn.Module):
    """3 tanh(x / 3): latents far outside of what was seen in training do not blow up."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, within (-3, 3)."""
        return torch.tanh(x / 3) * 3


class TinyVAE(nn.Module):
    """Encoder and decoder of taecvx; the names of its tensors are those of the published file.

    Latents are the autoencoder's own, not scaled for the transformer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.ReLU(),
            *_down(64, 2),
            *_down(64, 2),
            *_down(64, 1),
            nn.Conv2d(64, LATENT_CHANNELS, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            SoftClamp(),
            nn.Conv2d(LATENT_CHANNELS, 256, 3, padding=1),
            nn.ReLU(),
            *_up(256, 128, 1),
            *_up(128, 64, 2),
            *_up(64, 64, 2),
            nn.ReLU(),
            nn.Conv2d(64, 3, 3, padding=1),
        )

    def encode(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 16 t h8 w8"]:
        """Pixels in [-1, 1] to latents; the last frame is repeated until their number divides by 4.

        Not aligned in time with the autoencoder it stands for, whose first frame has a latent of its own.
        """
        missing = -pixels.shape[2] % 4
        padded = torch.cat([pixels] + [pixels[:, :, -1:]] * missing, dim=2)
        return _at_once(self.encoder, padded / 2 + 0.5)

    def decode(
        self, latents: Float[Tensor, "b 16 t h w"], lean: bool = False
    ) -> Float[Tensor, "b 3 f h8 w8"]:
        """Latents to pixels in [-1, 1]: 4t - 3 frames of an odd number of latents, 4t of an even one.

        ``lean``: frame by frame, in memory that does not grow with the length.
        """
        run = _frame_by_frame if lean else _at_once
        pixels = run(self.decoder, latents).clamp(0, 1) * 2 - 1
        return pixels[:, :, DROPPED if latents.shape[2] % 2 else 0 :]


def _down(channels: int, stride: int) -> list[nn.Module]:
    half = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    return [TimePool(channels, stride), half, *(MemoryBlock(channels) for _ in range(3))]


def _up(channels: int, out: int, stride: int) -> list[nn.Module]:
    blocks = [MemoryBlock(channels) for _ in range(3)]
    last = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return [*blocks, nn.Upsample(scale_factor=2), TimeGrow(channels, stride), last]


def _at_once(layers: Sequence[nn.Module] | nn.Sequential, x: Float[Tensor, "b c t h w"]) -> Tensor:
    """All frames through each layer, as a batch of frames."""
    batch = x.shape[0]
    x = x.transpose(1, 2)  # b t c h w
    for layer in layers:
        frames = x.flatten(0, 1)
        if isinstance(layer, MemoryBlock):
            past = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
            y = layer(frames, past.flatten(0, 1))
        elif isinstance(layer, TimePool):
            y = layer(x.unflatten(1, (-1, layer.stride)).flatten(2, 3).flatten(0, 1))
        elif isinstance(layer, TimeGrow):
            y = layer(frames).unflatten(1, (layer.stride, -1)).flatten(0, 1)
        else:
            y = layer(frames)
        x = y.unflatten(0, (batch, -1))
    return x.transpose(1, 2)


def _frame_by_frame(layers: Sequence[nn.Module] | nn.Sequential, x: Float[Tensor, "b c t h w"]) -> Tensor:
    """Each frame through all layers before the next one is looked at."""
    walk = _Walk(list(layers))
    frames = [frame for each in x.unbind(2) for frame in walk.push(0, each)]
    return torch.stack(frames, dim=2)


class _Walk:
    """Layers that remember what they need of the frames before."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.past: dict[int, Tensor] = {}
        self.waiting: dict[int, list[Tensor]] = {}

    def push(self, number: int, x: Float[Tensor, "b c h w"]) -> Iterator[Float[Tensor, "b d h2 w2"]]:
        """What comes out at the end when layer ``number`` is given one more frame: none, one or several frames."""
        if number == len(self.layers):
            yield x
            return
        layer = self.layers[number]
        if isinstance(layer, MemoryBlock):
            past = self.past.get(number)
            self.past[number] = x
            yield from self.push(number + 1, layer(x, torch.zeros_like(x) if past is None else past))
        elif isinstance(layer, TimePool):
            waiting = self.waiting.setdefault(number, [])
            waiting.append(x)
            if len(waiting) == layer.stride:
                yield from self.push(number + 1, layer(torch.cat(waiting, dim=1)))
                waiting.clear()
        elif isinstance(layer, TimeGrow):
            for frame in layer(x).chunk(layer.stride, dim=1):
                yield from self.push(number + 1, frame)
        else:
            yield from self.push(number + 1, layer(x))

"""Convolutions of the video autoencoder: causal in time, and per frame where height and width change.

Three rewrites save arithmetic and change nothing but rounding: weights that meet equal inputs are added up first. A
frame before which nothing came is a still image (three time taps are one); of frames shown twice every window holds two
that are equal (three taps are two); a pixel shown 2x2 times is a sub-pixel convolution (nine taps are four). Wide
convolutions on a CPU need half of their products (``winograd``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.cpu_ops import computes_in_float32, conv3d, via_float32
from cogvideox.vae import winograd
from cogvideox.vae.frames import Frames
from cogvideox.vae.past import Past


class CausalConv3d(nn.Module):
    """A convolution whose output frame t sees input frames <= t; the ``Past`` says what precedes them.

    Space is padded with zeros, time never behind. The weights live in ``.conv`` (the released names).
    """

    window = 2**29  # elements read at a time without gradients: fewer need less memory and more traffic

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, time_kernel: int = 3) -> None:
        super().__init__()
        pad = (0, kernel // 2, kernel // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, (time_kernel, kernel, kernel), padding=pad)

    def forward(self, x: Float[Tensor, "b c t h w"] | Frames, past: Past) -> Float[Tensor, "b d t h w"]:
        """The convolution of a chunk, frame for frame."""
        frames = (
            x if isinstance(x, Frames) else Frames([x], single_first=past.has_single_first_frame(x.shape[2]))
        )
        return concat_frames(self.slices(frames, past), frames.count)

    def slices(
        self, x: Frames, past: Past, double_time: bool = False
    ) -> Iterator[Float[Tensor, "b d _ h w"]]:
        """The output in order, a few frames at a time.

        ``double_time``: every frame of ``x`` is shown twice, a single first one once.
        """
        slices = (
            self._image_slices(x) if self.conv.kernel_size[0] == 1 else self._slices(x, past, double_time)
        )
        for i, y in enumerate(slices):
            if double_time:
                y = interleave_frames(y) if y.shape[1] > self.conv.out_channels else repeat_frames(y)
            yield y[:, :, 1:] if double_time and i == 0 and x.single_first else y

    def _image_slices(self, x: Frames) -> Iterator[Tensor]:
        convolve, fast = self._convolution(x.slices[0], self.conv.weight, x.count)
        for start, frames in x.take(self.window, pairs=fast):
            yield convolve(x.read(start, frames))

    def _slices(self, x: Frames, past: Past, double_time: bool) -> Iterator[Tensor]:
        weight = doubled_frame_kernels(self.conv.weight) if double_time else self.conv.weight
        convolve, fast = self._convolution(x.slices[0], weight, x.count)
        front = weight.shape[2] - 1
        before, window = past.before(self, x, front), None
        still_first = before is None and (x.count == 1 or not torch.is_grad_enabled())
        for start, frames in x.take(self.window, split_first=still_first, pairs=fast):
            if before is None:
                first = x.read(0, frames[:, :, :1])
                before = first.expand(-1, -1, front, -1, -1)
                if still_first:
                    still, _ = self._convolution(first, self.conv.weight.sum(2, keepdim=True), 1)
                    yield still(first)
                    continue
            window = x.window(before, start, frames, window)
            before = window[:, :, -front:]
            del frames  # read: nobody needs it any more
            yield convolve(window)
        if before is not None:
            past.keep(self, before)

    def _convolution(self, x: Tensor, weight: Tensor, frames: int) -> tuple[Callable[[Tensor], Tensor], bool]:
        """How windows of frames like ``x`` become ``frames`` frames by ``weight``; and whether best in even numbers."""
        if not computes_in_float32(x) or not winograd.is_faster(weight, frames * x[0, 0, 0].numel()):
            return partial(self._convolve, weight=weight), False
        fast, bias = winograd.Winograd(weight.float()), self._bias(weight)
        bias = bias if bias is None else bias.float()
        return lambda window: fast(window.float(), bias).to(window.dtype), True

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        space = tuple(size // 2 for size in weight.shape[3:])
        return via_float32(conv3d, x, weight, self._bias(weight), padding=(0, *space))

    def _bias(self, weight: Tensor) -> Tensor | None:
        bias = self.conv.bias
        return bias.repeat(2) if bias is not None and len(weight) > len(bias) else bias


class Downsample(nn.Module):
    """Half the height and width, and with ``compress_time`` half the frames (mean of pairs).

    A single first frame of a video stays as it is: [b, c, t, h, w] -> [b, c, ceil(t/2), h/2, w/2].
    """

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.compress_time = compress_time

    def forward(
        self, x: Float[Tensor, "b c t h w"], past: Past, z: Tensor | None = None
    ) -> Float[Tensor, "b c t2 h2 w2"]:
        """``z`` is not used: layers of a stage are called alike."""
        if self.compress_time:
            x = _mean_of_pairs(x, past.has_single_first_frame(x.shape[2]))
        x = F.pad(x, (0, 1, 0, 1))  # zeros to the right and below only
        return via_float32(conv3d, x, self.conv.weight.unsqueeze(2), self.conv.bias, stride=(1, 2, 2))


class Upsample(nn.Module):
    """Twice the height and width, nearest neighbour then convolution: [b, c, t, h, w] -> [b, c, t, 2h, 2w].

    Where time doubles too, equal frames have equal convolutions: the next residual block shows each twice.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c t h w"], past: Past | None = None, z: Tensor | None = None
    ) -> Float[Tensor, "b c t h2 w2"]:
        """``past`` and ``z`` are not used: layers of a stage are called alike."""
        # A transposed convolution of stride 2 spreads each pixel over the 2x2 that show it and their borders.
        weight = _spread(_spread(self.conv.weight, 2), 3).transpose(0, 1).unsqueeze(2)  # [c, d, 1, 4, 4]
        doubled = {"stride": (1, 2, 2), "padding": (0, 1, 1)}
        at_once = torch.is_grad_enabled() or not x.is_cpu  # a CPU is twice as fast frame by frame
        slices = [x] if at_once else x.split(1, dim=2)
        upsampled = (via_float32(F.conv_transpose3d, y, weight, self.conv.bias, **doubled) for y in slices)
        return concat_frames(upsampled, x.shape[2])


def project(conv: nn.Conv3d, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
    """A 1x1x1 convolution: a matrix product of the channels, which reads slices as they lie."""

    def channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias[:, None], weight.flatten(1).expand(len(x), -1, -1), x)

    return via_float32(channels, x.flatten(2), conv.weight, conv.bias).unflatten(2, x.shape[2:])


def doubled_frame_kernels(weight: Float[Tensor, "d c 3 kh kw"]) -> Float[Tensor, "d2 c 2 kh kw"]:
    """Three time taps on frames shown twice: the windows are (a, a, b) and (a, b, b), one kernel each."""
    first, middle, last = weight.unbind(2)
    return torch.cat([torch.stack([first + middle, last], dim=2), torch.stack([first, middle + last], dim=2)])


def interleave_frames(y: Float[Tensor, "b d2 t h w"]) -> Float[Tensor, "b d t2 h w"]:
    """The first half of the channels as even frames, the second as odd ones."""
    return torch.stack(y.chunk(2, dim=1), dim=3).flatten(2, 3)


def repeat_frames(x: Float[Tensor, "b c t *s"]) -> Float[Tensor, "b c t2 *s"]:
    """Every frame twice in a row: a b -> a a b b."""
    return x.repeat_interleave(2, dim=2)


def double_frames(x: Float[Tensor, "b c t *s"], single_first: bool) -> Float[Tensor, "b c t2 *s"]:
    """Every frame twice, with ``single_first`` the first one once."""
    return repeat_frames(x)[:, :, int(single_first) :]


def concat_frames(slices: Iterable[Float[Tensor, "b c _ h w"]], frames: int) -> Float[Tensor, "b c f h w"]:
    """torch.cat along time for slices of ``frames`` frames together, each written to its place as it comes."""
    whole, start = None, 0
    for x in slices:
        stop = start + x.shape[2]
        if (start, stop) == (0, frames):
            whole = x  # the only one; keep asking, the source may have something to do at its end
        else:
            whole = x.new_empty(*x.shape[:2], frames, *x.shape[3:]) if whole is None else whole
            whole[:, :, start:stop] = x
        start = stop
    assert whole is not None and start == frames
    return whole


def _spread(weight: Tensor, dim: int) -> Tensor:
    """Taps of a 3-kernel on doubled pixels as taps of a transposed 4-kernel on the pixels themselves."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


def _mean_of_pairs(x: Tensor, single_first: bool) -> Tensor:
    if single_first and x.shape[2] == 1:
        return x
    first = int(single_first)
    pairs = (x[:, :, first::2] + x[:, :, first + 1 :: 2]).mul_(0.5)
    return torch.cat([x[:, :, :1], pairs], dim=2) if single_first else pairs

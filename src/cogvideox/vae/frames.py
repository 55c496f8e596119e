"""What a causal convolution reads: frames that are normalised, modulated and activated as late as possible.

Group statistics need all frames of a piece; everything after them does not. So a piece stays as it came out
of the last convolution, and a few frames at a time are scaled, shifted and sent through SiLU, straight into
the window that the next convolution reads. No activated copy of a whole piece ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MOST_ELEMENTS = 2**30  # in any window: 32-bit indexing ends at 2**31
CPU_ELEMENTS = 2**23  # in a window on a CPU, which works fastest in cache
IN_CACHE = {"cpu": 2**22, "cuda": 2**25}  # bytes that are still in cache when the next operation reads them


@dataclass
class Frames:
    """A piece of video in parts along time, and what is done to it before it is read.

    ``scale`` and ``shift`` ([b, c, tz, hz, wz] in float32, each size a divisor) stand for ``silu(x * scale +
    shift)``; without them the frames are read as they are. ``alone``: the first frame has an entry of its own in
    them, the others share theirs (default: an odd count). Parts leave the list when they are read.
    """

    parts: list[Float[Tensor, "b c _ h w"]]
    scale: Tensor | None = None
    shift: Tensor | None = None
    alone: bool | None = None

    def __post_init__(self) -> None:
        self.count = sum(part.shape[2] for part in self.parts)
        if self.alone is None:
            self.alone = self.count % 2 == 1

    def runs(self, window: int, first_alone: bool = False) -> Iterator[tuple[int, Tensor]]:
        """(start, frames) in order, a few at a time: about ``window`` elements. Autograd takes and keeps all."""
        if torch.is_grad_enabled() and len(self.parts) > 1:
            self.parts = [torch.cat(self.parts, dim=2)]
        most = self._at_once(window)
        if first_alone and self.parts[0].shape[2] > 1:
            self.parts[:1] = [self.parts[0][:, :, :1], self.parts[0][:, :, 1:]]
        start, counts = 0, [part.shape[2] for part in self.parts]
        for count in counts:
            length = -(-count // -(-count // most))
            self.parts[:1] = self.parts[0].split(length, dim=2)
            for first in range(0, count, length):
                yield start + first, self.parts.pop(0)  # bound to no name here: it is the reader's to drop
            start += count

    def window(
        self, held: Float[Tensor, "b c f h w"], start: int, x: Float[Tensor, "b c s h w"], old: Tensor | None
    ) -> Float[Tensor, "b c fs h w"]:
        """``held``, then ``x`` as the convolution reads it; over the ``old`` window when it has the size."""
        if torch.is_grad_enabled():
            return torch.cat([held, self.read(start, x)], dim=2)
        before, (b, c, length, h, w) = held.shape[2], x.shape
        if old is None or old.shape[2] != before + length:
            old = x.new_empty(b, c, before + length, h, w)
        for i in range(before):  # one by one and in order: ``held`` may be the end of the old window
            old[:, :, i] = held[:, :, i]
        self.write(start, x, old[:, :, before:])
        return old

    def tail(self, frames: int) -> Float[Tensor, "b c f h w"]:
        """The last ``frames`` frames as the convolution reads them."""
        last = torch.cat([part[:, :, -frames:] for part in self.parts[-frames:]], dim=2)[:, :, -frames:]
        return self.read(self.count - last.shape[2], last)

    def read(self, start: int, x: Float[Tensor, "b c s h w"]) -> Float[Tensor, "b c s h w"]:
        """Frames ``start``, ... as the convolution reads them."""
        if self.scale is None or self.shift is None:
            return x
        if torch.is_grad_enabled():
            scale, shift = self._rows(self.scale, start, x), self._rows(self.shift, start, x)
            y = torch.addcmul(shift, _in_rows(x, scale), scale).view(x.shape)
            return F.silu(y.to(x.dtype))
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        self.write(start, x, y)
        return y

    def write(self, start: int, x: Float[Tensor, "b c s h w"], out: Float[Tensor, "b c s h w"]) -> None:
        """The same, into ``out``; not for autograd."""
        if self.scale is None or self.shift is None:
            out.copy_(x)
            return
        scale, shift = self._rows(self.scale, start, x), self._rows(self.shift, start, x)
        scale_shift_silu(_in_rows(out, scale), _in_rows(x, scale), scale, shift)

    def _at_once(self, window: int) -> int:
        if torch.is_grad_enabled():
            window = MOST_ELEMENTS
        elif self.parts[0].is_cpu:
            window = min(window, CPU_ELEMENTS)
        return max(1, min(window, MOST_ELEMENTS) // self.parts[0][:, :, 0].numel() - 2)

    def _rows(self, table: Tensor, start: int, x: Tensor) -> Float[Tensor, "b c tz 1 hz 1 wz 1"]:
        """The table for some frames; each entry serves several frames, rows and columns."""
        if table.shape[2] > 1:
            length, lone = x.shape[2], int(self.alone)
            repeat = (self.count - lone) // (table.shape[2] - lone)
            picks = [i if i < lone else lone + (i - lone) // repeat for i in range(start, start + length)]
            first, several = picks[0], picks[-1] + 1 - picks[0]
            if picks == [first + i * several // length for i in range(length)] and length % several == 0:
                table = table[:, :, first : first + several]
            else:
                table = torch.cat([table[:, :, i : i + 1] for i in picks], dim=2)
        if x.is_cpu and 1 < table.shape[4] < x.shape[4]:  # its inner loops must be long
            table = table.repeat_interleave(x.shape[4] // table.shape[4], dim=4)
        return table[:, :, :, None, :, None, :, None]


def scale_shift_silu(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> None:
    """``out = silu(x * scale + shift)``: so many channels at a time that SiLU finds them still in cache."""
    budget = IN_CACHE.get(x.device.type)
    step = x.shape[1] if budget is None else max(1, budget // max(x[:, 0].numel() * x.itemsize, 1))
    for i in range(0, x.shape[1], step):
        here = slice(i, i + step)
        torch.addcmul(shift[:, here], x[:, here], scale[:, here], out=out[:, here])
        F.silu(out[:, here], inplace=True)


def _in_rows(x: Float[Tensor, "b c s h w"], table: Tensor) -> Float[Tensor, "b c tz f hz r wz q"]:
    """A view of ``x`` that lines up with a table: each entry serves f frames, r rows and q columns."""
    _, _, tz, _, hz, _, wz, _ = table.shape
    return x.unflatten(4, (wz, -1)).unflatten(3, (hz, -1)).unflatten(2, (tz, -1))

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

AT_ONCE = 4  # frames convolved at a time where no gradients are needed
MOST_ELEMENTS = 2**30  # and never more elements than this: 32-bit indexing ends at 2**31


@dataclass
class Frames:
    """A piece of video in parts along time, and what is done to it before it is read.

    ``scale`` and ``shift`` ([b, c, tz, hz, wz] in float32, each size a divisor) stand for ``silu(x * scale +
    shift)``; without them the frames are read as they are. Parts leave the list when they were read.
    """

    parts: list[Float[Tensor, "b c _ h w"]]
    scale: Tensor | None = None
    shift: Tensor | None = None

    def __post_init__(self) -> None:
        self.count = sum(part.shape[2] for part in self.parts)

    def runs(self, first_alone: bool) -> Iterator[tuple[int, Tensor]]:
        """(start, frames) in order, few frames at a time; with gradients all at once, as autograd keeps all."""
        start = 0
        if torch.is_grad_enabled() and len(self.parts) > 1:
            self.parts = [torch.cat(self.parts, dim=2)]
        length = self._at_once()
        while self.parts:
            part = self.parts.pop(0)
            if first_alone and start == 0 and part.shape[2] > 1:
                self.parts.insert(0, part[:, :, 1:])
                part = part[:, :, :1]
            for run in part.split(-(-part.shape[2] // -(-part.shape[2] // length)), dim=2):
                yield start, run
                start += run.shape[2]

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
        scale, shift = self._rows(self.scale, start, x), self._rows(self.shift, start, x)
        y = torch.addcmul(shift, _in_rows(x, scale), scale).view(x.shape).to(x.dtype)
        return F.silu(y, inplace=not torch.is_grad_enabled())

    def write(self, start: int, x: Float[Tensor, "b c s h w"], out: Float[Tensor, "b c s h w"]) -> None:
        """The same, into ``out``; not for autograd."""
        if self.scale is None or self.shift is None:
            out.copy_(x)
            return
        scale, shift = self._rows(self.scale, start, x), self._rows(self.shift, start, x)
        torch.addcmul(shift, _in_rows(x, scale), scale, out=_in_rows(out, scale))
        F.silu(out, inplace=True)

    def _at_once(self) -> int:
        most = max(1, MOST_ELEMENTS // max(self.parts[0][:, :, 0].numel(), 1) - 2)
        return most if torch.is_grad_enabled() else min(most, AT_ONCE)

    def _rows(self, table: Tensor, start: int, x: Tensor) -> Tensor:
        """Frames of a table, as wide as ``x``; rows stay few: [b, c, s or 1, hz, 1, w or 1]."""
        odd, length = self.count % 2 if self.count > 1 else 0, x.shape[2]
        repeat = (self.count - odd) // max(table.shape[2] - odd, 1)
        if table.shape[2] > 1:
            picks = [i if i < odd else odd + (i - odd) // repeat for i in range(start, start + length)]
            if len(set(picks)) == 1:
                table = table[:, :, picks[0] : picks[0] + 1]
            else:
                table = torch.cat([table[:, :, i : i + 1] for i in picks], dim=2)
        if 1 < table.shape[4] < x.shape[4]:
            table = table.repeat_interleave(x.shape[4] // table.shape[4], dim=4)
        return table.unsqueeze(4)


def _in_rows(x: Float[Tensor, "b c s h w"], table: Tensor) -> Float[Tensor, "b c s hz r w"]:
    """A view of ``x`` that lines up with a table of fewer rows: each serves r rows of ``x``."""
    return x.unflatten(3, (table.shape[3], -1))

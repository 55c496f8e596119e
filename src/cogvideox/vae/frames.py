"""``Frames``: the input of a convolution, normalised, modulated and activated as late as possible.

Group statistics need all frames of a chunk; everything after them does not. So a chunk stays as the last convolution
left it, and a few frames at a time are scaled, shifted and sent through SiLU, straight into the window that the next
convolution reads. No activated copy of a whole chunk ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cogvideox.gpu_kernels import is_faster, is_used, may_run, ops, using

MOST_ELEMENTS = 2**30  # in any window: 32-bit indexing ends at 2**31
CPU_ELEMENTS = 2**23  # in a window on a CPU, which works fastest in cache
IN_CACHE = {"cpu": 2**22, "cuda": 2**25}  # bytes that are still in cache when the next operation reads them


@dataclass
class Frames:
    """Frames in pieces along time, and the scale, shift and SiLU that they get when they are read.

    ``scale`` and ``shift`` ([b, c, tz, hz, wz] in float32, each size a divisor) stand for ``silu(x * scale + shift)``;
    without them frames are read as they are. ``single_first``: the first frame has an entry of its own in them, the
    others share theirs (default: an odd count). Slices leave ``slices`` when they are taken.
    """

    slices: list[Float[Tensor, "b c _ h w"]]
    scale: Tensor | None = None
    shift: Tensor | None = None
    single_first: bool | None = None

    def __post_init__(self) -> None:
        self.count = sum(x.shape[2] for x in self.slices)
        if self.single_first is None:
            self.single_first = self.count % 2 == 1

    def take(
        self, window: int, split_first: bool = False, pairs: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """(index of the first frame, frames as they are) in order, a few at a time: about ``window`` elements.

        Under autograd, which keeps them anyway, all at once. ``split_first``: the first frame comes by itself.
        ``pairs``: in even numbers, as far as there are.
        """
        if torch.is_grad_enabled() and len(self.slices) > 1:
            self.slices = [torch.cat(self.slices, dim=2)]
        multiple = 2 if pairs else 1
        most = max(self._frames_at_once(window) // multiple, 1)
        if split_first and self.slices[0].shape[2] > 1:
            self.slices[:1] = [self.slices[0][:, :, :1], self.slices[0][:, :, 1:]]
        start, counts = 0, [x.shape[2] for x in self.slices]
        for count in counts:
            parts = -(-count // multiple)
            length = -(-parts // -(-parts // most)) * multiple
            self.slices[:1] = self.slices[0].split(length, dim=2)
            for first in range(0, count, length):
                yield start + first, self.slices.pop(0)  # bound to no name here: it is the reader's to drop
            start += count

    def window(
        self,
        before: Float[Tensor, "b c f h w"],
        start: int,
        x: Float[Tensor, "b c s h w"],
        old: Tensor | None,
    ) -> Float[Tensor, "b c fs h w"]:
        """``before``, then ``x`` as the convolution reads it; over the ``old`` window when it has the size."""
        if torch.is_grad_enabled():
            return torch.cat([before, self.read(start, x)], dim=2)
        front, (b, c, length, h, w) = before.shape[2], x.shape
        if old is None or old.shape[2] != front + length:
            old = x.new_empty(b, c, front + length, h, w)
            old[:, :, :front] = before
        else:
            for i in range(front):  # one by one and in order: ``before`` may be the end of the old window
                old[:, :, i] = before[:, :, i]
        self.write(start, x, old[:, :, front:])
        return old

    def tail(self, frames: int) -> Float[Tensor, "b c f h w"]:
        """The last ``frames`` frames as the convolution reads them."""
        last = torch.cat([x[:, :, -frames:] for x in self.slices[-frames:]], dim=2)[:, :, -frames:]
        return self.read(self.count - last.shape[2], last)

    def first(self) -> Float[Tensor, "b c 1 h w"]:
        """The first frame as the convolution reads it."""
        return self.read(0, self.slices[0][:, :, :1])

    def read(self, start: int, x: Float[Tensor, "b c s h w"]) -> Float[Tensor, "b c s h w"]:
        """silu(x · scale + shift), where ``x`` are the frames from index ``start`` on."""
        if self.scale is None or self.shift is None:
            return x
        if torch.is_grad_enabled():
            scale, shift = self._entries(self.scale, start, x), self._entries(self.shift, start, x)
            y = torch.addcmul(shift, _grouped(x, scale), scale).view(x.shape)
            return F.silu(y.to(x.dtype))
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        self.write(start, x, y)
        return y

    def write(self, start: int, x: Float[Tensor, "b c s h w"], out: Float[Tensor, "b c s h w"]) -> None:
        """The same, written to ``out``; not for autograd."""
        if self.scale is None or self.shift is None:
            out.copy_(x)
            return
        scale, shift = self._entries(self.scale, start, x), self._entries(self.shift, start, x)
        if is_used("scale_shift_silu"):
            once = (..., slice(None), 0, slice(None), 0, slice(None), 0)
            ops.scale_shift_silu(x, scale[once], shift[once], out=out)
        else:
            scale_shift_silu(_grouped(out, scale), _grouped(x, scale), scale, shift)

    def _frames_at_once(self, window: int) -> int:
        if torch.is_grad_enabled():
            window = MOST_ELEMENTS
        elif self.slices[0].is_cpu:
            window = min(window, CPU_ELEMENTS)
        return max(1, min(window, MOST_ELEMENTS) // self.slices[0][:, :, 0].numel() - 2)

    def _entries(self, table: Tensor, start: int, x: Tensor) -> Float[Tensor, "b c tz 1 hz 1 wz 1"]:
        """The entries of a table for the frames ``x`` from ``start`` on, in the shape of ``_grouped``."""
        if table.shape[2] > 1:
            length, single = x.shape[2], int(bool(self.single_first))
            repeat = (self.count - single) // (table.shape[2] - single)
            picks = [
                i if i < single else single + (i - single) // repeat for i in range(start, start + length)
            ]
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
        c = slice(i, i + step)
        torch.addcmul(shift[:, c], x[:, c], scale[:, c], out=out[:, c])
        F.silu(out[:, c], inplace=True)


@cache
def faster_kernels(device: torch.device, dtype: torch.dtype) -> frozenset[str]:
    """The kernels of ``gpu_kernels`` that read frames faster here than torch does; none where Triton is not."""
    if not may_run(device):
        return frozenset()
    with (
        torch.random.fork_rng([device], device_type=device.type),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        x = torch.randn(1, 128, 2, 240, 360, device=device, dtype=dtype)  # more than a GPU keeps in cache
        scale, shift = (torch.randn(1, 128, 1, 30, 45, device=device) for _ in range(2))

        def read(names: frozenset[str], x: Tensor) -> Tensor:
            with using(names):
                return Frames([x], scale, shift).read(0, x)

        one = frozenset({"scale_shift_silu"})
        right = is_faster("scale_shift_silu", partial(read, one), partial(read, frozenset()), (x,))
    return one if right else frozenset()


def _grouped(x: Float[Tensor, "b c s h w"], table: Tensor) -> Float[Tensor, "b c tz f hz r wz q"]:
    """A view of ``x`` that lines up with a table: each entry serves f frames, r rows and q columns."""
    _, _, tz, _, hz, _, wz, _ = table.shape
    return x.unflatten(4, (wz, -1)).unflatten(3, (hz, -1)).unflatten(2, (tz, -1))

"""How numbers are made of quantised weights, one format a class; GGUF's blocks are in ``gguf_blocks``.

Each is data of the file: nothing needs the library that wrote it, and each is computed on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaled:
    """One number of ``packed`` (int8, fp8) for each weight, times ``scale``, one for each block of weights.

    ``scale`` (absent: 1) has one value, or as many rows and columns as there are blocks; ``zero`` (absent: 0) of the
    same shape is taken off before. ``divisor``: what a scale is divided by (127 in bitsandbytes' int8).
    """

    name: str
    divisor: float = 1.0

    def decode(self, inner: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The numbers in float32, ``shape``."""
        numbers = inner["packed"].float()
        if "zero" in inner:
            numbers -= _spread(inner["zero"].float(), shape)
        if "scale" in inner:
            numbers *= _spread(inner["scale"].float() / self.divisor, shape)
        return numbers.reshape(shape)

    def slice_rows(
        self, inner: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int
    ) -> Mapping[str, Tensor] | None:
        """The parts of some rows; None where a scale is that of several rows."""
        cut = {"packed": inner["packed"].reshape(shape)[start:stop]}
        for name in ("scale", "zero"):
            if (part := inner.get(name)) is None:
                continue
            if part.numel() > 1 and part.shape[0] not in (1, shape[0]):
                return None
            cut[name] = part[start:stop] if part.ndim and part.shape[0] == shape[0] else part
        return cut


@dataclass(frozen=True)
class Table:
    """bitsandbytes in 4 bits: ``packed`` holds two indices a byte, high half first, into the 16 numbers of ``table``.

    Runs of ``block`` weights share a number of ``scale``. Where scales are 8-bit indices themselves (double
    quantisation), ``scale_table`` holds their numbers, ``scale_scale`` one for each run of ``scale_block``, and
    ``offset`` is added.
    """

    name: str
    block: int
    scale_block: int = 0
    offset: float = 0.0

    def decode(self, inner: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The numbers in float32, ``shape``."""
        packed, scale = inner["packed"].reshape(-1).view(torch.uint8), inner["scale"].reshape(-1)
        if self.scale_block:
            nested = inner["scale_table"].float()[scale.int()]
            runs = inner["scale_scale"].float().repeat_interleave(self.scale_block)[: nested.numel()]
            scale = nested * runs + self.offset
        count = torch.Size(shape).numel()
        indices = torch.stack((packed >> 4, packed & 15), -1).reshape(-1)[:count]
        numbers = inner["table"].float()[indices.int()]
        whole = count // self.block * self.block
        numbers[:whole].view(-1, self.block).mul_(scale.float()[: whole // self.block, None])
        numbers[whole:] *= scale.float()[whole // self.block :]
        return numbers.reshape(shape)

    def slice_rows(
        self, inner: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int
    ) -> Mapping[str, Tensor] | None:
        """The parts of some rows; None where scales are nested, or a run goes from one row into the next."""
        width = torch.Size(shape[1:]).numel()
        if self.scale_block or width % self.block or width % 2:
            return None
        packed, runs = inner["packed"].reshape(-1).view(torch.uint8), width // self.block
        return {
            "packed": packed[start * width // 2 : stop * width // 2],
            "scale": inner["scale"].reshape(-1)[start * runs : stop * runs],
            "table": inner["table"],
        }


@dataclass(frozen=True)
class Int4Groups:
    """torchao's plain int4: ``packed`` holds two signed numbers a byte, low half first; q · scale + zero, both
    [groups of a row, rows]."""

    name: str

    def decode(self, inner: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The numbers in float32, ``shape``."""
        packed, scale, zero = inner["packed"].view(torch.uint8), inner["scale"].float(), inner["zero"].float()
        numbers = torch.stack((packed & 15, packed >> 4), -1).reshape(shape[0], -1).float()
        numbers -= 16 * (numbers > 7)
        grouped = numbers.view(shape[0], len(scale), -1)
        return (grouped * scale.t()[..., None] + zero.t()[..., None]).reshape(shape)

    def slice_rows(
        self, inner: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int
    ) -> Mapping[str, Tensor]:
        """The parts of some rows."""
        packed = inner["packed"].reshape(shape[0], -1)[start:stop]
        return {
            "packed": packed,
            "scale": inner["scale"][:, start:stop],
            "zero": inner["zero"][:, start:stop],
        }


def _spread(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One value for each block as values that multiply a whole weight, [rows, columns] or fewer."""
    if values.numel() == 1:
        return values.reshape(())
    if values.ndim == 1:
        values = values[:, None]
    for side, (blocks, size) in enumerate(zip(values.shape, shape, strict=False)):
        if blocks not in (1, size):
            values = values.repeat_interleave(size // blocks, side)
    return values.reshape(*values.shape, *(1 for _ in shape[values.ndim :]))

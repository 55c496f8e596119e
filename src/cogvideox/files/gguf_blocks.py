"""Weights in llama.cpp's blocks: so many values share a scale, and their small whole numbers lie packed behind it.

Layouts (all little-endian; d and dmin are float16) are those of ggml, by the names that GGUF files and the safetensors
files called GGUF use. A block of 32 has one scale; the K types cut 256 values into sub-blocks with scales of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvideox.errors import ConfigError
from cogvideox.files.quantised import QuantisedTensor

SIZES = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
}  # fmt: skip
"""Values in a block, and the bytes it takes."""


@dataclass(frozen=True)
class GgufBlocks:
    """A weight of rows of blocks; its one part, ``packed``, is bytes [rows, bytes of a row]."""

    name: str

    def decode(self, inner: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The numbers in float32, ``shape``."""
        packed = inner["packed"]
        if self.name not in SIZES:  # a kind that hardly any file has: by the library, on a CPU
            return _by_library(packed.cpu(), self.name).to(packed.device).reshape(shape)
        return decode_blocks(self.name, packed).reshape(shape)

    def slice_rows(
        self, inner: Mapping[str, Tensor], shape: tuple[int, ...], start: int, stop: int
    ) -> Mapping[str, Tensor]:
        """The parts of some rows."""
        return {"packed": inner["packed"].reshape(shape[0], -1)[start:stop]}


def decode_blocks(kind: str, packed: Tensor) -> Tensor:
    """The values of blocks of this kind in float32, [blocks, values of one]; ``packed``: their bytes in any shape."""
    return _DECODERS[kind](packed.reshape(-1, SIZES[kind][1]))


def to_int4(weight: Tensor) -> QuantisedTensor:
    """A matrix in blocks of 4 bits (Q4_0), rounded as ggml does; it counts as one of the same precision.

    Raises ConfigError for rows that are not whole blocks.
    """
    rows, columns = weight.shape
    size, nbytes = SIZES["Q4_0"]
    if columns % size:
        raise ConfigError(f"int4 of rows of {columns}: rows are whole blocks of {size} there")
    blocks = weight.detach().float().reshape(-1, size)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    d = largest / -8
    q = (blocks * torch.where(d == 0, 0.0, 1 / d) + 8.5).clamp(0, 15).byte()
    packed = q[:, : size // 2] | (q[:, size // 2 :] << 4)
    whole = torch.cat((d.half().view(torch.uint8), packed), 1).reshape(rows, columns // size * nbytes)
    return QuantisedTensor(GgufBlocks("Q4_0"), {"packed": whole}, (rows, columns), weight.dtype)


def _half(blocks: Tensor, at: int) -> Tensor:
    """A float16 number of each block, [blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Bytes [..., n] to [..., 2, n]: low halves, then high halves."""
    return torch.stack((packed & 15, packed >> 4), -2)


def _bits(packed: Tensor, width: int) -> Tensor:
    """Bytes [..., n] to [..., 8 / width, n]: the lowest ``width`` bits first."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
    return (packed[..., None, :] >> shifts[:, None]) & (2**width - 1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Four bytes of each block as 32 bits, each worth 16."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (((packed[..., None] >> shifts) & 1) << 4).flatten(1)


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).flatten(1).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).flatten(1).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    q = _nibbles(blocks[:, 6:]).flatten(1) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (q.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    q = _nibbles(blocks[:, 8:]).flatten(1) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * q.float() + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _q2_k(blocks: Tensor) -> Tensor:
    scales, q = blocks[:, :16], _bits(blocks[:, 16:80].unflatten(1, (2, 32)), 2).reshape(-1, 16, 16).float()
    d, dmin = _half(blocks, 80) * (scales & 15).float(), _half(blocks, 82) * (scales >> 4).float()
    return (d[..., None] * q - dmin[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    scales = (_nibbles(low).flatten(1) | (_bits(high, 2).flatten(1) << 4)).float() - 32
    d = _half(blocks, 108) * scales
    q = _bits(blocks[:, 32:96].unflatten(1, (2, 32)), 2).reshape(-1, 16, 16).float()
    absent = (1 - _bits(blocks[:, :32], 1)).reshape(-1, 16, 16).float()
    return (d[..., None] * (q - 4 * absent)).flatten(1)


def _scales_of_k(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of the eight sub-blocks of Q4_K and Q5_K, [blocks, 8, 1]: six bits each, in twelve bytes."""
    a, b, c = blocks[:, 4:16].unflatten(1, (3, 4)).unbind(1)
    scale = torch.cat((a & 63, (c & 15) | ((a >> 6) << 4)), 1).float()
    least = torch.cat((b & 63, (c >> 4) | ((b >> 6) << 4)), 1).float()
    return (_half(blocks, 0) * scale)[..., None], (_half(blocks, 2) * least)[..., None]


def _q4_k(blocks: Tensor) -> Tensor:
    d, least = _scales_of_k(blocks)
    q = _nibbles(blocks[:, 16:].unflatten(1, (4, 32))).reshape(-1, 8, 32).float()
    return (d * q - least).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    d, least = _scales_of_k(blocks)
    low = _nibbles(blocks[:, 48:].unflatten(1, (4, 32))).reshape(-1, 8, 32)
    q = low | (_bits(blocks[:, 16:48], 1) << 4)
    return (d * q.float() - least).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128].unflatten(1, (2, 64))).reshape(-1, 8, 32)
    high = _bits(blocks[:, 128:192].unflatten(1, (2, 32)), 2).reshape(-1, 8, 32)
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    d = (_half(blocks, 208) * scales)[..., None]
    return (d * ((low | (high << 4)).float() - 32).reshape(-1, 16, 16)).flatten(1)


def _by_library(packed: Tensor, kind: str) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(packed.numpy(), GGMLQuantizationType[kind]))


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip

"""Run with TRITON_INTERPRET=1: the kernels by Triton's interpreter on a CPU, beside plain torch and float64.

Prints one JSON object: for each kernel, dtype and case the largest error of the kernel and of the plain form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox import gpu_kernels
from cogvideox.transformer.block import ExpertNorm, add_gated
from cogvideox.transformer.layout import Layout, TokenGrid
from cogvideox.transformer.position import apply_rotary_emb
from cogvideox.vae.frames import Frames

TEXT, GRID = 3, TokenGrid(2, 2, 3)
LAYOUT = Layout.plain(TEXT, GRID)
Case = tuple[str, Callable[[], list[Tensor]], Callable[[], list[Tensor]], Callable[[], list[Tensor]]]
"""Name, then the kernel, the plain form and float64."""


def rotations(dtype: torch.dtype, affine: bool, e: int, rotate: bool) -> Case:
    x = torch.randn(2, LAYOUT.tokens, 3, e).to(dtype) * 3 + 1
    norm = torch.nn.LayerNorm(e, eps=1e-6, elementwise_affine=affine).to(dtype)
    table = None
    if rotate:
        angles = torch.randn(LAYOUT.tokens, e // 2)
        angles[:TEXT] = 0
        table = torch.polar(torch.ones_like(angles), angles)[:, None]
    if affine:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)

    def kernel() -> list[Tensor]:
        y = x.clone()
        real = None if table is None else torch.view_as_real(table[:, 0]).flatten(1).contiguous()
        gpu_kernels.launch_norm_rotate(y, norm.weight, norm.bias, real, norm.eps)
        return [y]

    def exact() -> list[Tensor]:
        wide = [None if p is None else p.double() for p in (norm.weight, norm.bias)]
        y = F.layer_norm(x.double(), (e,), *wide, norm.eps)
        if table is not None:
            y = torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2))) * table.cdouble()).flatten(
                -2
            )
        return [y]

    return f"norm_rotate {affine} {e} {rotate}", kernel, lambda: [apply_rotary_emb(norm(x), table)], exact


def residual(dtype: torch.dtype, affine: bool, width: int, experts: bool) -> Case:
    norm = ExpertNorm(8, width, eps=1e-5, affine=affine, experts=experts).to(dtype)
    x, update = (torch.randn(2, LAYOUT.tokens, width).to(dtype) for _ in range(2))
    if affine:
        torch.nn.init.normal_(norm.norm.weight)
    temb = torch.randn(2, 1, 8).to(dtype)
    shift, scale, gate = norm.linear(temb).unflatten(-1, (norm.modalities, 3, -1)).unbind(-2)
    affine_weights = norm.norm.weight, norm.norm.bias

    def kernel() -> list[Tensor]:
        a, b = x.clone(), update.clone()
        c = x.clone()
        vectors = [each[:, 0] for each in (gate, shift, scale)]
        gpu_kernels.launch_add_norm_modulate(a, b, vectors[0], *affine_weights, *vectors[1:], TEXT, 1e-5)
        gpu_kernels.launch_add_gated(c, update, vectors[0], TEXT)
        alone = gpu_kernels.launch_norm_modulate(c, *affine_weights, *vectors[1:], TEXT, 1e-5)
        assert torch.equal(a, c) and torch.equal(alone, b)
        return [a, b]

    def plain() -> list[Tensor]:
        total = add_gated(x.clone(), update, gate, LAYOUT)
        return [total.clone(), norm(total, temb, LAYOUT)[0]]

    def exact() -> list[Tensor]:
        def rows(table: Tensor) -> Tensor:
            picks = torch.tensor([1 % norm.modalities] * TEXT + [0] * GRID.tokens)
            return table[:, 0, picks].double()

        total = x.double() + rows(gate) * update.double()
        wide = [None if p is None else p.double() for p in affine_weights]
        # the residual stream is stored in its own type: what is normalised is what was stored
        y = F.layer_norm(total.to(dtype).double(), (width,), *wide, 1e-5)
        return [total, y * (1 + rows(scale)) + rows(shift)]

    return f"add_norm_modulate {affine} {width} {experts}", kernel, plain, exact


def window(dtype: torch.dtype, size: tuple[int, ...], table: tuple[int, ...]) -> Case:
    whole = torch.randn(1, 3, 5, *size[1:]).to(dtype)
    x = whole[:, :, 1 : 1 + size[0]]  # a slice of a chunk
    scale, shift = torch.randn(1, 3, *table), torch.randn(1, 3, *table)

    def kernel() -> list[Tensor]:
        out = torch.zeros(1, 3, 2 + size[0], *size[1:], dtype=dtype)
        gpu_kernels.launch_scale_shift_silu(x, scale, shift, out=out[:, :, 2:])
        assert not out[:, :, :2].any()
        return [out[:, :, 2:]]

    def exact() -> list[Tensor]:
        wide = []
        for each in (scale, shift):
            for dim in (2, 3, 4):
                each = each.repeat_interleave(x.shape[dim] // each.shape[dim], dim)
            wide.append(each.double())
        return [F.silu(x.double() * wide[0] + wide[1])]

    return f"scale_shift_silu {size} {table}", kernel, lambda: [Frames([x], scale, shift).read(0, x)], exact


def cases(dtype: torch.dtype) -> Iterator[Case]:
    for affine, e, rotate in ((True, 64, True), (True, 16, True), (False, 32, True), (True, 64, False)):
        yield rotations(dtype, affine, e, rotate)
    for affine, width, experts in ((True, 64, True), (False, 48, True), (True, 96, False)):
        yield residual(dtype, affine, width, experts)
    for size, table in (((4, 6, 8), (2, 3, 4)), ((2, 40, 30), (1, 1, 1)), ((1, 6, 9), (1, 2, 3))):
        yield window(dtype, size, table)


def round_as_a_gpu() -> None:
    """The interpreter cuts bfloat16 off where the machine rounds to the nearest."""
    import triton.language
    import triton.runtime.interpreter as interpreter

    convert = interpreter._convert_float

    def rounded(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (triton.language.float32, triton.language.bfloat16):
            return convert(data, source, target, mode)
        return torch.tensor(data).bfloat16().view(torch.uint16).numpy()

    interpreter._convert_float = rounded


def main() -> None:
    torch.manual_seed(0)
    round_as_a_gpu()
    found = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            for name, kernel, plain, exact in cases(dtype):
                right = exact()
                errors = [
                    [(a.double() - b).abs().max().item() for a, b in zip(way(), right, strict=True)]
                    for way in (kernel, plain)
                ]
                found[f"{name} {dtype}"] = errors
    print(json.dumps(found))


if __name__ == "__main__":
    main()

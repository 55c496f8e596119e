"""Operations that cost torch several passes over memory, as one pass in Triton: for inference on a GPU.

Three kernels: LayerNorm of q or k and its rotation; a gated update of the residual stream with the modulated LayerNorm
of the sum; scale, shift and SiLU into the window of a causal convolution. Each is an operator of torch
with plain torch on a CPU (the reference), Triton on CUDA, and nothing to do on tensors without memory, where bytes are
counted. They write over their inputs and refuse tensors that want gradients. Triton comes with torch for CUDA and is
loaded at the first use. ``is_faster`` compares and times a kernel and the plain form before anything relies on it.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cogvideox.errors import ConfigError

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl = None  # triton.language, once a kernel is used

REPEATS = 3
TOLERANCE = 2e-2
"""Largest difference from the plain form, relative to the largest output, in half precision; float32: 1e-4."""


# What a kernel computes, in plain torch


def norm_rotate(
    x: Float[Tensor, "b n k e"], weight: Tensor | None, bias: Tensor | None, table: Tensor | None, eps: float
) -> None:
    """LayerNorm of every head, then its channel pairs rotated by ``table`` [n, e]: cos, sin in turn; over ``x``."""
    y = _layer_norm(x, weight, bias, eps)
    if table is not None:
        cos, sin = table[:, None, 0::2], table[:, None, 1::2]
        a, b = y[..., 0::2], y[..., 1::2]
        y = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    x.copy_(y)


def norm_modulate(
    x: Float[Tensor, "b n d"],
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Float[Tensor, "b m d"],
    scale: Float[Tensor, "b m d"],
    text_len: int,
    eps: float,
) -> Float[Tensor, "b n d"]:
    """LayerNorm(x) · (1 + scale) + shift; of two entries the last is for the first ``text_len`` tokens."""
    y = _layer_norm(x, weight, bias, eps)
    n = x.shape[1]
    return (y * (1 + _per_token(scale, n, text_len)) + _per_token(shift, n, text_len)).to(x.dtype)


def add_gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], gate: Float[Tensor, "b m d"], text_len: int
) -> None:
    """x + gate · update, over ``x``; entries of ``gate`` as in ``norm_modulate``."""
    x.copy_(x.float() + _per_token(gate, x.shape[1], text_len) * update.float())


def add_norm_modulate(
    x: Float[Tensor, "b n d"],
    update: Float[Tensor, "b n d"],
    gate: Float[Tensor, "b m d"],
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Float[Tensor, "b m d"],
    scale: Float[Tensor, "b m d"],
    text_len: int,
    eps: float,
) -> None:
    """``add_gated`` over ``x``, then ``norm_modulate`` of the sum over ``update``."""
    add_gated(x, update, gate, text_len)
    update.copy_(norm_modulate(x, weight, bias, shift, scale, text_len, eps))


def scale_shift_silu(
    x: Float[Tensor, "b c t h w"],
    scale: Float[Tensor, "b c tz hz wz"],
    shift: Float[Tensor, "b c tz hz wz"],
    *,
    out: Float[Tensor, "b c t h w"],
) -> None:
    """silu(x · scale + shift) into ``out``; each size of the tables divides that of ``x``."""
    for dim in (2, 3, 4):
        times = x.shape[dim] // scale.shape[dim]
        scale, shift = scale.repeat_interleave(times, dim), shift.repeat_interleave(times, dim)
    out.copy_(F.silu(x.float() * scale + shift))


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    weight, bias = (each if each is None else each.float() for each in (weight, bias))
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps)


def _per_token(table: Float[Tensor, "b m d"], tokens: int, text_len: int) -> Float[Tensor, "b n d"]:
    is_text = (torch.arange(tokens, device=table.device) < text_len)[:, None]
    return torch.where(is_text, table[:, -1:], table[:, :1]).float()


# The kernels; their source is compiled by Triton, so they read plainly and use nothing but ``tl``


# fmt: off
def _norm_rotate_kernel(
    x: tl.tensor, weight: tl.tensor, bias: tl.tensor, table: tl.tensor, count: tl.tensor,
    tokens: tl.tensor, heads: tl.tensor, eps: tl.tensor, E: tl.constexpr, ROWS: tl.constexpr,
    AFFINE: tl.constexpr, ROTATE: tl.constexpr,
) -> None:
# fmt: on
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, E)
    inside = (row < count)[:, None]
    place = row[:, None] * E + column[None, :]
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    values -= (tl.sum(values, 1) / E)[:, None]
    y = values * (1 / tl.sqrt(tl.sum(values * values, 1) / E + eps))[:, None]
    if AFFINE:
        y = (
            y * tl.load(weight + column).to(tl.float32)[None, :]
            + tl.load(bias + column).to(tl.float32)[None, :]
        )
    if ROTATE:
        token = (row // heads) % tokens
        turn = tl.load(table + token[:, None] * E + column[None, :], mask=inside, other=0.0)
        cos, sin = tl.split(tl.reshape(turn, (ROWS, E // 2, 2)))
        a, b = tl.split(tl.reshape(y, (ROWS, E // 2, 2)))
        y = tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), (ROWS, E))
    tl.store(x + place, y.to(x.dtype.element_ty), mask=inside)


# fmt: off
def _add_norm_modulate_kernel(
    x: tl.tensor, update: tl.tensor, gate: tl.tensor, weight: tl.tensor, bias: tl.tensor,
    shift: tl.tensor, scale: tl.tensor, y: tl.tensor, tokens: tl.tensor, text_len: tl.tensor,
    gate_batch: tl.tensor, gate_text: tl.tensor, batch: tl.tensor, text: tl.tensor, eps: tl.tensor,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, NORM: tl.constexpr,
    AFFINE: tl.constexpr,
) -> None:
# fmt: on
    row = tl.program_id(0).to(tl.int64)
    clip = row // tokens
    is_text = (row % tokens < text_len).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    place = row * WIDTH + column
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        entry = clip * gate_batch + is_text * gate_text + column
        g = tl.load(gate + entry, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(update + place, mask=inside, other=0.0).to(tl.float32)
        total = (values + g * u).to(x.dtype.element_ty)
        tl.store(x + place, total, mask=inside)
        values = total.to(tl.float32)  # what is normalised is what the next layer reads
    if NORM:
        centred = tl.where(inside, values - tl.sum(values, 0) / WIDTH, 0.0)
        out = centred * (1 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + eps))
        if AFFINE:
            w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
            out = out * w + tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        entry = clip * batch + is_text * text + column
        up = 1 + tl.load(scale + entry, mask=inside, other=0.0).to(tl.float32)
        out = out * up + tl.load(shift + entry, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + place, out.to(y.dtype.element_ty), mask=inside)


# fmt: off
def _scale_shift_silu_kernel(
    x: tl.tensor, scale: tl.tensor, shift: tl.tensor, out: tl.tensor, channels: tl.tensor,
    frames: tl.tensor, height: tl.tensor, width: tl.tensor, x_b: tl.tensor, x_c: tl.tensor,
    x_t: tl.tensor, out_b: tl.tensor, out_c: tl.tensor, out_t: tl.tensor, table_b: tl.tensor,
    table_c: tl.tensor, table_t: tl.tensor, table_h: tl.tensor, table_w: tl.tensor,
    each_t: tl.tensor, each_h: tl.tensor, each_w: tl.tensor, BLOCK: tl.constexpr,
) -> None:
# fmt: on
    plane = tl.program_id(0).to(tl.int64)
    t, c, b = plane % frames, plane // frames % channels, plane // frames // channels
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < height * width
    h, w = pixel // width, pixel % width
    values = tl.load(x + b * x_b + c * x_c + t * x_t + pixel, mask=inside, other=0.0)
    entry = b * table_b + c * table_c + t // each_t * table_t + h // each_h * table_h + w // each_w * table_w
    factor, summand = tl.load(scale + entry, mask=inside), tl.load(shift + entry, mask=inside)
    y = values.to(tl.float32) * factor.to(tl.float32) + summand.to(tl.float32)
    y = y / (1 + tl.exp(-y))
    tl.store(out + b * out_b + c * out_c + t * out_t + pixel, y.to(out.dtype.element_ty), mask=inside)


KERNELS = (_norm_rotate_kernel, _add_norm_modulate_kernel, _scale_shift_silu_kernel)


@cache
def _jitted() -> dict[Callable, Any]:
    """The kernels as Triton knows them; a kernel is compiled when it meets a new type."""
    global tl
    import triton
    import triton.language

    tl = triton.language
    return {kernel: triton.jit(kernel) for kernel in KERNELS}


# Launching them: the arguments of the plain forms


def launch_norm_rotate(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, table: Tensor | None, eps: float
) -> None:
    """``norm_rotate`` by Triton; ``x`` without gaps, e a power of two."""
    _, tokens, heads, e = x.shape
    rows = x.numel() // e
    each = max(1, 4096 // e)
    kernel = _jitted()[_norm_rotate_kernel]
    affine, rotate = weight is not None, table is not None
    turned = {"E": e, "ROWS": each, "AFFINE": affine, "ROTATE": rotate}
    kernel[(-(-rows // each),)](x, *_or(x, weight, bias, table), rows, tokens, heads, eps, **turned)


def launch_norm_modulate(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    text_len: int,
    eps: float,
) -> Tensor:
    """``norm_modulate`` as one pass by Triton; tensors without gaps."""
    y = torch.empty_like(x)
    _launch_rows(x, None, None, weight, bias, shift, scale, y, text_len, eps)
    return y


def launch_add_gated(x: Tensor, update: Tensor, gate: Tensor, text_len: int) -> None:
    """``add_gated`` as one pass by Triton; tensors without gaps."""
    _launch_rows(x, update, gate, None, None, None, None, None, text_len, 0.0)


def launch_add_norm_modulate(
    x: Tensor,
    update: Tensor,
    gate: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    text_len: int,
    eps: float,
) -> None:
    """``add_norm_modulate`` as one pass by Triton; tensors without gaps."""
    _launch_rows(x, update, gate, weight, bias, shift, scale, update, text_len, eps)


def _launch_rows(
    x: Tensor,
    update: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    y: Tensor | None,
    text_len: int,
    eps: float,
) -> None:
    batch, tokens, width = x.shape
    strides = [*_table_strides(gate), *_table_strides(shift)]
    block = 1 << (width - 1).bit_length()
    flags = {"ADD": update is not None, "NORM": y is not None, "AFFINE": weight is not None}
    _jitted()[_add_norm_modulate_kernel][(batch * tokens,)](
        x,
        *_or(x, update, gate, weight, bias, shift, scale, y),
        tokens,
        text_len,
        *strides,
        eps,
        WIDTH=width,
        BLOCK=block,
        num_warps=8 if block >= 2048 else 4,
        **flags,
    )


def _table_strides(table: Float[Tensor, "b m d"] | None) -> tuple[int, int]:
    """From one sequence to the next, and from video's entry to text's."""
    return (0, 0) if table is None else (table.stride(0), table.stride(1) * (table.shape[1] - 1))


def launch_scale_shift_silu(x: Tensor, scale: Tensor, shift: Tensor, *, out: Tensor) -> None:
    """``scale_shift_silu`` by Triton; plain where the pixels of a frame do not lie one behind the other."""
    b, c, t, h, w = x.shape
    if any(each.stride()[3:] != (w, 1) for each in (x, out)):
        return scale_shift_silu(x, scale, shift, out=out)
    each = [x.shape[dim] // scale.shape[dim] for dim in (2, 3, 4)]
    if scale.stride() != shift.stride():
        scale, shift = scale.contiguous(), shift.contiguous()
    block = 1024
    _jitted()[_scale_shift_silu_kernel][(b * c * t, -(-h * w // block))](
        *(x, scale, shift, out, c, t, h, w, *x.stride()[:3], *out.stride()[:3], *scale.stride(), *each),
        BLOCK=block,
    )


def _or(stand_in: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    """Kernels take no None: what they will not read is some tensor."""
    return [stand_in if tensor is None else tensor for tensor in tensors]


# Operators of torch


OPERATORS: dict[str, tuple[Callable, Callable]] = {
    "norm_rotate(Tensor(a!) x, Tensor? weight, Tensor? bias, Tensor? table, float eps) -> ()": (
        norm_rotate,
        launch_norm_rotate,
    ),
    "norm_modulate(Tensor x, Tensor? weight, Tensor? bias, Tensor shift, Tensor scale, SymInt text_len, float eps)"
    " -> Tensor": (norm_modulate, launch_norm_modulate),
    "add_gated(Tensor(a!) x, Tensor update, Tensor gate, SymInt text_len) -> ()": (
        add_gated,
        launch_add_gated,
    ),
    "add_norm_modulate(Tensor(a!) x, Tensor(b!) update, Tensor gate, Tensor? weight, Tensor? bias, Tensor shift,"
    " Tensor scale, SymInt text_len, float eps) -> ()": (add_norm_modulate, launch_add_norm_modulate),
    "scale_shift_silu(Tensor x, Tensor scale, Tensor shift, *, Tensor(a!) out) -> ()": (
        scale_shift_silu,
        launch_scale_shift_silu,
    ),
}


def _without_memory(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.empty_like(x)


def _refusing(name: str) -> Callable:
    """The operator under autograd: it has no way back, so it refuses where one is wanted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
            raise ConfigError(
                f"{name}: a kernel for inference, without a backward pass; use the plain form here"
            )
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.cogvideox, name)(*args, **kwargs)

    return call


def _define() -> torch.library.Library:
    library = torch.library.Library("cogvideox", "DEF")
    for schema, (plain, launch) in OPERATORS.items():
        name = schema[: schema.index("(")]
        library.define(schema)
        library.impl(name, plain, "CPU")
        library.impl(name, launch, "CUDA")
        library.impl(name, _without_memory if schema.endswith("Tensor") else lambda *args, **kwargs: None, "Meta")
        library.impl(name, _refusing(name), "Autograd")
    return library


_library = _define()
ops = torch.ops.cogvideox


# Which are in use


@contextmanager
def using(names: frozenset[str]) -> Iterator[None]:
    """Inside, these kernels stand in for their plain forms where a layer asks ``is_used``; none otherwise."""
    before = _used.set(names)
    try:
        yield
    finally:
        _used.reset(before)


def is_used(name: str) -> bool:
    """Whether the kernel of this name was chosen, and no gradients are wanted, which it does not have."""
    return name in _used.get() and not torch.is_grad_enabled()


_used: ContextVar[frozenset[str]] = ContextVar("kernels in use", default=frozenset())


def may_run(device: torch.device) -> bool:
    """Whether Triton is there and the device is one that it compiles for."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def is_faster(
    name: str, kernel: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> bool:
    """Whether ``kernel`` gives what ``plain`` gives, in less time. Both may write over their inputs.

    Says no, with a warning, for a kernel that fails or is wrong. Never call it while something is recorded or compiled.
    """
    with torch.no_grad():
        try:
            expected, out = (f(*(x.clone() for x in inputs)) for f in (plain, kernel))
            if not _close(out, expected):
                warnings.warn(f"kernel {name}: wrong or not finite here; not used", stacklevel=2)
                return False
            return _seconds(kernel, inputs) < _seconds(plain, inputs)
        except (
            Exception
        ) as error:  # a compiler of another library, on hardware it may not know: say so, go on
            first_line = (str(error).splitlines() or [type(error).__name__])[0][:150]
            warnings.warn(f"kernel {name}: {first_line}; not used", stacklevel=2)
            return False


def _seconds(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        fresh = [x.clone() for x in inputs]
        start = _now(fresh[0].device)
        function(*fresh)
        best = min(best, _now(fresh[0].device) - start)
    return best


def _close(out: Tensor, expected: Tensor) -> bool:
    if out.shape != expected.shape or not bool(out.isfinite().all()):
        return False
    tolerance = 1e-4 if expected.dtype == torch.float32 else TOLERANCE
    return bool((out.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

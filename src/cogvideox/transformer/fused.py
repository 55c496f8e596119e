"""Blocks with fewer passes over memory, for inference on a GPU: ``gpu_kernels``, and GELU in its product.

A block and its attention keep their plain forms as the reference, and fall back to them wherever a kernel does not fit:
with gradients, for packed sequences, under autocast. Which kernels are used is measured once, before a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cogvideox.cpu_ops import Linear
from cogvideox.gpu_kernels import is_faster, may_run, ops
from cogvideox.transformer.attention import Attention, norm_then_rotate
from cogvideox.transformer.block import (
    Block,
    ExpertNorm,
    FeedForward,
    FeedForwardIn,
    add_gated,
    linear_then_gelu,
)
from cogvideox.transformer.config import TransformerConfig
from cogvideox.transformer.layout import Layout, TokenGrid
from cogvideox.transformer.modality import through
from cogvideox.transformer.position import Rotary
from cogvideox.transformer.transformer import Transformer

FORMS = frozenset({"norm_rotate", "add_norm_modulate", "gelu"})
COMPILED_FORMS = frozenset({"gelu"})
"""What compiled blocks cannot do by themselves: a compiler writes the other passes, but not products."""
MEASURED_ON = Layout.plain(32, TokenGrid(2, 32, 64))
"""Enough tokens to be more than a GPU keeps in cache, and few beside the memory of a run."""


@contextmanager
def fused(network: Transformer, forms: frozenset[str]) -> Iterator[None]:
    """Inside, the blocks of ``network`` use these of ``FORMS`` where they fit; for inference."""
    changed: list[tuple[nn.Module, str]] = []

    def replace(module: nn.Module, name: str, function: Callable) -> None:
        vars(module)[name] = function
        changed.append((module, name))

    for module in network.transformer_blocks.modules():
        if "forward" in vars(module):  # somebody else's: checkpointing
            continue
        if isinstance(module, Block) and "add_norm_modulate" in forms:
            replace(module, "forward", partial(block_forward, module))
        if isinstance(module, FeedForward) and "gelu" in forms:
            replace(module, "linear_gelu", linear_gelu)
        if isinstance(module, Attention) and "norm_rotate" in forms:
            replace(module, "norm_rotate", norm_rotate)
    try:
        yield
    finally:
        for module, name in changed:
            del vars(module)[name]


def block_forward(
    block: Block,
    x: Float[Tensor, "b n d"],
    temb: Float[Tensor, "b clips s"],
    rotary_emb: Complex[Tensor, "n 1 e_half"] | None,
    layout: Layout,
) -> Float[Tensor, "b n d"]:
    """``Block.forward``: after attention one pass adds, normalises and modulates. Written over ``x``."""
    first, second = block.norm1, block.norm2
    if not _fits(first, x, layout) or not _fits(second, x, layout):
        return Block.forward(block, x, temb, rotary_emb, layout)
    text_len = layout.clips[0].text_len
    shift, scale, gate = (each[:, 0] for each in first.vectors(temb))
    y = ops.norm_modulate(x, first.norm.weight, first.norm.bias, shift, scale, text_len, first.norm.eps)
    y = block.attn1(y, rotary_emb, layout)
    shift, scale, next_gate = (each[:, 0] for each in second.vectors(temb))
    affine = second.norm.weight, second.norm.bias
    ops.add_norm_modulate(
        x, y, gate, *affine, shift, scale, text_len, second.norm.eps
    )  # y over what was added
    ops.add_gated(x, through(block.ff, y, layout), next_gate, text_len)
    return x


def norm_rotate(
    norm: nn.Module,
    x: Float[Tensor, "b n k e"],
    rotary_emb: Complex[Tensor, "n 1 e_half"] | None,
    layout: Layout,
) -> Float[Tensor, "b n k e"]:
    """``norm_then_rotate`` in one pass over ``x``."""
    e = x.shape[-1]
    fits = type(norm) is nn.LayerNorm and norm.weight.dtype == x.dtype and e & (e - 1) == 0
    is_real = rotary_emb is not None and not rotary_emb.is_complex()  # a compiled network's own form
    if not fits or is_real or _wants_plain(x):
        return norm_then_rotate(norm, x, rotary_emb, layout)
    assert isinstance(norm, nn.LayerNorm)
    table = None if rotary_emb is None else torch.view_as_real(rotary_emb).flatten(1)
    ops.norm_rotate(x, norm.weight, norm.bias, table, norm.eps)
    return x


def linear_gelu(linear: nn.Module, x: Float[Tensor, "b n d"], approximate: str) -> Float[Tensor, "b n d4"]:
    """``linear_then_gelu`` with GELU in the epilogue of the product (cuBLASLt, which knows the tanh form)."""
    proj: Any = linear.proj
    plain = type(proj) is Linear and type(proj.weight) is nn.Parameter and proj.bias is not None
    if _wants_plain(x) or approximate != "tanh" or not plain or proj.weight.dtype != x.dtype:
        return linear_then_gelu(linear, x, approximate)
    hidden = torch._addmm_activation(proj.bias, x.flatten(0, 1), proj.weight.t(), use_gelu=True)
    return hidden.unflatten(0, x.shape[:2])


def _fits(norm: ExpertNorm, x: Tensor, layout: Layout) -> bool:
    """Whether the kernels compute what the plain form would: one clip, one dtype, no gradients."""
    linear_dtype = next((p.dtype for p in norm.linear.parameters()), x.dtype)  # tables have no parameters
    one_clip = layout.is_plain and x.shape[1] == layout.tokens
    return one_clip and linear_dtype == x.dtype and not _wants_plain(x)


def _wants_plain(x: Tensor) -> bool:
    """Gradients are wanted, or autocast decides about dtypes (which torch 2.11 cannot ask inside compiled code)."""
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.is_grad_enabled() or autocast


def faster_forms(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype, among: frozenset[str] = FORMS
) -> frozenset[str]:
    """Those ``among`` the forms that are right and faster than the plain ones on this device; none without Triton."""
    if not may_run(device):
        return frozenset()
    return _measured(config.width, config.num_attention_heads, config.experts.norm, device, dtype, among)


@cache
def _measured(
    width: int, heads: int, experts: bool, device: torch.device, dtype: torch.dtype, among: frozenset[str]
) -> frozenset[str]:
    with (
        torch.random.fork_rng([device], device_type=device.type),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        return frozenset(
            name
            for name, (kernel, plain, inputs) in _trials(width, heads, experts, device, dtype).items()
            if name in among and is_faster(name, kernel, plain, inputs)
        )


def _trials(
    width: int, heads: int, experts: bool, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]]:
    """For each form what is timed: itself, the plain form, and tensors."""
    where: dict[str, Any] = {"device": device, "dtype": dtype}
    layout = MEASURED_ON
    x, update = (torch.randn(2, layout.tokens, width, **where) for _ in range(2))
    head_norm = nn.LayerNorm(width // heads, **where)
    table = Rotary(width // heads, "slice", (32, 64)).table(layout, device)
    expert = ExpertNorm(8, width, eps=1e-5, affine=True, experts=experts).to(**where)
    temb = torch.randn(2, 1, 8, **where)
    shift, scale, gate = expert.vectors(temb)
    rows = expert.norm.weight, expert.norm.bias, shift[:, 0], scale[:, 0]

    def plain(x: Tensor, update: Tensor) -> Tensor:
        return expert(add_gated(x, update, gate, layout), temb, layout)[0]

    def kernel(x: Tensor, update: Tensor) -> Tensor:
        ops.add_norm_modulate(x, update, gate[:, 0], *rows, layout.clips[0].text_len, 1e-5)
        return update

    trials: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "norm_rotate": (
            lambda q: norm_rotate(head_norm, q, table, layout),
            lambda q: norm_then_rotate(head_norm, q, table, layout),
            (x.unflatten(-1, (heads, -1)),),
        ),
        "add_norm_modulate": (kernel, plain, (x, update)),
    }
    if dtype in (torch.float16, torch.bfloat16):
        linear = FeedForwardIn(width).to(**where)
        trials["gelu"] = (
            lambda x: linear_gelu(linear, x, "tanh"), lambda x: linear_then_gelu(linear, x, "tanh"), (x,)
        )  # fmt: skip
    return trials

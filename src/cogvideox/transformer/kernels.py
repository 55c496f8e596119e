"""Attention kernels: every one that is installed is timed once, and the fastest correct one is used.

Correct means finite and close to torch's own. The choice holds for one device, type and shape as long as the process
runs. 8-bit kernels are candidates only where an approximation was asked for.

Nothing is timed while autograd, activation checkpointing, a compiler or a CUDA graph records: the trials would be
recorded too. Training therefore chooses before its first step (``Fastest.fix``).

In a packed sequence every token sees its own clip and nothing else. The reference (``attend_per_clip``) takes one clip
after the other; on a CPU that is also fast. A GPU wants one kernel for the whole sequence: FlashAttention with variable
lengths, or FlexAttention with a block mask, where such a one is the fastest.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cogvideox.errors import ConfigError, suggest
from cogvideox.transformer.attention import Attention, Heads, attend_per_clip, full_attention
from cogvideox.transformer.attention_kernels import (
    EIGHT_BIT,
    EXACT,
    KERNELS,
    Kernel,
    PackedAttentionFn,
    is_close,
)
from cogvideox.transformer.hub_kernels import PREFIX, load_hub_kernel, read_hub_name
from cogvideox.transformer.layout import ClipTokens, Layout

if TYPE_CHECKING:
    from cogvideox.transformer.transformer import Transformer

REPEATS = 3


@dataclass
class Fastest:
    """An attention function that times the kernels the first time it meets a shape, and keeps the fastest.

    ``fixed``: chosen by ``fix``; used for everything from then on. Where nothing may be timed and nothing is chosen,
    torch's own kernel is used, clip by clip.
    """

    approximate: bool = False
    kernels: Sequence[Kernel] = KERNELS
    chosen: dict[tuple, Kernel] = field(default_factory=dict)
    chosen_packed: dict[tuple, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    fixed: Named | None = None

    def __call__(self, q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
        kernel = self.kernel_for(q, k, v)
        self.used.add(kernel.name)
        return kernel.run(q, k, v)

    def kernel_for(self, q: Heads, k: Heads, v: Heads) -> Kernel:
        """The kernel for tensors like these, chosen by time on the first call."""
        if self.fixed is not None:
            return self.fixed.kernel_for(q, k, v)
        if torch.compiler.is_compiling():  # before a dictionary is asked, which a compiler cannot follow
            return self.kernels[0]
        key = (q.device, q.dtype, q.shape, q.requires_grad)
        if key not in self.chosen:
            if not _may_measure(q, k, v):
                return self.kernels[0]
            self.chosen[key] = self.choose(q, k, v)
        return self.chosen[key]

    def packed(self, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
        """A packed sequence; what was fastest for the first is used for all of its type, whatever their clips."""
        if self.fixed is not None:
            return self.fixed.packed(q, k, v, layout)
        if torch.compiler.is_compiling():
            return attend_per_clip(self, q, k, v, layout)
        key = (q.device, q.dtype, q.shape[1], q.shape[3], q.requires_grad)
        if key not in self.chosen_packed:
            if not _may_measure(q, k, v):
                return attend_per_clip(self, q, k, v, layout)
            self.chosen_packed[key] = self.choose_packed(q, k, v, layout)
        kernels = {one.name: one for one in _on_whole_sequence(self.kernels, layout)}
        if self.chosen_packed[key] not in kernels:
            return attend_per_clip(self, q, k, v, layout)
        self.used.add(self.chosen_packed[key])
        return kernels[self.chosen_packed[key]].run(q, k, v)

    def fix(self, q: Heads, k: Heads, v: Heads, layout: Layout) -> Kernel:
        """Time the kernels on a sequence like those that will be trained on, and use the fastest for everything."""
        longest = max(layout.clips, key=lambda clip: clip.tokens)
        kernel, name = self.choose(*(x[:, :, : longest.tokens] for x in (q, k, v))), BY_CLIP
        if not layout.is_plain:
            name = self.choose_packed(q, k, v, layout)
            kernel = next((one for one in self.kernels if one.name == name), replace(kernel, packed=None))
        self.fixed = Named(kernel, self.used)
        return kernel

    def choose_packed(self, q: Heads, k: Heads, v: Heads, layout: Layout) -> str:
        """The name of the fastest kernel for a packed sequence as a whole, or ``BY_CLIP``."""
        by_clip = Kernel(BY_CLIP, lambda q, k, v: attend_per_clip(self, q, k, v, layout), lambda q: True)
        whole = (by_clip, *_on_whole_sequence(self.kernels, layout))
        return replace(self, kernels=whole).choose(q, k, v).name

    def choose(self, q: Heads, k: Heads, v: Heads) -> Kernel:
        """The fastest kernel whose result is correct; the only usable one without timing it."""
        usable = [
            one
            for one in self.kernels
            if one.usable(q) and not one.packed_only and (self.approximate or not one.approximate)
        ]
        if len(usable) == 1:
            return usable[0]
        expected = self.kernels[0].run(q.detach(), k.detach(), v.detach())
        times = {one.name: seconds for one in usable if (seconds := _seconds(one, expected, q, k, v))}
        return min(usable, key=lambda one: times.get(one.name, float("inf")))


@dataclass(frozen=True)
class Named:
    """An attention function that always uses this kernel: nothing is timed, so two runs compute the same.

    Where the kernel does not fit a tensor's device or type, torch's own stands in.
    """

    kernel: Kernel
    used: set[str] = field(default_factory=set)

    def __call__(self, q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
        kernel = self.kernel_for(q, k, v)
        self.used.add(kernel.name)
        return kernel.run(q, k, v)

    def kernel_for(self, q: Heads, k: Heads, v: Heads) -> Kernel:
        """This kernel, or torch's own where this one does not fit."""
        return self.kernel if self.kernel.usable(q) else KERNELS[0]

    def packed(self, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
        """A packed sequence: as a whole where this kernel can, else clip by clip."""
        if self.kernel.packed is not None and self.kernel.usable(q):
            self.used.add(self.kernel.name)
            return self.kernel.packed(q, k, v, layout)
        return attend_per_clip(self, q, k, v, layout)


BY_CLIP = "clip by clip"


def _on_whole_sequence(kernels: Sequence[Kernel], layout: Layout) -> list[Kernel]:
    """The kernels that take a packed sequence as a whole, bound to this one."""

    def bound(packed: PackedAttentionFn) -> Callable[[Heads, Heads, Heads], Heads]:
        return lambda q, k, v: packed(q, k, v, layout)

    return [
        replace(one, run=bound(one.packed), packed_only=False) for one in kernels if one.packed is not None
    ]


def read_attention(name: str) -> list[str]:
    """The names in ``name``, checked: fastest, one of ``KERNELS``, one of the hub (``hub:owner/name``), or fastest and
    some of the hub with commas between, which are candidates then.

    Nothing is fetched. Raises ConfigError for others and DependencyError, as ``hub_kernels.read_hub_name``.
    """
    from cogvideox.transformer.hub_kernels import (
        PREFIX,
    )  # imported here: it builds on this module

    names = [
        each.strip() for each in name.replace(" ", "-").split(",")
    ]  # blanks: as runs before 0.2 wrote it
    known = ["fastest", *(one.name for one in KERNELS)]
    for each in names:
        if each.startswith(PREFIX):
            read_hub_name(each)
        elif each not in known:
            raise ConfigError(
                f"attention kernel {each!r}: unknown{suggest(each, known)}; one of {', '.join(known)}, or "
                f"{PREFIX}kernels-community/flash-attn3 and the like"
            )
    if len(names) > 1 and (names[0] != "fastest" or not all(each.startswith(PREFIX) for each in names[1:])):
        raise ConfigError(
            f"attention {name!r}: one kernel, or fastest,{PREFIX}OWNER/NAME to let kernels of the hub compete"
        )
    return names


@cache
def get_attention_fn(name: str = "fastest", approximate: bool = False) -> Fastest | Named:
    """The attention function of this name, as ``read_attention`` has it. Choices are kept between calls.

    Kernels of the hub are loaded. Raises as ``read_attention`` and ``hub_kernels.load_hub_kernel``.
    """
    first, *others = read_attention(name)
    if first == "fastest":
        hub = tuple(load_hub_kernel(each) for each in others)
        return Fastest(approximate or any(one.approximate for one in hub), (*KERNELS, *hub))
    if first.startswith(PREFIX):
        return Named(load_hub_kernel(first))
    return Named(next(one for one in KERNELS if one.name == first))


def use_kernel(
    network: nn.Module, kernel: str | Fastest | Named = "fastest", approximate: bool = False
) -> Fastest | Named:
    """Give every full attention of ``network`` a kernel, by name or as an attention function, which is returned.

    To train with "fastest", give a ``Fastest`` of your own and call its ``fix`` before the first step. Raises
    ConfigError like ``get_attention_fn``.
    """
    attn_fn = get_attention_fn(kernel, approximate) if isinstance(kernel, str) else kernel
    for module in _full(network):
        module.attn_fn = attn_fn
    return attn_fn


@contextmanager
def using_kernel(
    network: nn.Module, name: str = "fastest", approximate: bool = False
) -> Iterator[Fastest | Named]:
    """``use_kernel`` inside, and what was there before afterwards; ``used`` names the kernels that ran inside."""
    before = [(module, module.attn_fn) for module in _full(network)]
    attn_fn = use_kernel(network, name, approximate)
    attn_fn.used.clear()
    try:
        yield attn_fn
    finally:
        for module, kept in before:
            module.attn_fn = kept


def _full(network: nn.Module) -> list[Attention]:
    """The attentions whose kernel may be chosen: other functions (split, over ranks) are more than a kernel."""
    found = [module for module in network.modules() if isinstance(module, Attention)]
    return [
        each for each in found if each.attn_fn is full_attention or isinstance(each.attn_fn, Fastest | Named)
    ]


def random_heads(
    network: Transformer, batch: int, tokens: int, dtype: torch.dtype, requires_grad: bool = False
) -> tuple[Heads, Heads, Heads]:
    """q, k and v as an attention of ``network`` would be given, of random numbers that nobody else draws."""
    config, device = network.config, network.proj_out.weight.device
    shape = (batch, config.num_attention_heads, tokens, config.attention_head_dim)
    draw = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, generator=draw) for _ in range(3))
    return q.requires_grad_(requires_grad), k.requires_grad_(requires_grad), v.requires_grad_(requires_grad)


def _may_measure(*heads: Heads) -> bool:
    """Not while anybody records: a CUDA graph, or autograd, whose hooks (checkpointing) would count the trials."""
    if heads[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return not torch.is_grad_enabled() or (hooks is None and not any(x.requires_grad for x in heads))


def _seconds(kernel: Kernel, expected: Tensor, q: Heads, k: Heads, v: Heads) -> float | None:
    """The shortest of some runs, with the backward pass where gradients are wanted; None for a kernel that is wrong."""
    best = float("inf")
    for _ in range(REPEATS + 1):
        try:
            inputs = [x.detach().requires_grad_(x.requires_grad) for x in (q, k, v)]
            with torch.enable_grad() if q.requires_grad else nullcontext():
                start = _now(q.device)
                out = kernel.run(*inputs)
                if q.requires_grad:
                    out.sum().backward()
                best = min(best, _now(q.device) - start)
        except Exception as error:  # a kernel of another library, on hardware it may not know: say so, go on
            warnings.warn(f"attention kernel {kernel.name}: {str(error).splitlines()[0][:150]}", stacklevel=2)
            return None
    if not is_close(out.detach(), expected, EIGHT_BIT if kernel.approximate else EXACT):
        warnings.warn(f"attention kernel {kernel.name}: wrong or not finite here; not used", stacklevel=2)
        return None
    return best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

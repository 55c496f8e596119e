"""Attention kernels from the hub: ``hub:kernels-community/flash-attn3``, fetched by the package ``kernels``.

Such a kernel is compiled code of somebody else that runs here, so it is used only where it is asked for by name, and
fetched only from publishers in ``TRUSTED`` or in the environment variable COGVIDEOX_TRUST_KERNELS (names with commas):
no line of a batch and no request over a network can widen that. Before it computes anything, it is compared with
torch's own attention on a sample of the same device and type.

A kernel is recognised by the functions of its module: ``flash_attn_func`` (FlashAttention 2, 3, 4: tokens before heads;
``flash_attn_varlen_func`` for packed sequences) or ``sageattn`` (SageAttention: 8-bit scores, an approximation).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvideox.errors import ConfigError, DependencyError
from cogvideox.transformer.attention import Heads
from cogvideox.transformer.attention_kernels import (
    EIGHT_BIT,
    EXACT,
    Kernel,
    cumulative_lengths,
    flatten_batch,
    is_close,
)
from cogvideox.transformer.layout import Layout

PREFIX = "hub:"
TRUSTED = ("kernels-community",)
TRUST_VARIABLE = "COGVIDEOX_TRUST_KERNELS"
VERSIONS = {
    "kernels-community/flash-attn2": 3,
    "kernels-community/flash-attn3": 1,
    "kernels-community/flash-attn4": 0,
    "SageAttention/sage-attention": 3,
}
"""The version that is taken where none is named, as diffusers does; of others version 1."""
SAMPLE = 333
"""Tokens of the sample: several blocks of every kernel, and a rest."""


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, ``owner/name``, and the version (a number) or revision of it."""

    repository: str
    revision: int | str

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}"

    @property
    def publisher(self) -> str:
        """Who publishes it: the owner of the repository."""
        return self.repository.split("/")[0]


def read_hub_name(text: str) -> HubName:
    """``hub:owner/name`` or ``hub:owner/name@version``; nothing is fetched.

    Raises ConfigError for other texts and for publishers nobody trusts, DependencyError without the package.
    """
    found = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if found is None:
        raise ConfigError(
            f"attention kernel {text!r}: not a kernel of the hub; write {PREFIX}kernels-community/flash-attn3"
        )
    repository, revision = found.groups()
    if revision is None:
        name = HubName(repository, VERSIONS.get(repository, 1))
    else:
        name = HubName(repository, int(revision) if revision.isdecimal() else revision)
    if name.publisher not in trusted_publishers():
        raise ConfigError(
            f"attention kernel {text}: is compiled code of {name.publisher!r}, and only that of "
            f"{', '.join(trusted_publishers())} is run; to trust it set {TRUST_VARIABLE}={name.publisher}"
        )
    if find_spec("kernels") is None:
        raise DependencyError(
            f"attention kernel {text}: the package kernels is not installed; pip install 'cogvideox[kernels]', or use "
            "attention fastest"
        )
    return name


def trusted_publishers() -> tuple[str, ...]:
    """Owners on the hub whose kernels may run here."""
    told = os.environ.get(TRUST_VARIABLE, "").split(",")
    return (*TRUSTED, *(owner.strip() for owner in told if owner.strip()))


@cache
def load_hub_kernel(text: str) -> Kernel:
    """The kernel of this name, downloaded where the cache does not hold it.

    Raises ConfigError where the hub has none for this system, or one without a known function; and as
    ``read_hub_name``.
    """
    name = read_hub_name(text)
    module = _fetch(name)
    known = [each for each in ("flash_attn_func", "sageattn") if hasattr(module, each)]
    if not known:
        has = ", ".join(each for each in dir(module) if not each.startswith("_")) or "nothing"
        raise ConfigError(
            f"attention kernel {text}: has neither flash_attn_func nor sageattn; its module has {has}"
        )
    if known[0] == "sageattn":
        sage = KernelCheck(
            str(name), lambda q, k, v: module.sageattn(q, k, v, tensor_layout="HND"), EIGHT_BIT
        )
        return Kernel(str(name), sage.run, lambda q: not q.requires_grad and sage.fits(q), approximate=True)

    def run(q: Heads, k: Heads, v: Heads) -> Heads:
        return _first(module.flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)))).transpose(1, 2)

    def packed(q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
        return flash_varlen(module, q, k, v, layout)

    check = KernelCheck(str(name), run, EXACT)
    varlen = packed if hasattr(module, "flash_attn_varlen_func") else None
    return Kernel(str(name), run, check.fits, packed=varlen)


def flash_varlen(module: ModuleType, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
    """FlashAttention of a hub module over clips of different lengths."""
    starts, longest = cumulative_lengths(layout, len(q), q.device), max(layout.clip_lengths)
    flat = (flatten_batch(x) for x in (q, k, v))
    out = _first(module.flash_attn_varlen_func(*flat, starts, starts, longest, longest))
    return out.unflatten(0, (len(q), -1)).transpose(1, 2)


@dataclass
class KernelCheck:
    """Whether a kernel computes what torch's own does, compared once for each device, type and width of a head.

    ``tolerance``: largest difference, relative to the largest value. ``faults``: what is wrong, '' for nothing.
    """

    name: str
    run: Callable[[Heads, Heads, Heads], Heads]
    tolerance: float
    faults: dict[tuple, str] = field(default_factory=dict)

    def fits(self, q: Tensor) -> bool:
        """Whether tensors like ``q`` may be given to the kernel; of others a warning says why not, once."""
        if torch.compiler.is_compiling() or (q.is_cuda and torch.cuda.is_current_stream_capturing()):
            return not any(self.faults.values())  # nothing can be compared now
        key = (q.device.type, q.dtype, q.shape[-1], q.requires_grad)
        if key not in self.faults:
            self.faults[key] = self.compare(q.device, q.dtype, q.shape[-1], q.requires_grad)
            if self.faults[key]:
                warnings.warn(
                    f"attention kernel {self.name}: {self.faults[key]}; torch's own is used", stacklevel=3
                )
        return not self.faults[key]

    def compare(self, device: torch.device, dtype: torch.dtype, width: int, gradients: bool = False) -> str:
        """What is wrong with the kernel on random heads of ``width`` channels, with ``gradients`` theirs too."""
        draw = torch.Generator().manual_seed(0)
        given = [torch.randn(1, 2, SAMPLE, width, generator=draw).to(device, dtype) for _ in range(3)]
        # as if alone: activation checkpointing around this must not count what is saved here
        with torch.inference_mode(False), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            expected = _with_gradients(F.scaled_dot_product_attention, given, gradients)
            try:
                found = _with_gradients(self.run, given, gradients)
            except Exception as error:  # code of others, on hardware it may not know
                return f"fails on {device} in {_name(dtype)} ({str(error).splitlines()[0][:150]})"
        for what, one, two in zip(
            ("output", *(f"gradient of {x}" for x in "qkv")), found, expected, strict=False
        ):
            if not is_close(one, two, self.tolerance):
                return f"its {what} is not torch's, on {device} in {_name(dtype)} with heads of {width}"
        return ""


def check_hub_kernels(names: Sequence[str], device: torch.device, dtype: torch.dtype, width: int) -> None:
    """Load the hub's kernels among ``names`` and compare each on a sample. Raises ConfigError for an unlike one."""
    for name in names:
        if name.startswith(PREFIX) and not load_hub_kernel(name).usable(
            torch.empty(1, 1, 1, width, device=device, dtype=dtype)
        ):
            raise ConfigError(
                f"attention kernel {name}: cannot be used on {device} in {_name(dtype)} with heads of {width}; see the "
                "warning above, and use another dtype or attention fastest"
            )


def _with_gradients(run: Callable[..., Tensor], given: Sequence[Tensor], gradients: bool) -> list[Tensor]:
    """The output on copies of ``given``, and the gradients of q, k and v where they are wanted."""
    inputs = [x.clone().requires_grad_(gradients) for x in given]
    with torch.enable_grad() if gradients else torch.no_grad():
        out = run(*inputs)
        if not gradients:
            return [out]
        weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).reshape(out.shape)
        return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]


def _fetch(name: HubName) -> ModuleType:
    """The module of a kernel, from the hub or its cache. Raises ConfigError where it cannot be had."""
    from kernels import get_kernel

    wanted = {"version" if isinstance(name.revision, int) else "revision": name.revision}
    trust = False if name.publisher in TRUSTED else [name.repository]
    try:
        return get_kernel(name.repository, trust_remote_code=trust, **wanted)
    except Exception as error:  # no such repository, no network, no build for this torch or card
        raise ConfigError(
            f"attention kernel {name}, version {name.revision}: cannot be had for torch {torch.__version__} here "
            f"({str(error).splitlines()[0][:200]}); use attention fastest"
        ) from error


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The output, without the log-sum-exp that some versions give beside it."""
    return out[0] if isinstance(out, tuple) else out


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

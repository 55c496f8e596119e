"""A low-rank adapter as a value: matrices by layer, where they came from, and what they do.

    W + scale * alpha / rank * B A        A: [rank, in]   B: [out, rank]

Two variants of PEFT: a bias beside B, and DoRA, which gives every output row of the changed weight a norm of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvideox.checkpoints.tensors import is_finite
from cogvideox.errors import CheckpointError
from cogvideox.files import short

MOST_RANK = 8192
MOST_ALPHA = 1e6


class AlphaUnknownError(CheckpointError):
    """A sound adapter whose file does not say its alpha."""


class OddSettingsError(AlphaUnknownError):
    """Settings in a file that cannot be used; with alpha given they are not needed."""


@dataclass(frozen=True)
class Pair:
    """The two matrices of one layer, and the alpha they were trained with.

    ``bias`` [out] is added to what B makes; ``magnitude`` [out] is the norm of each row of the changed weight (DoRA).
    ``kernel`` is that of a convolution whose weight is [out, channels, *kernel]; A holds it flat.
    """

    a: Tensor
    b: Tensor
    alpha: float
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    kernel: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Outputs and inputs of the layer they are for."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def scaling(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        tensors = (self.a, self.b, self.bias, self.magnitude)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


@dataclass(frozen=True)
class Adapter:
    """Pairs by the name of the layer in our transformer.

    ``origin`` is the kind of file, ``alpha_from`` says where alpha was found, ``passed_over`` what the file holds
    beside and is not used.
    """

    pairs: dict[str, Pair]
    origin: str = ""
    alpha_from: str = ""
    passed_over: tuple[str, ...] = ()

    @property
    def ranks(self) -> list[int]:
        """The ranks that occur."""
        return sorted({pair.rank for pair in self.pairs.values()})

    @property
    def alphas(self) -> list[float]:
        """The alphas that occur."""
        return sorted({pair.alpha for pair in self.pairs.values()})

    @property
    def bytes(self) -> int:
        """Memory of all its tensors."""
        return sum(pair.bytes for pair in self.pairs.values())

    @property
    def variants(self) -> list[str]:
        """What it has beyond plain low-rank matrices of linear layers."""
        pairs = self.pairs.values()
        found = {
            "DoRA": any(pair.magnitude is not None for pair in pairs),
            "biases": any(pair.bias is not None for pair in pairs),
            "convolution": any(pair.kernel for pair in pairs),
        }
        return [name for name, there in found.items() if there]

    def delta_norm(self) -> float:
        """The Frobenius norm of all changes B A and of the biases; DoRA's norms are not counted."""
        return sum(_delta_square(pair) for pair in self.pairs.values()) ** 0.5

    def does_nothing(self) -> bool:
        """Whether it surely was not trained: all its changes are zero."""
        return self.delta_norm() < 1e-8 and "DoRA" not in self.variants


def make_pair(where: str, layer: str, tensors: Mapping[str, Tensor], alpha: float) -> Pair:
    """A pair from its tensors by role: a, b, and where there are bias and magnitude.

    ``where`` names the file. Raises CheckpointError when one is missing, does not fit, holds integers,
    NaN or Inf.
    """
    for role, name in (("a", "lora_A (down)"), ("b", "lora_B (up)")):
        if role not in tensors:
            raise CheckpointError(
                f"{where}: {layer} has no {name}: the pair is not whole; copy the file again"
            )
    for tensor in tensors.values():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{where}: {layer}: its matrices are {kind}, not floating point; was it quantised? "
                "use the file from before"
            )
        if not is_finite(tensor):
            raise CheckpointError(f"{where}: NaN or Inf in {layer}; take an earlier checkpoint")
    a, b, bias, magnitude = (_usable(tensors.get(role)) for role in ("a", "b", "bias", "magnitude"))
    assert a is not None and b is not None
    shapes = f"lora_A {list(a.shape)} and lora_B {list(b.shape)}"
    if a.ndim < 2 or b.ndim < 2 or a.shape[0] != b.shape[1] or not a.numel() or not b.numel():
        raise CheckpointError(f"{where}: {layer}: {shapes} do not fit each other")
    if any(side != 1 for side in b.shape[2:]) or a.ndim > 5:
        raise CheckpointError(f"{where}: {layer}: {shapes}: a convolution of this kind is not run")
    if a.shape[0] > MOST_RANK:
        raise CheckpointError(f"{where}: {layer}: rank {a.shape[0]:,}; at most {MOST_RANK:,} is read")
    out = b.shape[0]
    if bias is not None and tuple(bias.shape) != (out,):
        raise CheckpointError(f"{where}: {layer}: a bias {list(bias.shape)} for {out} outputs")
    if magnitude is not None:
        magnitude = _row_norms(where, layer, magnitude, out)
        if bias is not None:
            raise CheckpointError(
                f"{where}: {layer}: DoRA and a bias at once, which PEFT does not know either"
            )
    return Pair(a.flatten(1), b.flatten(1), alpha, bias, magnitude, tuple(a.shape[2:]))


def check_alpha(value: object, where: str, error: type[CheckpointError] = OddSettingsError) -> float:
    """Alpha as a finite number of sensible size; raises ``error``."""
    try:
        number = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > MOST_ALPHA:
        raise error(
            f"{where}: alpha {short(value)} is not a finite number up to {MOST_ALPHA:g}; pass alpha (--lora-alpha)"
        )
    return number


def _usable(tensor: Tensor | None) -> Tensor | None:
    """In a precision that layers compute in: 8-bit and double become float32."""
    plain = tensor is None or tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return tensor if plain or tensor is None else tensor.float()


def _row_norms(where: str, layer: str, magnitude: Tensor, out: int) -> Tensor:
    shape = tuple(magnitude.shape)
    if magnitude.numel() == out and (shape[0] == out or (len(shape) > 2 and shape[1] == out)):
        return magnitude.flatten()  # PEFT keeps those of convolutions as [1, out, 1, 1]
    if magnitude.numel() == out and magnitude.ndim > 1 and magnitude.shape[1] == out and out > 1:
        kind = "norms over the outputs (LyCORIS with wd_on_output false)"
    else:
        kind = "not one norm for each output"
    raise CheckpointError(
        f"{where}: {layer}: DoRA magnitudes {list(magnitude.shape)} for {out} outputs: {kind}, which are not run; "
        "merge it with the tool that made it"
    )


def _delta_square(pair: Pair) -> float:
    # |B A|² = trace((Bᵀ B)(A Aᵀ)), rank x rank; or the product itself where smaller: never larger than A and B
    a, b = pair.a.float(), pair.b.float()
    outputs, inputs = pair.size
    if pair.rank**2 <= outputs * inputs:
        square = float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0))
    else:
        square = float((b @ a).square().sum())
    if pair.bias is not None:
        square += float(pair.bias.float().square().sum())
    return square * pair.scaling**2

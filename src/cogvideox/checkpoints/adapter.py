"""A low-rank adapter as a value: matrices by layer, checked; and writing it as diffusers, PEFT and SAT read it.

    W + scale * alpha / rank * B A        A: [rank, in]   B: [out, rank]

Two variants of PEFT: a bias beside B, and DoRA, which gives every output row of the changed weight a norm of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cogvideox.brief import Brief
from cogvideox.checkpoints.sat import PREFIX, write_sat
from cogvideox.checkpoints.tensors import is_finite, write_file
from cogvideox.errors import CheckpointError, few
from cogvideox.files import short
from cogvideox.files.atomic import atomic_file, write_json

LORA_FILE, METADATA = "pytorch_lora_weights.safetensors", "lora_adapter_metadata"
"""diffusers' file, and the entry of its header that holds PEFT's settings, "transformer." before their names."""
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MOST_RANK, MOST_ALPHA = 8192, 1e6
Form = Literal["diffusers", "peft", "sat"]


class AlphaUnknownError(CheckpointError):
    """A sound adapter whose file does not say its alpha."""


class OddSettingsError(AlphaUnknownError):
    """Settings in a file that cannot be used; with alpha given they are not needed."""


@dataclass(frozen=True, repr=False)
class Pair(Brief):
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


@dataclass(frozen=True, repr=False)
class Adapter(Brief):
    """Pairs by the name of the layer in our transformer.

    ``origin`` is the kind of file, ``alpha_from`` where alpha was found, ``passed_over`` what the file holds unused.
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
    def variants(self) -> list[str]:
        """What it has beyond plain low-rank matrices of linear layers."""
        pairs = self.pairs.values()
        has = {
            "DoRA": any(pair.magnitude is not None for pair in pairs),
            "biases": any(pair.bias is not None for pair in pairs),
            "convolution": any(pair.kernel for pair in pairs),
        }
        return [name for name, there in has.items() if there]

    def delta_norm(self) -> float:
        """The Frobenius norm of all changes B A and of the biases; DoRA's norms are not counted."""
        return sum(_delta_square(pair) for pair in self.pairs.values()) ** 0.5

    def does_nothing(self) -> bool:
        """Whether it surely was not trained: all its changes are zero."""
        return self.delta_norm() < 1e-8 and "DoRA" not in self.variants


def make_pair(where: str, layer: str, tensors: Mapping[str, Tensor], alpha: float) -> Pair:
    """A pair from its tensors by role: a, b, and maybe bias and magnitude; ``where`` names the file.

    Raises CheckpointError when one is missing, does not fit, holds integers, NaN or Inf.
    """
    for role, name in (("a", "lora_A (down)"), ("b", "lora_B (up)")):
        if role not in tensors:
            raise CheckpointError(
                f"{where}: {layer} has no {name}: the pair is not whole; copy the file again"
            )
    usable = {role: _usable(where, layer, tensor) for role, tensor in tensors.items()}
    a, b, bias, magnitude = usable["a"], usable["b"], usable.get("bias"), usable.get("magnitude")
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
            f"{where}: alpha {short(value)} is not a finite number up to {MOST_ALPHA:g}; pass alpha (--lora-alpha; "
            "convert: --alpha)"
        )
    return number


def _usable(where: str, layer: str, tensor: Tensor) -> Tensor:
    """In a precision that layers compute in: 8-bit floats and double become float32. Raises CheckpointError."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{where}: {layer}: its matrices are {kind}, not floating point; was it quantised? use the file from before"
        )
    if not is_finite(tensor):
        raise CheckpointError(f"{where}: NaN or Inf in {layer}; take an earlier checkpoint")
    return tensor if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16) else tensor.float()


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


def write_adapter(
    adapter: Adapter, path: str | Path, form: Form = "diffusers", overwrite: bool = False
) -> Path:
    """Write an adapter with its rank and alpha; returns the file.

    ``path`` is a folder, or for ``diffusers`` also a ``.safetensors`` file. SAT knows no alpha (it is always 1), so B
    is multiplied by alpha there: exact when alpha is a power of two.
    """
    path = Path(path)
    if not adapter.pairs:
        raise CheckpointError(f"{path}: an adapter without layers is not written")
    if form == "sat":
        return write_sat(path, "lora", _sat_tensors(adapter), overwrite)
    prefix = "transformer." if form == "diffusers" else "base_model.model."
    tensors = {
        f"{prefix}{layer}.{name}": tensor
        for layer, pair in adapter.pairs.items()
        for name, tensor in _peft_tensors(pair).items()
    }
    settings, metadata = _peft_settings(path, adapter), dict[str, str]()
    file = path / PEFT_FILE
    if form == "diffusers":
        file = path if path.suffix == ".safetensors" else path / LORA_FILE
        named = {f"transformer.{key}": value for key, value in settings.items()}
        metadata[METADATA] = json.dumps(named, sort_keys=True)
    with atomic_file(file, overwrite) as work:
        write_file(work, tensors, metadata)
    if form == "peft":
        write_json(path / PEFT_CONFIG, {"peft_type": "LORA", **settings}, overwrite)
    return file


def _peft_tensors(pair: Pair) -> dict[str, Tensor]:
    """The tensors under the names that PEFT puts after the layer's; matrices of a convolution in its shape."""
    a, b, ones = pair.a, pair.b, (1,) * len(pair.kernel)
    if pair.kernel:
        a, b = a.unflatten(1, (-1, *pair.kernel)), b.reshape(*b.shape, *ones)
    tensors = {"lora_A.weight": a, "lora_B.weight": b}
    if pair.bias is not None:
        tensors["lora_B.bias"] = pair.bias
    if pair.magnitude is not None:
        shape = (1, -1, *ones) if pair.kernel else (-1,)
        tensors["lora_magnitude_vector"] = pair.magnitude.reshape(shape)
    return tensors


def _peft_settings(path: Path, adapter: Adapter) -> dict[str, Any]:
    """What PEFT needs to know: rank and alpha of the most layers, and the layers that differ."""
    pairs = adapter.pairs.items()
    switches: dict[str, bool] = {}
    for switch, attribute in (("use_dora", "magnitude"), ("lora_bias", "bias")):
        held = [getattr(pair, attribute) is not None for _, pair in pairs]
        if any(held) and not all(held):
            raise CheckpointError(
                f"{path}: {attribute} on some layers alone, which PEFT cannot hold; merge the adapter"
            )
        switches |= {switch: True} if any(held) else {}
    ranks, alphas = [pair.rank for _, pair in pairs], [pair.alpha for _, pair in pairs]
    rank, alpha = max(set(ranks), key=ranks.count), max(set(alphas), key=alphas.count)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(name): pair.rank for name, pair in pairs if pair.rank != rank},
        "alpha_pattern": {re.escape(name): pair.alpha for name, pair in pairs if pair.alpha != alpha},
        "target_modules": sorted(adapter.pairs),
        "lora_dropout": 0.0,
        "bias": "none",
        **switches,
    }


def _sat_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The matrices under SAT's names, alpha multiplied into B. Raises CheckpointError for what SAT cannot hold."""
    tensors, wrong = dict[str, Tensor](), []
    for layer, pair in adapter.pairs.items():
        name = re.fullmatch(r"transformer_blocks\.(\d+)\.attn1\.to_(q|k|v|out\.0)", layer)
        if name is None or pair.bias is not None or pair.magnitude is not None:
            wrong.append(layer)
            continue
        block, letter = name.groups()
        linear, number = ("dense", 0) if letter == "out.0" else ("query_key_value", "qkv".index(letter))
        stem = f"{PREFIX}transformer.layers.{block}.attention.{linear}"
        tensors[f"{stem}.matrix_A.{number}"] = pair.a
        tensors[f"{stem}.matrix_B.{number}"] = pair.b if pair.alpha == 1.0 else pair.b * pair.alpha
    if wrong:
        raise CheckpointError(
            f"SAT adapts q, k, v and the attention output only, without biases and DoRA; these have no place: "
            f"{few(wrong)}"
        )
    return tensors

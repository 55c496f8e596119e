"""The weights of a network in each quantised format, written as its own library writes them or by its formula."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
Written = tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]
"""Tensors of the file, its metadata, and every weight as plain numbers."""


def is_matrix(name: str, weight: Tensor) -> bool:
    """The weights that quantisers take: those of linear layers."""
    return weight.ndim == 2 and name.endswith(".weight") and "patch_embed.proj" not in name


def by_layer(
    weights: dict[str, Tensor], form: Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]
) -> Written:
    """Every matrix written by ``form(name, weight) -> (its tensors, its numbers)``, the rest as it is in float16."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if is_matrix(name, weight):
            parts, numbers[name] = form(name, weight.float())
            tensors |= parts
        else:
            tensors[name] = weight.half()
            numbers[name] = tensors[name].float()
    return tensors, {}, numbers


def gguf_in_safetensors(kind: str) -> Callable[[dict[str, Tensor]], Written]:
    """Kijai's and MinusZone's files: blocks made by the library ``gguf``."""
    import gguf

    def form(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        blocks = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[kind])
        numbers = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
        packed = torch.from_numpy(blocks.reshape(weight.shape[0], -1).copy())
        return {f"{name.removesuffix('.weight')}.{kind}_qweight": packed}, torch.from_numpy(numbers.copy())

    return lambda weights: by_layer(weights, form)


def fp8(weights: dict[str, Tensor]) -> Written:
    """Every tensor cast to e4m3, norms and biases too."""
    tensors = {name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()}
    return tensors, {}, {name: tensor.float() for name, tensor in tensors.items()}


def scaled_fp8(weights: dict[str, Tensor]) -> Written:
    """One scale for each matrix, beside it."""

    def form(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.abs().max() / 448
        packed = (weight / scale).to(torch.float8_e4m3fn)
        layer = name.removesuffix(".weight")
        return {name: packed, f"{layer}.scale_weight": scale.reshape(1)}, packed.float() * scale

    tensors, metadata, numbers = by_layer(weights, form)
    return tensors | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, metadata, numbers


def nf4(double: bool) -> Callable[[dict[str, Tensor]], Written]:
    """bitsandbytes in 4 bits, by its formula; ``double``: its scales in 8 bits as well."""
    table = torch.tensor(NF4)

    def form(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        runs = weight.reshape(-1, 64)
        absmax = runs.abs().amax(1)
        q = (runs / absmax[:, None].clamp(min=1e-12))[..., None].sub(table).abs().argmin(-1)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(weight.shape)}
        pairs = q.reshape(-1, 2)
        tensors = {name: (pairs[:, :1] << 4 | pairs[:, 1:]).byte(), f"{name}.quant_map": table.clone()}
        if double:
            codes = torch.linspace(-1, 1, 256)
            offset = absmax.mean()
            groups = (absmax - offset).split(256)
            largest = torch.stack([group.abs().max() for group in groups])
            index = torch.cat(
                [
                    (g / m.clamp(min=1e-12))[:, None].sub(codes).abs().argmin(-1)
                    for g, m in zip(groups, largest, strict=True)
                ]
            )
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
            tensors |= {f"{name}.absmax": index.byte(), f"{name}.nested_quant_map": codes.clone()}
            tensors[f"{name}.nested_absmax"] = largest
            absmax = codes[index] * largest.repeat_interleave(256)[: len(index)] + float(offset)
        else:
            tensors[f"{name}.absmax"] = absmax
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        tensors[f"{name}.quant_state.bitsandbytes__nf4"] = text
        return tensors, (table[q] * absmax[:, None]).reshape(weight.shape)

    return lambda weights: by_layer(weights, form)


def bnb_int8(weights: dict[str, Tensor]) -> Written:
    """bitsandbytes int8: rows times SCB / 127."""

    def form(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale, layer = weight.abs().amax(1), name.removesuffix(".weight")
        packed = (weight * 127 / scale[:, None].clamp(min=1e-12)).round().to(torch.int8)
        tensors = {
            name: packed,
            f"{layer}.SCB": scale,
            f"{layer}.weight_format": torch.zeros((), dtype=torch.uint8),
        }
        return tensors, packed.float() * (scale / 127)[:, None]

    return by_layer(weights, form)


def quanto(weights: dict[str, Tensor]) -> Written:
    """quanto's int8: rows with a scale each."""

    def form(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        packed = (weight / scale).round().to(torch.int8)
        layer = name.removesuffix(".weight")
        beside = {f"{layer}.input_scale": torch.ones(()), f"{layer}.output_scale": torch.ones(())}
        return {f"{name}._data": packed, f"{name}._scale": scale, **beside}, packed.float() * scale

    return by_layer(weights, form)


def torchao(kind: str) -> Callable[[dict[str, Tensor]], Written]:
    """torchao's pieces in safetensors, as its ``flatten_tensor_state_dict`` names them, by formula."""

    def write(weights: dict[str, Tensor]) -> Written:
        told: dict[str, str] = {}

        def form(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            layer = name.removesuffix(".weight")
            parts, numbers, facts = TORCHAO[kind](weight)
            facts = {"dtype": {"_type": "torch.dtype", "_data": "float32"}, **facts}
            told[name] = json.dumps({"_type": kind, "_data": facts, "_tensor_data_names": list(parts)})
            return {f"{layer}._weight_{part}": value for part, value in parts.items()}, numbers

        tensors, _, numbers = by_layer(weights, form)
        told |= {name: json.dumps({"_type": "Tensor"}) for name in tensors if "._weight_" not in name}
        return tensors, {**told, "tensor_names": json.dumps(list(weights))}, numbers

    return write


def _int8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor, dict[str, object]]:
    scale = (weight.abs().amax(1, keepdim=True) / 127.5).clamp(min=1e-12)
    packed = (weight / scale).round().clamp(-128, 127).to(torch.int8)
    return {"qdata": packed, "scale": scale}, packed.float() * scale, {"block_size": [1, weight.shape[1]]}


def _float8(weight: Tensor) -> tuple[dict[str, Tensor], Tensor, dict[str, object]]:
    scale = weight.abs().max().reshape(1, 1) / 448
    packed = (weight / scale).to(torch.float8_e4m3fn)
    return {"qdata": packed, "scale": scale}, packed.float() * scale, {"block_size": list(weight.shape)}


def _int4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor, dict[str, object]]:
    groups = weight.reshape(weight.shape[0], -1, 32)
    least = groups.amin(-1)
    scale = ((groups.amax(-1) - least) / 15).clamp(min=1e-6)
    zero = least + 8 * scale
    q = ((groups - least[..., None]) / scale[..., None]).round().clamp(0, 15) - 8
    flat = q.reshape(weight.shape).to(torch.int8)
    packed = (flat[:, ::2] & 15) | (flat[:, 1::2] << 4)
    parts = {"qdata": packed, "scale": scale.t().contiguous(), "zero_point": zero.t().contiguous()}
    numbers = (q * scale[..., None] + zero[..., None]).reshape(weight.shape)
    return parts, numbers, {"block_size": [1, 32], "shape": list(weight.shape)}


def _intx(weight: Tensor) -> tuple[dict[str, Tensor], Tensor, dict[str, object]]:
    groups = weight.reshape(weight.shape[0], -1, 32)
    scale = (groups.abs().amax(-1) / 7).clamp(min=1e-12)
    zero = torch.zeros_like(scale, dtype=torch.int8)
    q = (groups / scale[..., None]).round().clamp(-8, 7)
    parts = {"qdata": q.reshape(weight.shape).to(torch.int8), "scale": scale, "zero_point": zero}
    return parts, (q * scale[..., None]).reshape(weight.shape), {"block_size": [1, 32]}


TORCHAO = {
    "Int8Tensor": _int8, "Float8Tensor": _float8, "Int4Tensor": _int4, "IntxUnpackedToInt8Tensor": _intx,
}  # fmt: skip

"""Linear layers in 8 bits, by torchao: their weights alone, or the products too; and weights in 4 bits.

``storage``: weights are kept in one byte and widened where they are used; activations keep their precision, so only
memory is saved. ``products``: activations are rounded to 8 bits as well, one scale for each token, and multiplied by
such weights in 8-bit arithmetic: faster on cards with units for it, and further from the plain model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogvideox.cpu_ops import via_float32
from cogvideox.errors import ConfigError, DependencyError, suggest
from cogvideox.files.gguf_blocks import SIZES, to_int4
from cogvideox.files.quantised import PIECE, QuantisedTensor
from cogvideox.files.stored import is_in_files
from cogvideox.memory.weights import Storage, blocks_of
from cogvideox.model import CogVideoX
from cogvideox.spec import any_block

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

Products = Literal["full", "int8", "fp8"]
QUANTISED_ALREADY = "the weights are quantised already, and kept as their files have them; leave storage out"
LOW_BIT_EXTRA = "cogvideox[lowp]"
FP8_CARD = (8, 9)
"""Least compute capability of a card that multiplies fp8."""


def read_low_bits(storage: str, products: str) -> tuple[Storage | Literal["auto"], Products]:
    """Both settings, checked: ``storage`` may be auto, and is that of the products where these are in 8 bits.

    Raises ConfigError for unknown names and for weights of another kind than the products.
    """
    for what, name, known in (
        ("storage", storage, ("auto", *get_args(Storage))),
        ("products", products, get_args(Products)),
    ):
        if name not in known:
            raise ConfigError(
                f"{what} {name!r}: unknown{suggest(name, known)}; choose one of {', '.join(known)}"
            )
    if products == "full":
        return storage, products  # type: ignore[return-value]  # both are among the known names
    if storage not in ("auto", products):
        raise ConfigError(
            f"storage {storage}, products {products}: {products} products need {products} weights; leave storage out"
        )
    return products, products  # type: ignore[return-value]


def check_low_bits(storage: str, products: str, device: str) -> None:
    """Raises what ``lower`` would raise on this device, before a weight is loaded."""
    if storage not in ("auto", "stored", "int4"):
        _check_device(storage, products, torch.device(device))
        _import_torchao(storage)


def lower(
    model: CogVideoX, storage: Storage, device: torch.device | str = "cpu", products: Products = "full"
) -> CogVideoX:
    """Store the large linear layers of ``model`` in one byte per weight or less, in place; ``stored`` changes nothing.

    int4 is ours, half a byte and a scale for each 32 weights, on every device (``quantise``). torchao's int8 is
    symmetric with one scale per output channel, fp8 (e4m3) likewise; activations keep their precision, unless
    ``products`` says otherwise (it then names the storage). Linear layers in the blocks of transformer and text
    encoder change; embeddings, head, norms and the autoencoder stay. Products are those of the transformer.

    Raises DependencyError without torchao, ConfigError for fp8 on a device that cannot compute with it, and for weights
    that are quantised already.
    """
    if storage == "stored":
        return model
    if any(isinstance(weight, QuantisedTensor) for weight in model.transformer.parameters()):
        raise ConfigError(f"storage {storage}: {QUANTISED_ALREADY}")
    _check_device(storage, products, torch.device(device))
    texts = [model.text.model] if model.text is not None and not is_in_files(model.text.model) else []
    for network in (model.transformer, *texts):
        for block in blocks_of(network):
            quantise(block, storage, products if network is model.transformer else "full")
    return model


def quantise(module: nn.Module, storage: Storage, products: Products = "full") -> None:
    """Replace the weights of every linear layer of ``module``. Raises DependencyError without torchao.

    int4 needs none: blocks of 32 weights with a scale each (Q4_0), of which numbers are made for each product; layers
    whose rows are not whole blocks stay as they are.
    """
    if storage == "int4":
        for layer in module.modules():
            if isinstance(layer, nn.Linear) and layer.in_features % SIZES["Q4_0"][0] == 0:
                layer.weight = nn.Parameter(to_int4(layer.weight), requires_grad=False)
        return
    _import_torchao(storage)
    from torchao.quantization import quantize_

    quantize_(module, torchao_config(storage, products))
    if storage == "fp8":
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                _mend_zero_rows(layer.weight)


def torchao_config(storage: Storage, products: Products = "full") -> AOBaseConfig:
    """torchao's name for a way to store weights and to multiply by them."""
    from torchao import quantization as ao

    if products == "int8":
        return ao.Int8DynamicActivationInt8WeightConfig()
    if products == "fp8":
        return ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow())
    return ao.Int8WeightOnlyConfig() if storage == "int8" else ao.Float8WeightOnlyConfig()


def take_memory_of_quantised(network: nn.Module, stored: Mapping[str, int]) -> None:
    """Let the layers of a network on tensors without memory take what quantised weights take while they are used.

    ``stored``: their names (``spec.any_block``). Numbers of a whole weight are there for its product, and while they
    are made a piece of them in float32, three times over.
    """

    def forward(linear: nn.Linear, x: Tensor) -> Tensor:
        weight = linear.weight.detach().to(x.dtype, copy=True)
        made = [x.new_empty(min(PIECE, weight.numel()), dtype=torch.float32) for _ in range(3)]
        del made
        return via_float32(F.linear, x, weight, linear.bias)

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and any_block(f"{name}.weight") in stored:
            layer.forward = partial(forward, layer)  # type: ignore[method-assign]


def take_memory_in_low_bits(module: nn.Module, products: Products = "full") -> None:
    """Let the linear layers of a network on tensors without memory take what torchao takes beside 8-bit weights.

    It widens a layer's weights for its product and holds the product beside its scaled copy; for products in 8 bits
    it rounds activations through float32, and multiplies int8 into int32. torchao itself is not needed.
    """

    def forward(linear: nn.Linear, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if products == "full":
            product = rows @ linear.weight.detach().to(x.dtype, copy=True).t()
        else:
            rounded = (rows.float() * 1).to(torch.int8)
            kind = torch.int32 if products == "int8" else x.dtype
            product = rounded.new_empty(len(rounded), linear.out_features, dtype=kind)
        scaled = product * x.new_empty(linear.out_features)
        scaled = scaled if linear.bias is None else scaled.add_(linear.bias)
        return scaled.unflatten(0, x.shape[:-1])

    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = partial(forward, layer)  # type: ignore[method-assign]


def has_torchao() -> bool:
    """Whether weights can be stored in fewer bits here."""
    return find_spec("torchao") is not None


def can_fp8(device: torch.device) -> bool:
    """Whether the device multiplies 8-bit floating-point numbers."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CARD


@torch.no_grad()
def _mend_zero_rows(weight: Any) -> None:
    """Rows that are zero stay zero: torchao gives them the scale 0 and, as 0 / 0, NaN for numbers."""
    empty = (weight.scale == 0).flatten()
    weight.qdata.view(torch.uint8)[empty] = 0
    weight.scale[empty] = 1


def _import_torchao(storage: str) -> None:
    try:
        import torchao.quantization  # noqa: F401
    except ImportError:
        raise DependencyError(
            f"{storage}: torchao is not installed; pip install '{LOW_BIT_EXTRA}', or leave weights and products as "
            "they are"
        ) from None


def _check_device(storage: str, products: str, device: torch.device) -> None:
    if storage == "fp8" and not can_fp8(device):
        what = "weights" if products == "full" else "products"
        raise ConfigError(
            f"fp8 {what} on {device}: needs an NVIDIA card of capability 8.9 or later; use int8"
        )
    if products == "int8" and device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"int8 products on {device}: torchao multiplies so on a CPU and on CUDA; leave them out"
        )

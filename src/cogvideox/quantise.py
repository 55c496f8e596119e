"""A model folder with its transformer in one byte a weight, in the format that diffusers and torchao load.

The linear layers of the blocks become torchao tensors, in pieces in the safetensors file; ``quantization_config`` in
``transformer/config.json`` tells diffusers what they are. All other parts are copied. ``cogvideox.json`` says what was
made of what, and how far each kind of layer is from what it was.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from cogvideox.checkpoints.diffusers import STEM, digests_in, load_transformer
from cogvideox.checkpoints.folders import checkpoint_folder
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.record import read_record
from cogvideox.checkpoints.specs import read_spec
from cogvideox.checkpoints.tensors import write_file
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files import read_json
from cogvideox.memory.lowbit import check_low_bits, has_torchao, read_low_bits, torchao_config
from cogvideox.memory.lowbit import quantise as quantise_layers
from cogvideox.memory.weights import blocks_of
from cogvideox.transformer import Transformer

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")


def quantise(
    source: str | Path,
    target: str | Path,
    storage: str = "int8",
    *,
    products: str = "full",
    dtype: str | None = "bfloat16",
    overwrite: bool = False,
) -> Path:
    """Write a copy of a model folder whose transformer is stored in int8 or fp8; returns the new folder.

    ``products``: in which torchao then multiplies, see ``memory.lower``. ``dtype``: that of the other weights and of
    the scales, None: as stored; diffusers computes in bfloat16 with int8 weights. Raises ConfigError for a storage that
    is none, DependencyError without torchao, CheckpointError for a source that is no model folder, OutputError when the
    target is taken.
    """
    stored, multiplied = read_low_bits(storage, products)
    if stored == "auto" or stored == "stored" or stored == "int4":
        raise ConfigError(f"storage {storage}: not written by quantise; choose int8 or fp8")
    folder = find_folder(source)
    read_spec(folder)  # raises for what is no model
    if multiplied == "fp8" or not has_torchao():
        check_low_bits(stored, multiplied, "cuda" if torch.cuda.is_available() else "cpu")
    with checkpoint_folder(target, overwrite) as new:
        shutil.copy2(folder / "model_index.json", new)
        for part in PARTS:
            if (folder / part).is_dir():
                shutil.copytree(folder / part, new / part)
        network = load_transformer(folder, dtype, dense=True)
        before = dict(network.named_parameters())
        for block in blocks_of(network):
            quantise_layers(block, stored, multiplied)
        _write(network, folder / "transformer", new / "transformer", torchao_config(stored, multiplied))
        made = {
            "storage": stored,
            "products": multiplied,
            "of": {
                name: digest for name, digest in digests_in(folder).items() if name.startswith("transformer/")
            },
            "torchao": version("torchao"),
            "error": errors_of(network, before),
        }
        record = read_record(folder)
        record = record.changed(provenance={**record.provenance, "quantised": made}, files=digests_in(new))
        record.write(new)
    return Path(target)


def errors_of(network: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """How far the rounded weights are from what they were, relative, the worst of each kind of layer."""
    worst: dict[str, float] = defaultdict(float)
    for name, weight in network.named_parameters():
        if is_traceable_wrapper_subclass(weight):
            was = before[name].detach().float()
            error = float((weight.dequantize().float() - was).norm() / was.norm().clamp(min=1e-12))
            kind = name.split(".", 2)[-1].removesuffix(".weight")
            worst[kind] = max(worst[kind], round(error, 5))
    return dict(worst)


def _write(network: Transformer, source: Path, folder: Path, quantisation: Any) -> None:
    """The config and the weights of the transformer, as diffusers' ``save_pretrained`` writes them."""
    from torchao.core.config import config_to_dict
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors = network.state_dict()
    rounded = {name for name, value in tensors.items() if is_traceable_wrapper_subclass(value)}
    if not rounded:
        raise CheckpointError(f"{source}: no linear layer of its blocks was rounded; nothing is written")
    linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    told = {
        "quant_method": "torchao",
        "quant_type": {"default": config_to_dict(quantisation)},
        "modules_to_not_convert": [name for name in linear if f"{name}.weight" not in rounded],
    }
    folder.mkdir()
    values = read_json(source / "config.json") | {"quantization_config": told}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    pieces, metadata = flatten_tensor_state_dict(tensors)
    write_file(folder / f"{STEM}.safetensors", pieces, {"format": "pt", **metadata})

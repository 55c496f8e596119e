"""Writing adapters, as diffusers, PEFT and SAT read them, with rank and alpha."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cogvideox.checkpoints.adapter_pairs import Adapter, Pair
from cogvideox.checkpoints.adapter_settings import FILE, METADATA, PEFT_CONFIG, PEFT_FILE
from cogvideox.checkpoints.keymap import few
from cogvideox.checkpoints.sat import PREFIX, write_sat
from cogvideox.checkpoints.tensors import write_file
from cogvideox.errors import CheckpointError
from cogvideox.files.atomic import atomic_file

Form = Literal["diffusers", "peft", "sat"]
DIFFUSERS_PREFIX, PEFT_PREFIX = "transformer.", "base_model.model."
_SAT_QKV = "transformer.layers.{i}.attention.query_key_value.matrix_{side}.{p}"
_SAT_DENSE = "transformer.layers.{i}.attention.dense.matrix_{side}.{p}"


def write_adapter(
    adapter: Adapter, path: str | Path, form: Form = "diffusers", overwrite: bool = False
) -> Path:
    """Write an adapter with its rank and alpha; returns the file.

    ``path`` is a folder, or for ``diffusers`` also a ``.safetensors`` file. SAT has no place for alpha (it is
    always 1), so B is multiplied by alpha there: exact when alpha is a power of two.
    """
    path = Path(path)
    if not adapter.pairs:
        raise CheckpointError(f"{path}: an adapter without layers is not written")
    if form == "sat":
        return write_sat(path, "lora", _to_sat(adapter), overwrite)
    prefix = DIFFUSERS_PREFIX if form == "diffusers" else PEFT_PREFIX
    tensors: dict[str, Tensor] = {}
    for module, pair in adapter.pairs.items():
        tensors |= {f"{prefix}{module}.{name}": tensor for name, tensor in _named(pair).items()}
    settings = _settings(path, adapter)
    if form == "diffusers":
        metadata = {
            METADATA: json.dumps(
                {f"transformer.{key}": value for key, value in settings.items()}, sort_keys=True
            )
        }
        file = path if path.suffix == ".safetensors" else path / FILE
    else:
        metadata, file = {}, path / PEFT_FILE
    with atomic_file(file, overwrite) as work:
        write_file(work, tensors, metadata)
    if form == "peft":
        with atomic_file(path / PEFT_CONFIG, overwrite) as work:
            work.write_text(json.dumps({"peft_type": "LORA", **settings}, indent=2) + "\n", encoding="utf-8")
    return file


def _named(pair: Pair) -> dict[str, Tensor]:
    """PEFT's names after that of the layer; matrices of a convolution in its shape."""
    if pair.kernel:
        out, ones = pair.size[0], (1,) * len(pair.kernel)
        found = {"lora_A.weight": pair.a.unflatten(1, (-1, *pair.kernel))}
        found["lora_B.weight"] = pair.b.reshape(out, pair.rank, *ones)
    else:
        found = {"lora_A.weight": pair.a, "lora_B.weight": pair.b}
    if pair.bias is not None:
        found["lora_B.bias"] = pair.bias
    if pair.magnitude is not None:
        shape = (1, -1, *(1,) * len(pair.kernel)) if pair.kernel else (-1,)
        found["lora_magnitude_vector"] = pair.magnitude.reshape(shape)
    return found


def _settings(path: Path, adapter: Adapter) -> dict[str, Any]:
    """What PEFT needs to know: rank and alpha of the most layers, and the layers that differ."""
    switches: dict[str, bool] = {}
    for switch, has in (("use_dora", "magnitude"), ("lora_bias", "bias")):
        held = [getattr(pair, has) is not None for pair in adapter.pairs.values()]
        if any(held) and not all(held):
            raise CheckpointError(
                f"{path}: {has} on some layers alone, which PEFT cannot hold; merge the adapter"
            )
        switches |= {switch: True} if any(held) else {}
    ranks = [pair.rank for pair in adapter.pairs.values()]
    alphas = [pair.alpha for pair in adapter.pairs.values()]
    rank, alpha = max(set(ranks), key=ranks.count), max(set(alphas), key=alphas.count)
    pairs = adapter.pairs.items()
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


def _to_sat(adapter: Adapter) -> dict[str, Tensor]:
    found = {}
    wrong = []
    for module, pair in adapter.pairs.items():
        name = re.fullmatch(r"transformer_blocks\.(\d+)\.attn1\.to_(q|k|v|out\.0)", module)
        if name is None or pair.bias is not None or pair.magnitude is not None:
            wrong.append(module)
            continue
        pattern = _SAT_DENSE if name[2] == "out.0" else _SAT_QKV
        part = "0" if name[2] == "out.0" else str("qkv".index(name[2]))
        for side, tensor in (("A", pair.a), ("B", pair.b if pair.alpha == 1.0 else pair.b * pair.alpha)):
            found[PREFIX + pattern.replace("{i}", name[1]).replace("{side}", side).replace("{p}", part)] = (
                tensor
            )
    if wrong:
        raise CheckpointError(
            f"SAT adapts q, k, v and the attention output only, without biases and DoRA; these have no place: "
            f"{few(wrong)}"
        )
    return found

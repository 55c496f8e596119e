"""A model folder with adapters in its weights: whoever loads it needs none. diffusers loads it too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cogvideox.checkpoints.diffusers import ShardSize, load_stored, write_model
from cogvideox.checkpoints.folders import checkpoint_folder, copy_text
from cogvideox.checkpoints.lora import load_lora, merge_lora
from cogvideox.checkpoints.record import read_record
from cogvideox.errors import CheckpointError
from cogvideox.files.quantised import QuantisedTensor
from cogvideox.strength import Strength


def fuse_adapters(
    source: Path,
    target: Path,
    adapters: Sequence[tuple[str | Path, float | str | Strength]],
    *,
    alpha: float | None = None,
    shard_size: ShardSize = "5GB",
    overwrite: bool = False,
) -> None:
    """Write a model folder with adapters added into its transformer, in the order in which they are given.

    The sums are made in float32 and stored in the precision of the weights, quantised ones as plain numbers; all else
    is as it was, and ``cogvideox.json`` says what was added. ``alpha`` is that of adapters whose files do not say
    theirs. Raises CheckpointError for a source that is no model folder, a strength that changes over the steps, and
    adapters that do not fit; OutputError when the target is taken.
    """
    if not (source / "model_index.json").is_file():
        raise CheckpointError(
            f"lora: adapters are added to a model folder; {source} is none, convert it first"
        )
    strengths = [(path, Strength.of(strength)) for path, strength in adapters]
    for path, strength in strengths:
        if strength.constant is None:
            raise CheckpointError(
                f"lora {path}: strength {strength} changes over the steps; give it one number"
            )
    record = read_record(source)
    model = load_stored(source, record, text=False)
    make_plain(model.transformer)
    for path, strength in strengths:
        load_lora(model, path, strength, alpha=alpha)
    merge_lora(model)
    with checkpoint_folder(target, overwrite) as folder:
        copy_text(source, folder)
        before = record.provenance.get("fused")
        fused = [*(before if isinstance(before, list) else []), *model.adapters]
        provenance = {**record.provenance, "fused": fused}
        write_model(folder, model, shard_size, provenance=provenance, dtype=record.dtype)


def make_plain(network: nn.Module) -> None:
    """Numbers instead of quantised weights, which take nothing in."""
    for layer in network.modules():
        for name, weight in list(layer.named_parameters(recurse=False)):
            if isinstance(weight, QuantisedTensor):
                layer.register_parameter(name, nn.Parameter(weight.dequantize(), requires_grad=False))

"""A model folder whose transformer is a weighted mean of two: what a network learned, and what it knew before."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cogvideox.checkpoints.diffusers import (
    ShardSize,
    digests_in,
    load_schedule,
    load_stored,
    meta_names,
    write_model,
)
from cogvideox.checkpoints.folders import checkpoint_folder, copy_text, copy_training_records
from cogvideox.checkpoints.fuse import make_plain
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.record import read_record
from cogvideox.checkpoints.specs import read_transformer_config
from cogvideox.errors import CheckpointError
from cogvideox.model import CogVideoX
from cogvideox.presets import network_of


def blend_models(
    source: Path,
    target: Path,
    other: str | Path,
    share: float = 0.5,
    *,
    shard_size: ShardSize = "5GB",
    overwrite: bool = False,
) -> None:
    """Write a model folder: ``source``, each weight of its transformer moved towards that of ``other``.

    ``share`` is how far: 0 leaves ``source``, 1 gives ``other``. Meant for a model and the one it was tuned from, or
    two that were tuned from the same one: often as good at what was tuned and better at the rest (WiSE-FT, arXiv
    2109.01903; model soups, arXiv 2203.05482). Means are taken in float32 and stored in the precision of ``source``,
    quantised weights as plain numbers. Autoencoder, text encoder, times and guidance are those of ``source``, and
    ``cogvideox.json`` says what was blended. Raises CheckpointError for a share outside 0 to 1, folders that are no
    models, networks of other shapes and another noise schedule; OutputError when the target is taken.
    """
    if not 0 <= share <= 1:
        raise CheckpointError(f"blend {other}: share {share:g}: must be from 0 to 1; 0.5 is the mean of both")
    second = find_folder(other)
    for folder in (source, second):
        if not (folder / "model_index.json").is_file():
            raise CheckpointError(f"blend: two model folders are blended; {folder} is none, convert it first")
    _check_alike(source, second)
    record = read_record(source)
    model, more = (
        load_stored(source, record, text=False),
        load_stored(second, read_record(second), text=False),
    )
    _compare_latents(model, more, source, second)
    make_plain(model.transformer)
    make_plain(more.transformer)
    theirs = dict(more.transformer.named_parameters())
    with torch.no_grad():
        for name, weight in model.transformer.named_parameters():
            weight.copy_(weight.float().lerp(theirs[name].float(), share))
    with checkpoint_folder(target, overwrite) as folder:
        copy_text(source, folder)
        copy_training_records(source, folder)
        files = {
            name: digest for name, digest in digests_in(second).items() if name.startswith("transformer/")
        }
        note = {"name": "/".join(Path(other).parts[-2:]), "share": share, "files": files}
        before = record.provenance.get("blended")
        provenance = {**record.provenance, "blended": [*(before if isinstance(before, list) else []), note]}
        write_model(folder, model, shard_size, provenance=provenance, dtype=record.dtype)


def _check_alike(source: Path, second: Path) -> None:
    """Weights of two networks have a mean only where each means the same in both; no weight is read."""
    ours, theirs = (read_transformer_config(folder / "transformer") for folder in (source, second))
    if network_of(ours) != network_of(theirs) or meta_names(ours) != meta_names(theirs):
        raise CheckpointError(f"blend {second}: its transformer has other shapes than that of {source}")
    if load_schedule(source).config != load_schedule(second).config:
        raise CheckpointError(f"blend {second}: its noise schedule is not that of {source}")


def _compare_latents(model: CogVideoX, more: CogVideoX, source: Path, second: Path) -> None:
    """Warn where two autoencoders differ."""
    ours, theirs = model.vae.state_dict(), more.vae.state_dict()
    if ours.keys() != theirs.keys() or any(not torch.equal(ours[name], theirs[name]) for name in ours):
        warnings.warn(
            f"{second}: has another autoencoder than {source}; what its latents mean may differ", stacklevel=5
        )

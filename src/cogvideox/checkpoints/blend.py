"""A model folder whose transformer is a weighted mean of two: what a network learned, and what it knew before."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from cogvideox.checkpoints.diffusers import (
    ShardSize,
    digests_in,
    load_schedule,
    load_stored,
    load_transformer,
    meta_names,
    write_model,
)
from cogvideox.checkpoints.folders import checkpoint_folder, copy_text, copy_training_records, keep_apart
from cogvideox.checkpoints.fuse import make_plain
from cogvideox.checkpoints.network_files import read_network
from cogvideox.checkpoints.record import read_record
from cogvideox.checkpoints.specs import STEM, read_spec, read_transformer_config
from cogvideox.checkpoints.tensors import Tensors, shapes_of
from cogvideox.checkpoints.text import TIED, read_t5_config
from cogvideox.checkpoints.trainers import find_source
from cogvideox.errors import CheckpointError
from cogvideox.files.quantised import dense
from cogvideox.presets import network_of
from cogvideox.spec import ModelSpec


def blend_models(
    src: str | Path,
    target: Path,
    other: str | Path,
    share: float = 0.5,
    *,
    shard_size: ShardSize = "5GB",
    overwrite: bool = False,
) -> None:
    """Write a model folder: ``src``, each weight of its transformer moved towards that of ``other``.

    Both are model folders, presets, hub ids or runs of ours. ``share`` is how far: 0 leaves ``src``, 1 gives ``other``.
    Meant for a model and the one it was tuned from, or two that were tuned from the same one: often as good at what was
    tuned and better at the rest (WiSE-FT, arXiv 2109.01903; model soups, arXiv 2203.05482). Means are taken in float32
    and stored in the precision of ``src``, quantised weights as plain numbers. Autoencoder, text encoder, times and
    guidance are those of ``src``, and ``cogvideox.json`` says what was blended. Raises CheckpointError for a share
    outside 0 to 1, folders that are no models, models of two kinds, networks of other shapes, another noise schedule
    and NaN; OutputError when the target is taken. Warns where the models differ in what stays that of ``src``.
    """
    if not 0 <= share <= 1:
        raise CheckpointError(f"blend {other}: share {share:g}: must be from 0 to 1; 0.5 is the mean of both")
    source = find_source(src)
    keep_apart(source, target)
    with checkpoint_folder(
        target, overwrite
    ) as folder:  # a target that is taken is refused before anything is read
        second = find_source(other)
        keep_apart(second, target)
        _check_alike(source, second)
        record = read_record(source)
        model = load_stored(source, record, text=False, check=True)
        theirs = load_transformer(second, check=True)
        for network in (model.transformer, theirs):
            make_plain(network)
        weights = dict(theirs.named_parameters())
        with torch.no_grad():
            for name, weight in model.transformer.named_parameters():
                weight.copy_(weight.float().lerp(weights[name].float(), share))
        copy_text(source, folder)
        copy_training_records(source, folder)
        note = _note(other, second, share)
        before = record.provenance.get("blended")
        provenance = {**record.provenance, "blended": [*(before if isinstance(before, list) else []), note]}
        write_model(folder, model, shard_size, provenance=provenance, dtype=record.dtype)


def _note(other: str | Path, second: Path, share: float) -> Mapping[str, object]:
    """What the record says about the other model: its name as it was given, and the digests of its weights."""
    files = {f"transformer/{name}": digest for name, digest in digests_in(second / "transformer").items()}
    return {"name": "/".join(Path(other).parts[-2:]), "share": share, "files": files}


def _check_alike(source: Path, second: Path) -> None:
    """Weights of two networks have a mean only where each means the same in both: read before any large weight.

    Raises CheckpointError where they cannot mean the same, and warns where that is in doubt.
    """
    for folder in (source, second):
        if not (folder / "model_index.json").is_file():
            raise CheckpointError(f"blend: two model folders are blended; {folder} is none, convert it first")
    configs = [read_transformer_config(folder / "transformer") for folder in (source, second)]
    if network_of(configs[0]) != network_of(configs[1]) or meta_names(configs[0]) != meta_names(configs[1]):
        raise CheckpointError(
            f"blend {second}: its transformer has other shapes than that of {source}; blend two models of one shape"
        )
    if load_schedule(source).config != load_schedule(second).config:
        raise CheckpointError(
            f"blend {second}: its noise schedule is not that of {source}; blend two models of one schedule"
        )
    ours, theirs = read_spec(source), read_spec(second)
    if ours.kind != theirs.kind:
        raise CheckpointError(
            f"blend {second}: makes videos of kind {theirs.kind}, {source} of kind {ours.kind}: their weights read "
            "other inputs; blend two models of one kind"
        )
    _warn_of_sampling(source, second, ours, theirs)
    _warn_of_networks(source, second, ours, theirs)


def _warn_of_sampling(source: Path, second: Path, ours: ModelSpec, theirs: ModelSpec) -> None:
    """Warn where one is a student of few steps or without guidance, and the other is not."""
    if (bool(ours.times), ours.guidance == 1) != (bool(theirs.times), theirs.guidance == 1):
        warnings.warn(
            f"{second}: is made for {_sampling(theirs)}, {source} for {_sampling(ours)}: a mean of a distilled model "
            "and one that is not is often good at neither; look at its videos, or blend two made for the same",
            stacklevel=5,
        )


def _sampling(spec: ModelSpec) -> str:
    steps = f"{len(spec.times)} steps" if spec.times else "any number of steps"
    return f"{steps} at guidance {spec.guidance:g}"


def _warn_of_networks(source: Path, second: Path, ours: ModelSpec, theirs: ModelSpec) -> None:
    """Warn where the autoencoder or the text encoder of the other model is another one: settings, then weights."""
    means = {"vae": "autoencoder", "text_encoder": "text encoder"}
    reads = {"vae": "what its latents mean", "text_encoder": "what its prompts mean"}
    both = [name for name in means if all((folder / name).is_dir() for folder in (source, second))]
    for name in both:
        one, two = source / name, second / name
        if one.resolve() == two.resolve():
            continue
        if name == "vae":
            same = ours.vae == theirs.vae
        else:
            same = read_t5_config(one / "config.json") == read_t5_config(two / "config.json")
        if not same or not _same_weights(one, two, STEM if name == "vae" else "model"):
            what = f"has another {means[name]} than {source} ({'weights' if same else 'settings'} differ)"
            warnings.warn(f"{second}: {what}; {reads[name]} may differ", stacklevel=5)


def _same_weights(one: Path, two: Path, stem: str) -> bool:
    """Whether two folders hold the same numbers, compared tensor by tensor up to the first that differs."""
    ours, theirs = _tensors(one, stem), _tensors(two, stem)
    if shapes_of(ours) != shapes_of(theirs):
        return False
    return all(torch.equal(dense(ours[name]).float(), dense(theirs[name]).float()) for name in ours)


def _tensors(folder: Path, stem: str) -> Tensors:
    tensors = read_network(folder, stem)
    tensors.entries.pop(TIED, None)
    return tensors

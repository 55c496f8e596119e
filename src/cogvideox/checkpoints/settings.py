"""A model by its settings alone: a row like those of the preset table, read from any folder, no weight loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from cogvideox.checkpoints.diffusers import STEM, component, read_transformer_config, read_vae_config
from cogvideox.checkpoints.hub import cached, exists, find_folder, released, shipped_folder
from cogvideox.checkpoints.record import guess_preset, kind_of, read_record
from cogvideox.checkpoints.tensors import read_folder, read_json
from cogvideox.checkpoints.trainers import not_a_model
from cogvideox.presets import PRESETS, Preset, get_preset


def settings_of(path_or_name: str | Path) -> Preset:
    """The settings of a preset by name, a model folder, or a hub id; nothing is downloaded.

    ``dtype`` is what the folder is computed in. Raises CheckpointError when there is no such model.
    """
    name = str(path_or_name)
    if not exists(Path(name)):
        if name in PRESETS and shipped_folder(name) is None:
            return get_preset(name)
        row = released(name)
        if row is not None and cached(row.hub or name) is None:
            return row
    folder = find_folder(path_or_name, download=False)
    if not (folder / "model_index.json").is_file():
        raise not_a_model(folder)
    return read_settings(folder)


def stored_dtype(path: str | Path) -> torch.dtype:
    """The precision that a transformer's weights are stored in, by their headers."""
    entries = read_folder(component(path, "transformer"), STEM).entries.values()
    return next((entry.dtype for entry in entries if entry.dtype.is_floating_point), torch.float32)


def read_settings(folder: Path) -> Preset:
    """The settings of a model folder. Raises CheckpointError or ConfigError when they cannot be read."""
    transformer = read_transformer_config(folder / "transformer")
    vae = read_vae_config(folder / "vae")
    record = read_record(folder)
    known = PRESETS.get(record.preset or guess_preset(transformer))
    ratio = vae.spatial_compression_ratio
    native = (transformer.sample_height * ratio, transformer.sample_width * ratio)
    height, width = (known.height, known.width) if known else native
    row = known or PRESETS["5b"]  # which says what no file does, such as a name for the licence
    text = folder / "text_encoder" / "config.json"
    return replace(
        row,
        name=record.preset or guess_preset(transformer) or folder.name,
        kind=record.kind or kind_of(transformer),
        height=record.height or height,
        width=record.width or width,
        frames=record.frames or transformer.sample_frames,
        fps=record.fps or row.fps,  # type: ignore[arg-type]  # whole in the table, any number in a folder
        dtype=record.dtype or str(stored_dtype(folder)).removeprefix("torch."),
        text_tokens=transformer.max_text_seq_length,
        text_dim=transformer.text_embed_dim,
        transformer_settings=transformer.model_dump(mode="json"),
        vae_settings=vae.model_dump(mode="json"),
        text_settings=read_json(text) if text.is_file() else None,
    )

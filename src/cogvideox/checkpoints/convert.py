"""One command between formats: SAT to diffusers and back, for whole models, single parts and adapters.

Weights are renamed, cut and joined, never computed with: a round trip gives the same bits. Only the preset's
name is needed, since a SAT file holds no settings; without it, it is guessed from the shapes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from cogvideox.checkpoints.adapter import is_adapter, read_adapter, write_adapter
from cogvideox.checkpoints.atomic import atomic_folder
from cogvideox.checkpoints.diffusers import (
    STEM,
    ShardSize,
    component,
    meta_names,
    read_transformer_config,
    read_vae_config,
    write_index,
    write_record,
    write_schedule,
    write_transformer,
    write_vae,
)
from cogvideox.checkpoints.fill import check_names
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.sat import SUFFIXES, SatFile, find_parts, is_sat, keymap, read_sat, write_sat
from cogvideox.checkpoints.tensors import read_file, read_folder
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS, Preset, get_preset
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

Target = Literal["diffusers", "sat"]
T5_FOLDERS = ("t5-v1_1-xxl", "t5")


def convert(
    src: str | Path,
    dst: str | Path,
    to: Target,
    preset: str | Preset | None = None,
    *,
    shard_size: ShardSize = "5GB",
    overwrite: bool = False,
    alpha: float | None = None,
) -> Path:
    """Convert a model, a part of one, or an adapter; returns ``dst``, which appears whole or not at all.

    ``src``: a SAT file or folder, a diffusers model folder or part, a LoRA file or folder. ``preset`` names
    the model (needed for SAT weights that fit none by shape, and for the schedule). ``alpha`` is for adapters
    that do not say theirs. Raises CheckpointError for files that do not fit the preset.
    """
    if to not in ("diffusers", "sat"):
        raise CheckpointError(f"to {to!r}: formats are 'diffusers' and 'sat'")
    row = get_preset(preset) if isinstance(preset, str) else preset
    source = find_folder(src)
    if _holds_adapter(source):
        return _convert_adapter(source, Path(dst), to, alpha, overwrite)
    sat = _sat_files(source)
    if sat and to == "diffusers":
        return _sat_to_diffusers(source, sat, Path(dst), row, shard_size, overwrite)
    if not sat and to == "sat":
        return _diffusers_to_sat(source, Path(dst), overwrite)
    if sat:
        raise CheckpointError(f"{source}: is a SAT checkpoint already; convert it to 'diffusers'")
    return _rewrite_diffusers(source, Path(dst), shard_size, overwrite)


def guess_from_shapes(part: str, names: Mapping[str, tuple[int, ...]]) -> Preset:
    """The preset whose network has exactly these tensors; raises CheckpointError when there is none."""
    for preset in PRESETS.values():
        config = preset.vae if part == "vae" else preset.transformer
        if meta_names(config) == names:
            return preset
    raise CheckpointError(f"the {part} has the shapes of none of {', '.join(PRESETS)}; pass preset")


def _convert_adapter(source: Path, dst: Path, to: Target, alpha: float | None, overwrite: bool) -> Path:
    adapter = read_adapter(source, alpha)
    with atomic_folder(dst, overwrite) as folder:
        write_adapter(adapter, folder, to)
    return dst


def _sat_to_diffusers(
    source: Path,
    files: list[SatFile],
    dst: Path,
    preset: Preset | None,
    shard_size: ShardSize,
    overwrite: bool,
) -> Path:
    row = preset or _guess(files)
    configs: dict[str, TransformerConfig | VAEConfig] = {}
    with atomic_folder(dst, overwrite) as folder:
        for file in files:
            if file.part == "vae":
                configs["vae"] = row.vae
                write_vae(folder, row.vae, _ours(file, row), shard_size)
            else:
                configs["transformer"] = row.transformer
                write_transformer(folder, row.transformer, _ours(file, row), shard_size)
        write_schedule(folder, row.schedule)
        _copy_text(source, folder)
        write_index(folder, row.kind)
        made = {"converted_from": [file.path.name for file in files], "format": "sat"}
        transformer, vae = configs.get("transformer"), configs.get("vae")
        assert not isinstance(transformer, VAEConfig) and not isinstance(vae, TransformerConfig)
        write_record(folder, transformer, vae, row.name, made)
    return dst


def _ours(file: SatFile, preset: Preset) -> dict[str, Tensor]:
    learned = preset.transformer.use_learned_positional_embeddings
    ours = file.ours(len(preset.vae.block_out_channels), learned)
    config = preset.vae if file.part == "vae" else preset.transformer
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    check_names(meta_names(config), shapes, f"{file.path} as preset {preset.name}")
    return ours


def _guess(files: list[SatFile]) -> Preset:
    # the transformer decides: all public models share the shapes of the VAE
    file = next((file for file in files if file.part == "transformer"), None)
    if file is None:
        raise CheckpointError(
            f"{files[0].path}: the public models share one VAE shape but not its scaling factor; pass preset"
        )
    learned = any(name.endswith("pos_embed.pos_embedding") for name in file.tensors)
    found = file.ours(learned_positions=False)
    try:
        return guess_from_shapes("transformer", {name: tuple(tensor.shape) for name, tensor in found.items()})
    except CheckpointError:
        if not learned:
            raise
    found = file.ours(learned_positions=True)
    return guess_from_shapes("transformer", {name: tuple(tensor.shape) for name, tensor in found.items()})


def _diffusers_to_sat(source: Path, dst: Path, overwrite: bool) -> Path:
    parts = [part for part in ("transformer", "vae") if (source / part / "config.json").is_file()]
    if not parts:
        parts = [_part_of(source)]
    with atomic_folder(dst, overwrite) as folder:
        for part in parts:
            place = component(source, part)
            config = read_vae_config(place) if part == "vae" else read_transformer_config(place)
            tensors = read_folder(place, STEM)
            check_names(meta_names(config), tensors.shapes, str(place))
            if isinstance(config, VAEConfig):
                rules = keymap("vae", stages=len(config.block_out_channels))
            else:
                rules = keymap("transformer", learned_positions=config.use_learned_positional_embeddings)
            write_sat(folder / part, "vae" if part == "vae" else "transformer", rules.to_foreign(tensors))
    return dst


def _rewrite_diffusers(source: Path, dst: Path, shard_size: ShardSize, overwrite: bool) -> Path:
    """The same layout again: other shards, and everything checked on the way."""
    from cogvideox.checkpoints.diffusers import load_model, save_model

    return save_model(
        load_model(source, text=(source / "text_encoder").is_dir()), dst, shard_size, overwrite=overwrite
    )


def _part_of(folder: Path) -> str:
    for part, read in (("transformer", read_transformer_config), ("vae", read_vae_config)):
        try:
            read(folder)
        except CheckpointError:
            continue
        return part
    raise CheckpointError(f"{folder}: neither a SAT checkpoint, a diffusers folder nor an adapter")


def _holds_adapter(source: Path) -> bool:
    if source.is_file() and source.suffix == ".safetensors":
        return is_adapter(read_file(source))
    if is_sat(source):
        return read_sat(source).part == "lora"
    return any(
        (source / name).is_file()
        for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
    )


def _sat_files(source: Path) -> list[SatFile]:
    if source.is_file():
        if source.suffix not in SUFFIXES:
            raise CheckpointError(
                f"{source}: a single {source.suffix or 'unnamed'} file is neither SAT nor an adapter; "
                "pass the folder around it"
            )
        return [read_sat(source)]
    if (source / "model_index.json").is_file() or (source / "config.json").is_file():
        return []
    if is_sat(source):
        return [read_sat(source)]
    return [read_sat(place) for place in find_parts(source).values()]


def _copy_text(source: Path, folder: Path) -> None:
    """Bring the T5 folder of a SAT release along, when it is there and safe."""
    for name in T5_FOLDERS:
        place = source / name
        if not (place / "config.json").is_file() or not any(place.glob("*.safetensors")):
            continue
        for part, patterns in (
            ("text_encoder", ("config.json", "*.safetensors", "*.safetensors.index.json")),
            (
                "tokenizer",
                ("spiece.model", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
            ),
        ):
            (folder / part).mkdir()
            for file in (found for pattern in patterns for found in sorted(place.glob(pattern))):
                shutil.copyfile(file, folder / part / file.name)
        return

"""One command between formats: SAT to diffusers and back, for whole models, single parts and adapters.

Weights of models are renamed, cut and joined, never computed with: a round trip gives the same bits. (SAT has no
place for the alpha of an adapter, so B is multiplied by it there.) What SAT cannot hold is written beside it and read
back; a SAT release of others holds no settings, and then a preset's are used: the one named, or the one that fits.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cogvideox.checkpoints.adapter import FILE, PEFT_FILE, is_adapter, read_adapter, write_adapter
from cogvideox.checkpoints.beside import copy_schedule, copy_text, keep_settings, root_of, settings_of
from cogvideox.checkpoints.diffusers import (
    ShardSize,
    digests_in,
    load_stored,
    meta_names,
    read_index,
    save_model,
    write_index,
    write_schedule,
    write_transformer,
    write_vae,
)
from cogvideox.checkpoints.families import check_floats, family_of_file
from cogvideox.checkpoints.fill import check_names
from cogvideox.checkpoints.hub import cached, find_folder
from cogvideox.checkpoints.overwrite import checkpoint_folder
from cogvideox.checkpoints.record import ModelRecord, own_settings, read_record
from cogvideox.checkpoints.sat import SUFFIXES, SatFile, find_parts, is_sat, keymap, read_sat, write_sat
from cogvideox.checkpoints.specs import STEM, component, read_transformer_config, read_vae_config
from cogvideox.checkpoints.tensors import read_file, read_folder
from cogvideox.checkpoints.trainers import config_of_run, network_in, not_a_model, recognise
from cogvideox.diffusion.schedule import ScheduleConfig
from cogvideox.errors import CheckpointError, OutputError
from cogvideox.presets import PRESETS, get_preset, guess_preset, network_of
from cogvideox.spec import ModelSpec, kind_of
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

Target = Literal["diffusers", "sat"]


def convert(
    src: str | Path,
    dst: str | Path,
    to: Target,
    preset: str | ModelSpec | None = None,
    *,
    shard_size: ShardSize = "5GB",
    overwrite: bool = False,
    alpha: float | None = None,
    base: str | Path | None = None,
) -> Path:
    """Convert a model, a part of one, or an adapter; returns ``dst``, which appears whole or not at all.

    ``src``: a SAT file or folder, a diffusers model folder or part, a LoRA file or folder, what a trainer left (weights
    without a config, a training state), a preset or hub id. ``base`` is the model folder whose VAE, text encoder and
    tokenizer go beside a network that has none. ``preset`` names
    the model (needed for SAT weights that fit none by shape and have no settings beside them). ``alpha`` is for
    adapters that do not say theirs. Raises CheckpointError for files that do not fit the preset, OutputError when
    ``dst`` would take the place of ``src``.
    """
    if to not in ("diffusers", "sat"):
        raise CheckpointError(f"to {to!r}: formats are 'diffusers' and 'sat'")
    row = get_preset(preset) if isinstance(preset, str) else preset
    source = find_folder(src)
    if (container := family_of_file(source)) is not None:
        raise container.refusal(source)
    run = recognise(source)
    source = run.model if run is not None and run.model is not None else source
    _keep_apart(source, Path(dst))
    if (trained := network_in(source)) is not None:
        if to == "sat":
            raise CheckpointError(
                f"{source}: what a trainer left is converted to 'diffusers' first, then to 'sat'"
            )
        return _network_to_diffusers(source, trained, Path(dst), row, base, shard_size, overwrite)
    if base is not None:
        raise CheckpointError(f"base {base}: {source} is not what a trainer left; leave base out")
    if _holds_adapter(source):
        if row is not None:
            warnings.warn(f"preset {row.name} has no effect: {source} is an adapter", stacklevel=2)
        return _convert_adapter(source, Path(dst), to, alpha, overwrite)
    sat = _sat_files(source)
    if sat and to == "diffusers":
        return _sat_to_diffusers(source, sat, Path(dst), row, shard_size, overwrite)
    if not sat and to == "sat":
        return _diffusers_to_sat(source, Path(dst), row, overwrite)
    if sat:
        raise CheckpointError(f"{source}: is a SAT checkpoint already; convert it to 'diffusers'")
    return _rewrite_diffusers(source, Path(dst), row, shard_size, overwrite)


def guess_from_shapes(part: str, names: Mapping[str, tuple[int, ...]]) -> ModelSpec:
    """The preset whose network has exactly these tensors; raises CheckpointError when there is none."""
    for preset in PRESETS.values():
        config = preset.vae if part == "vae" else preset.transformer
        if meta_names(config) == names:
            return preset
    raise CheckpointError(f"the {part} has the shapes of none of {', '.join(PRESETS)}; pass preset, or base")


def _keep_apart(source: Path, dst: Path) -> None:
    """Writing replaces the whole of ``dst``: what is read must not stand there."""
    old, new = source.resolve(), dst.resolve()
    if old.is_relative_to(new):
        raise OutputError(f"{dst}: would take the place of {source}, which is read; choose another folder")
    if new.is_relative_to(old) and new.exists():
        raise OutputError(f"{dst}: is a part of {source}, which is read; choose another folder")


def _convert_adapter(source: Path, dst: Path, to: Target, alpha: float | None, overwrite: bool) -> Path:
    adapter = read_adapter(source, alpha)
    with checkpoint_folder(dst, overwrite) as folder:
        write_adapter(adapter, folder, to)
    return dst


def _sat_to_diffusers(
    source: Path,
    files: list[SatFile],
    dst: Path,
    preset: ModelSpec | None,
    shard_size: ShardSize,
    overwrite: bool,
) -> Path:
    root = root_of(source)
    record = read_record(root) if root.is_dir() else ModelRecord()
    known = {file.part: settings_of(file) for file in files}
    row = preset or (None if all(known.values()) else _guess(files))
    transformer: TransformerConfig | None = None
    vae: VAEConfig | None = None
    with checkpoint_folder(dst, overwrite) as folder:
        for file in files:
            config = known[file.part] or _of_preset(file, row, named=preset is not None)
            tensors = _ours(file, config, preset)
            if isinstance(config, VAEConfig):
                vae = config
                write_vae(folder, config, tensors, shard_size)
            else:
                transformer = config
                write_transformer(folder, config, tensors, shard_size)
        if not copy_schedule(root, folder) and (row or transformer):
            write_schedule(folder, (row or _guess(files)).schedule)
        # our own SAT folders bring the text encoder when there was one; those of others may have lost it
        foreign = "transformer" in known and known["transformer"] is None
        if not copy_text(root, folder) and foreign:
            warnings.warn(
                f"{source}: holds no text encoder: {dst} has none; copy text_encoder/ and tokenizer/ into it to "
                "use prompts",
                stacklevel=3,
            )
        kind = kind_of(transformer) if transformer else record.kind or (row.kind if row else "t2v")
        write_index(folder, kind)
        made = {"converted_from": [file.path.name for file in files], "format": "sat"}
        name = preset.name if preset else record.preset or (row.name if row else "")
        _write_record(folder, transformer, vae, name, {**record.provenance, **made}, _native(record))
    return dst


def _network_to_diffusers(
    source: Path,
    tensors: dict[str, Tensor],
    dst: Path,
    preset: ModelSpec | None,
    base: str | Path | None,
    shard_size: ShardSize,
    overwrite: bool,
) -> Path:
    """A model folder of a network, with what ``base`` (or an earlier download of its release) holds beside it."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    around = find_folder(base, download=False) if base is not None else None
    if around is not None:
        read_index(around)
        config, where = read_transformer_config(around / "transformer"), f"{source} as {around}"
    else:
        config = config_of_run(source) or (preset or guess_from_shapes("transformer", shapes)).transformer
        where = f"{source} as preset {preset.name}" if preset else str(source)
    check_names(meta_names(config), shapes, where)
    row = preset or PRESETS.get(guess_preset(config))
    if around is None and row is not None and row.hub is not None:
        around = cached(row.hub)
    record = (
        read_record(around)
        if around is not None
        else ModelRecord.of(row)
        if row is not None
        else ModelRecord()
    )
    with checkpoint_folder(dst, overwrite) as folder:
        write_transformer(folder, config, tensors, shard_size)
        vae = _copy_beside(around, folder) if around is not None else None
        if around is None:
            released = f", {row.hub}" if row is not None and row.hub is not None else ""
            warnings.warn(
                f"{source}: holds the network alone: {dst} has no VAE and no text encoder; convert with base=MODEL "
                f"(--base MODEL), the folder of the model it was trained from{released}",
                stacklevel=3,
            )
            write_schedule(folder, row.schedule if row is not None else ScheduleConfig())
        write_index(folder, kind_of(config))
        made = {"converted_from": [source.name], "format": "trainer"}
        name = record.preset or (row.name if row is not None else "")
        _write_record(folder, config, vae, name, {**record.provenance, **made}, _native(record))
    return dst


def _copy_beside(around: Path, folder: Path) -> VAEConfig:
    """VAE, schedule, text encoder and tokenizer of another model folder."""
    vae = read_vae_config(around / "vae")
    tensors = read_folder(around / "vae", STEM)
    check_floats(tensors.shapes, tensors.dtypes, around / "vae", tensors.metadata)
    write_vae(folder, vae, tensors, "5GB")
    copy_schedule(around, folder)
    copy_text(around, folder)
    return vae


def _write_record(
    folder: Path,
    transformer: TransformerConfig | None,
    vae: VAEConfig | None,
    name: str,
    provenance: dict[str, Any],
    native: dict[str, Any],
) -> None:
    """``cogvideox.json`` of converted networks: what the preset of this name says, and over it what was known."""
    record = ModelRecord.of(PRESETS[name]) if name in PRESETS else ModelRecord(preset=name)
    more: dict[str, Any] = {"provenance": provenance, "files": digests_in(folder)}
    if transformer is not None:
        more["kind"] = kind_of(transformer)
    record.model_copy(update={**native, **more, **own_settings(transformer, vae)}).write(folder)


def _native(record: ModelRecord) -> dict[str, Any]:
    """What a record says about use rather than about weights, as far as it says anything."""
    values = {
        name: getattr(record, name)
        for name in ("height", "width", "frames", "fps", "guidance", "dtype", "licence")
    }
    return {name: value for name, value in values.items() if value}


def _of_preset(file: SatFile, row: ModelSpec, named: bool) -> TransformerConfig | VAEConfig:
    """The preset's settings; only for a released model that was named are they surely the right ones."""
    if not (named and row.hub):
        scale = f" (scaling_factor {row.vae.scaling_factor:g})" if file.part == "vae" else ""
        warnings.warn(
            f"{file.path}: no config.json beside it: the settings of preset {row.name} are used{scale}; a model "
            "trained elsewhere may have others",
            stacklevel=4,
        )
    return row.vae if file.part == "vae" else row.transformer


def _ours(
    file: SatFile, config: TransformerConfig | VAEConfig, preset: ModelSpec | None
) -> dict[str, Tensor]:
    """The tensors under our names, checked against the preset first, then against their own settings."""
    whole = preset.vae if preset and file.part == "vae" else preset.transformer if preset else config
    ours: dict[str, Tensor] = {}
    for wanted, where in ((whole, f" as preset {preset.name}" if preset else ""), (config, "")):
        stages = len(wanted.block_out_channels) if isinstance(wanted, VAEConfig) else 4
        learned = isinstance(wanted, TransformerConfig) and wanted.use_learned_positional_embeddings
        ours = file.ours(stages, learned)
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        check_names(meta_names(wanted), shapes, f"{file.path}{where}")
    return ours


def _guess(files: list[SatFile]) -> ModelSpec:
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


def _diffusers_to_sat(source: Path, dst: Path, preset: ModelSpec | None, overwrite: bool) -> Path:
    parts = [part for part in ("transformer", "vae") if (source / part / "config.json").is_file()]
    with checkpoint_folder(dst, overwrite) as folder:
        for part in parts or [_part_of(source)]:
            place = component(source, part)
            config = read_vae_config(place) if part == "vae" else read_transformer_config(place)
            _check_preset(place, config, preset)
            tensors = read_folder(place, STEM)
            check_names(meta_names(config), tensors.shapes, str(place))
            if isinstance(config, VAEConfig):
                rules = keymap("vae", stages=len(config.block_out_channels))
            else:
                rules = keymap("transformer", learned_positions=config.use_learned_positional_embeddings)
            write_sat(folder / part, "vae" if part == "vae" else "transformer", rules.to_foreign(tensors))
            keep_settings(place, folder / part)
        if parts:
            copy_schedule(source, folder)
            copy_text(source, folder)
    return dst


def _rewrite_diffusers(
    source: Path, dst: Path, preset: ModelSpec | None, shard_size: ShardSize, overwrite: bool
) -> Path:
    """The same layout again: other shards, everything checked on the way, every tensor as it was stored."""
    if not (source / "model_index.json").is_file():
        raise not_a_model(source)
    record = read_record(source)
    model = load_stored(source, record)
    _check_preset(source / "transformer", model.transformer.config, preset)
    _check_preset(source / "vae", model.vae.config, preset)
    if preset is not None:
        model.spec = replace(model.spec, name=preset.name)
    return save_model(
        model, dst, shard_size, overwrite=overwrite, provenance=record.provenance, dtype=record.dtype
    )


def _check_preset(place: Path, config: TransformerConfig | VAEConfig, preset: ModelSpec | None) -> None:
    """A preset that is named must be the one of these weights."""
    if preset is None:
        return
    if isinstance(config, VAEConfig):
        fits = meta_names(config) == meta_names(preset.vae)
    else:
        fits = network_of(config) == network_of(preset.transformer)
    if not fits:
        raise CheckpointError(f"{place}: is not the network of preset {preset.name}; leave preset out")


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
    if any((source / name).is_file() for name in (FILE, PEFT_FILE)):
        return True
    several = sorted(source.glob("*.safetensors"))
    return len(several) == 1 and not (source / "config.json").is_file() and is_adapter(read_file(several[0]))


def _sat_files(source: Path) -> list[SatFile]:
    if source.is_file():
        if source.suffix == ".safetensors":
            raise not_a_model(source)
        if source.suffix not in SUFFIXES:
            raise CheckpointError(
                f"{source}: a single {source.suffix or 'unnamed'} file is neither SAT nor an adapter; "
                "pass the folder around it"
            )
        return [read_sat(source)]
    if is_sat(source):  # before config.json: our SAT folders hold it too
        return [read_sat(source)]
    if (source / "model_index.json").is_file() or (source / "config.json").is_file():
        return []
    return [read_sat(place) for place in find_parts(source).values()]

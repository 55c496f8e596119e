"""One command between formats: SAT to diffusers and back, for whole models, single components and adapters.

Weights of models are renamed, cut and joined, never computed with: a round trip gives the same bits. (SAT has no
place for the alpha of an adapter, so B is multiplied by it there. Adapters that are added to a model change it, and so
does another model it is blended with.) What SAT cannot hold is written beside it and read back; a SAT release of others
holds no settings, and then a preset's are used: the one named, or the one that fits. ``training.json`` goes along with
the weights that it is about.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cogvideox.checkpoints import diffusers, folders
from cogvideox.checkpoints.adapter import LORA_FILE, PEFT_FILE, write_adapter
from cogvideox.checkpoints.adapter_names import is_adapter
from cogvideox.checkpoints.adapter_reading import read_adapter
from cogvideox.checkpoints.adapter_settings import copy_recommended
from cogvideox.checkpoints.blend import blend_models
from cogvideox.checkpoints.families import check_floats
from cogvideox.checkpoints.fill import check_names
from cogvideox.checkpoints.fuse import fuse_adapters
from cogvideox.checkpoints.hub import cached, find_folder
from cogvideox.checkpoints.network_files import read_network
from cogvideox.checkpoints.record import ModelRecord, read_record
from cogvideox.checkpoints.sat import (
    SUFFIXES,
    Component,
    SatFile,
    find_components,
    is_sat,
    keep_settings,
    keymap,
    read_sat,
    settings_beside,
    write_sat,
)
from cogvideox.checkpoints.specs import (
    STEM,
    component,
    own_settings,
    read_transformer_config,
    read_vae_config,
)
from cogvideox.checkpoints.tensors import read_file, read_folder, shapes_of
from cogvideox.checkpoints.trainers import config_of_run, find_source, network_in, not_a_model
from cogvideox.diffusion.schedule import ScheduleConfig
from cogvideox.errors import CheckpointError
from cogvideox.files.quantised import dense
from cogvideox.presets import PRESETS, get_preset, guess_preset, network_of
from cogvideox.spec import Kind, ModelSpec, kind_of, kinds_of
from cogvideox.strength import Strength
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

Target = Literal["diffusers", "sat"]


def convert(
    src: str | Path,
    dst: str | Path,
    to: Target = "diffusers",
    preset: str | ModelSpec | None = None,
    *,
    shard_size: diffusers.ShardSize = "5GB",
    overwrite: bool = False,
    alpha: float | None = None,
    base: str | Path | None = None,
    lora: Sequence[tuple[str | Path, float | str | Strength]] = (),
    settings: Mapping[str, Any] | None = None,
    blend: tuple[str | Path, float] | None = None,
) -> Path:
    """Convert a model, a component of one, or an adapter; returns ``dst``, which appears whole or not at all.

    ``src``: a SAT file or folder, a diffusers model folder or component, a LoRA file or folder, what a trainer left
    (weights without a config, a training state), a preset or hub id. ``base`` is the model folder whose VAE, text
    encoder and tokenizer go beside a network that has none. ``preset`` names the model (needed for SAT weights that fit
    none by shape and have no settings beside them). ``alpha`` is for adapters that do not say theirs. ``lora``:
    adapters and their strengths, which are added into the weights of the model folder ``src``; ``settings``: what it is
    made for with them (times or steps, sampler, guidance), as ``generation.recommended.merged`` reads it beside them.
    ``blend``: another model folder of the same shape and its share, 0 to 1, in the mean of both transformers. Raises
    CheckpointError for files that do not fit the preset, OutputError when ``dst`` would take the place of ``src``.
    """
    if to not in ("diffusers", "sat"):
        raise CheckpointError(f"to {to!r}: formats are 'diffusers' and 'sat'")
    spec = get_preset(preset) if isinstance(preset, str) else preset
    target = Path(dst)
    if to == "sat" and (lora or blend):
        changed = "lora: adapters are added to" if lora else "blend: changes"
        raise CheckpointError(f"{changed} a diffusers folder; convert that to 'sat' afterwards")
    if settings is not None and not lora:
        raise CheckpointError(
            "settings: are those of adapters that are added to a model; give lora, or leave them out"
        )
    if blend is not None:
        _refuse("blend", lora=lora or None, base=base, alpha=alpha, preset=preset)
        blend_models(src, target, *blend, shard_size=shard_size, overwrite=overwrite)
        return target
    source = find_source(src)
    folders.keep_apart(source, target)
    job = _Conversion(source, target, to, spec, shard_size, overwrite)
    if lora:
        _refuse("lora", base=base, preset=preset)
        fuse_adapters(source, target, lora, settings, alpha=alpha, shard_size=shard_size, overwrite=overwrite)
    elif (trained := network_in(source)) is not None:
        _convert_network(job, trained, base)
    elif base is not None:
        raise CheckpointError(f"base {base}: {source} is not what a trainer left; leave base out")
    elif _holds_adapter(source):
        _convert_adapter(job, alpha)
    elif sat := _sat_files(source):
        _sat_to_diffusers(job, sat)
    elif to == "sat":
        _diffusers_to_sat(job)
    else:
        _rewrite_diffusers(job)
    return target


def _refuse(change: str, **others: object) -> None:
    """What has no effect where the weights of a model folder are changed is not passed over in silence."""
    if given := [name for name, value in others.items() if value is not None]:
        raise CheckpointError(
            f"{change} and {', '.join(given)}: one after the other; {change} what comes out"
        )


@dataclass(frozen=True)
class _Conversion:
    """What is converted, to where, and how it is written."""

    source: Path
    target: Path
    to: Target
    preset: ModelSpec | None
    shard_size: diffusers.ShardSize
    overwrite: bool

    def folder(self) -> AbstractContextManager[Path]:
        """A new folder that becomes the target when all is written."""
        return folders.checkpoint_folder(self.target, self.overwrite)


def _spec_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> ModelSpec:
    """The preset whose transformer has exactly these tensors; raises CheckpointError when there is none."""
    name = diffusers.preset_of_shapes(shapes)
    if not name:
        known = ", ".join(PRESETS)
        raise CheckpointError(f"the transformer has the shapes of none of {known}; pass preset, or base")
    return PRESETS[name]


def _convert_adapter(job: _Conversion, alpha: float | None) -> None:
    source = job.source
    if job.preset is not None:
        warnings.warn(f"preset {job.preset.name} has no effect: {source} is an adapter", stacklevel=3)
    adapter = read_adapter(source, alpha)
    with job.folder() as folder:
        write_adapter(adapter, folder, job.to)
        copy_recommended(source, folder)
        if source.is_dir() or source.name in (LORA_FILE, PEFT_FILE):
            folders.copy_training_records(source if source.is_dir() else source.parent, folder)


def _sat_to_diffusers(job: _Conversion, files: list[SatFile]) -> None:
    source, preset = job.source, job.preset
    if job.to == "sat":
        raise CheckpointError(f"{source}: is a SAT checkpoint already; convert it to 'diffusers'")
    root = folders.root_of(source)
    record = read_record(root) if root.is_dir() else ModelRecord()
    known = {file.component: settings_beside(file) for file in files}
    spec = preset or (None if all(known.values()) else _guess(files))
    transformer: TransformerConfig | None = None
    vae: VAEConfig | None = None
    with job.folder() as folder:
        for file in files:
            config = known[file.component] or _of_preset(file, spec, named=preset is not None)
            tensors = _ours(file, config, preset)
            if isinstance(config, VAEConfig):
                vae = config
                diffusers.write_vae(folder, config, tensors, job.shard_size)
            else:
                transformer = config
                diffusers.write_transformer(folder, config, tensors, job.shard_size)
        if not folders.copy_schedule(root, folder) and (spec or transformer):
            diffusers.write_schedule(folder, (spec or _guess(files)).schedule)
        # our own SAT folders bring the text encoder when there was one; those of others may have lost it
        foreign = "transformer" in known and known["transformer"] is None
        if not folders.copy_text(root, folder) and foreign:
            warnings.warn(
                f"{source}: holds no text encoder: {job.target} has none; copy text_encoder/ and tokenizer/ into it "
                "to use prompts",
                stacklevel=3,
            )
        folders.copy_training_records(root, folder / files[0].component if is_sat(root) else folder)
        kind = _kind(transformer, record) if transformer else record.kind or (spec.kind if spec else "t2v")
        diffusers.write_index(folder, kind)
        name = preset.name if preset else record.preset or (spec.name if spec else "")
        origin = {"converted_from": [file.path.name for file in files], "format": "sat"}
        _write_record(folder, record, name, transformer, vae, origin)


def _convert_network(job: _Conversion, tensors: dict[str, Tensor], base: str | Path | None) -> None:
    """A network that a trainer left, with what ``base`` (or an earlier download of its release) holds beside it."""
    source = job.source
    if job.to == "sat":
        raise CheckpointError(
            f"{source}: what a trainer left is converted to 'diffusers' first, then to 'sat'"
        )
    around = find_folder(base, download=False) if base is not None else None
    config = _config_of_network(job, tensors, around)
    spec = job.preset or PRESETS.get(guess_preset(config))
    if around is None and spec is not None and spec.hub is not None:
        around = cached(spec.hub)
    record = ModelRecord.of(spec) if spec is not None else ModelRecord()
    record = read_record(around) if around is not None else record
    with job.folder() as folder:
        diffusers.write_transformer(folder, config, tensors, job.shard_size)
        vae = _copy_beside(around, folder) if around is not None else None
        if around is None:
            released = f", {spec.hub}" if spec is not None and spec.hub is not None else ""
            warnings.warn(
                f"{source}: holds the network alone: {job.target} has no VAE and no text encoder; convert with "
                f"base=MODEL (--base MODEL), the folder of the model it was trained from{released}",
                stacklevel=3,
            )
            diffusers.write_schedule(folder, spec.schedule if spec is not None else ScheduleConfig())
        folders.copy_training_records(source, folder)
        diffusers.write_index(folder, _kind(config, record))
        name = record.preset or (spec.name if spec is not None else "")
        origin = {"converted_from": [source.name], "format": "trainer"}
        _write_record(folder, record, name, config, vae, origin)


def _config_of_network(
    job: _Conversion, tensors: Mapping[str, Tensor], around: Path | None
) -> TransformerConfig:
    """The settings of a network that has none: of its base, its run, or the preset that is named or fits. Raises
    CheckpointError when they are not those of the tensors."""
    where, shapes = str(job.source), shapes_of(tensors)
    if around is not None:
        diffusers.read_index(around)
        config, where = read_transformer_config(around / "transformer"), f"{where} as {around}"
    else:
        run = config_of_run(job.source)
        config = run or (job.preset or _spec_of_shapes(shapes)).transformer
        where += f" as preset {job.preset.name}" if job.preset else ""
    check_names(diffusers.meta_names(config), shapes, where)
    return config


def _copy_beside(around: Path, folder: Path) -> VAEConfig:
    """VAE, schedule, text encoder and tokenizer of another model folder."""
    vae = read_vae_config(around / "vae")
    tensors = read_folder(around / "vae", STEM)
    check_floats(tensors, around / "vae")
    diffusers.write_vae(folder, vae, tensors, "5GB")
    folders.copy_training_records(around / "vae", folder / "vae")
    folders.copy_schedule(around, folder)
    folders.copy_text(around, folder)
    return vae


def _write_record(
    folder: Path,
    record: ModelRecord,
    name: str,
    transformer: TransformerConfig | None,
    vae: VAEConfig | None,
    source: Mapping[str, Any],
) -> None:
    """``cogvideox.json`` of converted networks: what the preset of this name says, and over it what was known."""
    native = (
        "height", "width", "frames", "fps", "guidance", "times", "sampler", "dtype", "licence", "condition_noise",
    )  # fmt: skip
    facts = {field: value for field in native if (value := getattr(record, field))}
    facts |= {"provenance": {**record.provenance, **source}, "files": diffusers.digests_in(folder)}
    facts |= own_settings(transformer, vae)
    if transformer is not None:
        facts["kind"] = _kind(transformer, record)
    known = ModelRecord.of(PRESETS[name], **facts) if name in PRESETS else ModelRecord(preset=name, **facts)
    known.write(folder)


def _kind(transformer: TransformerConfig, record: ModelRecord) -> Kind:
    """What converted networks make a video from: as was known, if they still have its channels."""
    return record.kind if record.kind in kinds_of(transformer) else kind_of(transformer)  # type: ignore[return-value]


def _of_preset(file: SatFile, spec: ModelSpec | None, named: bool) -> TransformerConfig | VAEConfig:
    """The preset's settings; only for a released model that was named are they surely the right ones."""
    assert spec is not None  # guessed where the settings of a file are not known
    if not (named and spec.hub):
        scale = f" (scaling_factor {spec.vae.scaling_factor:g})" if file.component == "vae" else ""
        warnings.warn(
            f"{file.path}: no config.json beside it: the settings of preset {spec.name} are used{scale}; a model "
            "trained elsewhere may have others",
            stacklevel=4,
        )
    return spec.vae if file.component == "vae" else spec.transformer


def _ours(
    file: SatFile, config: TransformerConfig | VAEConfig, preset: ModelSpec | None
) -> dict[str, Tensor]:
    """The tensors under our names, checked against the preset first, then against their own settings."""
    whole = preset.vae if preset and file.component == "vae" else preset.transformer if preset else config
    ours: dict[str, Tensor] = {}
    for wanted, where in ((whole, f" as preset {preset.name}" if preset else ""), (config, "")):
        stages = len(wanted.block_out_channels) if isinstance(wanted, VAEConfig) else 4
        learned = isinstance(wanted, TransformerConfig) and wanted.use_learned_positional_embeddings
        ours = file.ours(stages, learned)
        check_names(diffusers.meta_names(wanted), shapes_of(ours), f"{file.path}{where}")
    return ours


def _guess(files: list[SatFile]) -> ModelSpec:
    # the transformer decides: all public models share the shapes of the VAE
    file = next((file for file in files if file.component == "transformer"), None)
    if file is None:
        raise CheckpointError(
            f"{files[0].path}: the public models share one VAE shape but not its scaling factor; pass preset"
        )
    try:
        return _spec_of_shapes(shapes_of(file.ours(learned_positions=False)))
    except CheckpointError:
        if not file.has_positions:
            raise
    return _spec_of_shapes(shapes_of(file.ours(learned_positions=True)))


def _diffusers_to_sat(job: _Conversion) -> None:
    source = job.source
    networks: list[Component] = ["transformer", "vae"]
    whole = [name for name in networks if (source / name / "config.json").is_file()]
    with job.folder() as folder:
        for name in whole or [_component_of(source)]:
            read_from = component(source, name)
            config = read_vae_config(read_from) if name == "vae" else read_transformer_config(read_from)
            _check_preset(read_from, config, job.preset)
            tensors = read_network(read_from, STEM)
            check_names(diffusers.meta_names(config), shapes_of(tensors), str(read_from))
            if isinstance(config, VAEConfig):
                rules = keymap("vae", stages=len(config.block_out_channels))
            else:
                rules = keymap("transformer", learned_positions=config.use_learned_positional_embeddings)
            write_sat(folder / name, name, rules.to_foreign({key: dense(tensors[key]) for key in tensors}))
            keep_settings(read_from, folder / name)
            folders.copy_training_records(read_from, folder / name)
        if whole:
            folders.copy_schedule(source, folder)
            folders.copy_text(source, folder)
            folders.copy_training_records(source, folder)


def _rewrite_diffusers(job: _Conversion) -> None:
    """The same layout again: other shards, everything checked on the way, every tensor as it was stored."""
    source, preset = job.source, job.preset
    if not (source / "model_index.json").is_file():
        raise not_a_model(source)
    record = read_record(source)
    with job.folder() as folder:  # a target that is taken is refused before weights are read
        model = diffusers.load_stored(source, record)
        _check_preset(source / "transformer", model.transformer.config, preset)
        _check_preset(source / "vae", model.vae.config, preset)
        if preset is not None:
            model.spec = replace(model.spec, name=preset.name)
        diffusers.write_model(folder, model, job.shard_size, provenance=record.provenance, dtype=record.dtype)
        folders.copy_training_records(source, folder)


def _check_preset(path: Path, config: TransformerConfig | VAEConfig, preset: ModelSpec | None) -> None:
    """A preset that is named must be the one of these weights."""
    if preset is None:
        return
    if isinstance(config, VAEConfig):
        fits = diffusers.meta_names(config) == diffusers.meta_names(preset.vae)
    else:
        fits = network_of(config) == network_of(preset.transformer)
    if not fits:
        raise CheckpointError(f"{path}: is not the network of preset {preset.name}; leave preset out")


def _component_of(folder: Path) -> Component:
    try:
        read_transformer_config(folder)
        return "transformer"
    except CheckpointError:
        pass
    try:
        read_vae_config(folder)
        return "vae"
    except CheckpointError:
        raise CheckpointError(
            f"{folder}: neither a SAT checkpoint, a diffusers folder nor an adapter"
        ) from None


def _holds_adapter(source: Path) -> bool:
    if source.is_file() and source.suffix == ".safetensors":
        return is_adapter(read_file(source))
    if is_sat(source):
        return read_sat(source).component == "lora"
    if any((source / name).is_file() for name in (LORA_FILE, PEFT_FILE)):
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
    return [read_sat(path) for path in find_components(source)]

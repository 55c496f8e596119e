"""The spec of a model from its folder: config files and ``cogvideox.json``, read and checked; no weight is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from cogvideox.checkpoints.components import NO_COMPONENTS, STEM, Components, NetworkFiles
from cogvideox.checkpoints.families import check_config
from cogvideox.checkpoints.fill import check_names
from cogvideox.checkpoints.hub import cached, exists, find_folder, released
from cogvideox.checkpoints.kinds import OF_FUN, check_recorded, fun_settings, is_noisy, kind_in
from cogvideox.checkpoints.misplaced import belongs_after
from cogvideox.checkpoints.network_files import read_network
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.checkpoints.record import RECORD, ModelRecord, read_record
from cogvideox.checkpoints.shapes import is_vae, meta_names, transformer_settings
from cogvideox.checkpoints.shipped import ships
from cogvideox.checkpoints.tensors import Tensors, read_json, shapes_of
from cogvideox.checkpoints.trainers import not_a_model
from cogvideox.config import Config
from cogvideox.diffusion.schedule import ScheduleConfig
from cogvideox.errors import CheckpointError, ConfigError, suggest
from cogvideox.files import short
from cogvideox.presets import PRESETS, get_preset, guess_preset
from cogvideox.spec import ABOUT_KINDS, Kind, ModelSpec, Settings
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig
from cogvideox.vae.config import OWN_SETTINGS

OWN_TRANSFORMER = ("use_positional_embeddings", "position_mode", "riflex_frames", "attention", "experts")
RELEASED_TRANSFORMER = tuple(name for name in TransformerConfig.model_fields if name not in OWN_TRANSFORMER)
TRANSFORMER_CLASS, VAE_CLASS = "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX"
SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
# written by some version of diffusers or of the converters, and without effect on the numbers
HARMLESS = {"act_fn", "down_block_types", "up_block_types", "latents_mean", "latents_std", "use_quant_conv",
            "use_post_quant_conv", "sample_size", "force_upcast", "add_noise_in_inpaint_model",
            "quantization_config"}  # fmt: skip
C = TypeVar("C", bound=Config)


def find_spec(
    path_or_name: str | Path, kind: Kind | None = None, components: Components = NO_COMPONENTS
) -> ModelSpec:
    """The spec of a preset by name, a model folder, or a hub id; nothing is downloaded.

    ``kind``: what the model makes a video from, where its files leave that open. ``components``: networks in place of
    its own. Raises CheckpointError when there is no such model on this computer nor in the table.
    """
    name = str(path_or_name)
    if not exists(Path(name)):
        if name in PRESETS and not ships(name):
            return with_components(get_preset(name), components, kind)
        spec = released(name)
        if spec is not None and cached(spec.hub or name) is None:
            return with_components(spec, components, kind)
    return read_spec(find_folder(path_or_name, download=False), kind, components)


def read_spec(folder: Path, kind: Kind | None = None, components: Components = NO_COMPONENTS) -> ModelSpec:
    """The spec of a model folder. Raises CheckpointError or ConfigError when its files cannot be read.

    ``kind``: what it makes a video from, where its files leave that open. ``components``: networks in place of its own.
    """
    if not (folder / "model_index.json").is_file():
        raise not_a_model(folder)
    return spec_of(folder, read_record(folder), kind=kind, components=components)


def spec_of(
    folder: Path,
    record: ModelRecord,
    variant: str | None = None,
    text: bool = True,
    kind: Kind | None = None,
    components: Components = NO_COMPONENTS,
) -> ModelSpec:
    """The spec of a model folder whose ``cogvideox.json`` was read; ``text`` false: without its text encoder.

    The folder's own files decide. The table of models only names the network and gives what no file says; ``kind`` says
    what the files leave open. ``components`` take the place of its own networks.
    """
    asked, files = kind, components.files(folder)
    kind = kind if components.transformer is None else None  # what takes its place decides
    transformer = read_transformer_config(folder / "transformer", record)
    vae = read_vae_config(folder / "vae", record)
    schedule = read_schedule_config(component(folder, "scheduler", "scheduler_config.json"))
    if record.kind and kind not in (None, record.kind):
        raise ConfigError(f"{folder}: kind {kind!r}: {RECORD} says {record.kind}; leave the kind out")
    own = (folder / RECORD).is_file()
    kind = record.kind or kind_in(folder, transformer, kind, own=own)
    check_recorded(record.kind, transformer, folder / RECORD)
    facts: dict[str, Any] = dict(transformer=transformer, vae=vae, schedule=schedule)
    if kind in OF_FUN and not own:
        noisy = is_noisy(folder / "transformer" / "config.json")
        facts = fun_settings(kind, noisy, transformer, vae, schedule)
    native: dict[str, Any] = dict(
        height=record.height, width=record.width, frames=record.frames, fps=record.fps
    )
    native |= dict(times=record.times, sampler=record.sampler)
    native |= dict(guidance=record.guidance, condition_noise=record.condition_noise or None)
    facts |= {name: value for name, value in native.items() if value is not None}
    name = record.preset or _preset_of(transformer, kind)
    known = PRESETS.get(name)
    t5 = folder / "text_encoder" / "config.json"
    networks = {"transformer": files["transformer"].tensors(variant)}
    if text and t5.is_file() and "quantization_config" in read_json(t5):
        networks["text_encoder"] = files["text_encoder"].tensors()
    spec = ModelSpec.of_configs(
        **facts,
        text_settings=read_json(t5) if text and t5.is_file() else None,
        name=name,
        kind=kind,
        dtype=record.dtype or str(_first_float(networks["transformer"])).removeprefix("torch."),
        stored_bytes=_stored_bytes(networks),
        licence=record.licence or (known.licence if known else ""),
        about=known.about if known else "",
        hub=known.hub if known else None,
        download_gb=known.download_gb if known else None,
    )
    return with_components(spec, components, asked, own)


def _preset_of(transformer: TransformerConfig, kind: Kind) -> str:
    """The row of the table of models that has such a transformer and is of this kind, "" for none."""
    guess = guess_preset(transformer)
    return guess if guess in PRESETS and PRESETS[guess].kind == kind else ""


def with_components(
    spec: ModelSpec, components: Components, kind: Kind | None = None, own: bool = False
) -> ModelSpec:
    """The spec of a model with other networks in the place of its own; only headers and configs are read.

    What a file without settings does not tell is the model's. ``kind``: what it makes a video from then, where files
    leave that open. ``own``: this package wrote the model, so that nothing of VideoX-Fun is assumed. Raises
    CheckpointError for networks that do not fit each other, ConfigError for settings that make no sense.
    """
    if not components.given:
        return spec
    vae = spec.vae if components.vae is None else _vae_of(components.vae, spec.vae)
    text = spec.text_settings
    if components.text_encoder is not None:
        text = _text_of(components.text_encoder, text)
    facts: dict[str, Any] = dict(
        transformer=spec.transformer, vae=vae, schedule=spec.schedule, kind=spec.kind
    )
    kept = ("name", "height", "width", "frames", "fps", "guidance", "times", "sampler", "about")
    facts |= {name: getattr(spec, name) for name in kept}
    facts["condition_noise"] = max((each.noise for each in spec.conditions), default=0.0)
    if components.transformer is not None:
        facts |= _facts_of_transformer(spec, components.transformer, vae, kind, own)
    _check_together(components, facts["transformer"], facts["vae"], text)
    same = dict(dtype=spec.dtype, licence=spec.licence, hub=spec.hub, download_gb=spec.download_gb)
    stored = {name: sizes for name, sizes in spec.stored_bytes.items() if name not in components.given}
    facts["stored_bytes"] = stored | _stored_bytes(
        {n: each.tensors() for n, each in components.given.items()}
    )
    return ModelSpec.of_configs(**facts | same, text_settings=text)


def _facts_of_transformer(
    spec: ModelSpec, files: NetworkFiles, vae: VAEConfig, asked: Kind | None, own: bool
) -> dict[str, Any]:
    """What changes about a model with another transformer, as arguments of ``ModelSpec.of_configs``."""
    config = _transformer_of(files, spec.transformer)
    theirs = read_record(files.where.parent) if files.config is not None else ModelRecord()
    if theirs.kind and asked not in (None, theirs.kind):
        raise ConfigError(f"{files.where}: kind {asked!r}: {RECORD} says {theirs.kind}; leave the kind out")
    kind = theirs.kind or kind_in(files.where, config, asked, own=own)
    same = config == spec.transformer and kind == spec.kind
    name = spec.name if same else theirs.preset or _preset_of(config, kind)
    facts: dict[str, Any] = dict(transformer=config, kind=kind, name=name, about=spec.about if same else "")
    native = {name: getattr(theirs, name) for name in ("height", "width", "frames", "fps", "guidance")}
    facts |= {name: value for name, value in native.items() if value is not None}
    if theirs.kind:  # a record of ours, which says how the network is to be sampled
        facts |= dict(times=theirs.times or (), sampler=theirs.sampler or "ddim", guidance=theirs.guidance)
        return facts | {"condition_noise": theirs.condition_noise}
    if kind != spec.kind:
        facts["times"] = ()
    if own or kind == spec.kind:
        return facts
    if kind in OF_FUN:
        noisy = files.config is not None and is_noisy(files.config)
        fun = fun_settings(kind, noisy, config, vae, spec.schedule)
        if files.config is None:  # the model's own file says whether conditions were noised in training
            del fun["condition_noise"]
        return facts | fun
    if spec.kind in OF_FUN:
        raise CheckpointError(
            f"{files.where}: a transformer that makes videos from {ABOUT_KINDS[kind]} ({kind}), beside a model of "
            f"VideoX-Fun ({spec.kind}), whose schedule and autoencoder are set otherwise; give the model that it was "
            "made from as --model"
        )
    return facts


def _transformer_of(files: NetworkFiles, base: TransformerConfig) -> TransformerConfig:
    """The settings of a transformer that takes the place of ``base``. Raises CheckpointError for another size."""
    shapes, where = shapes_of(files.tensors()), files.where
    settings = transformer_settings(shapes)
    if files.config is not None:
        settings = read_transformer_config(where).model_dump()
    elif not settings:
        do = belongs_after(where, "give a transformer's folder or file")
        raise CheckpointError(
            f"{where}: holds no transformer: no patch_embed, time_embedding and proj_out in it; {do}"
        )
    names = {"heads": "num_attention_heads", "head size": "attention_head_dim", "patch size": "patch_size"}
    names |= {"patch size in time": "patch_size_t"}
    for what, name in names.items():
        if settings[name] != getattr(base, name):
            raise CheckpointError(
                f"{where}: {what} {settings[name]}, the model's own transformer has {getattr(base, name)}: it was made "
                "from another model, with a schedule and an autoencoder of its own; give that one as --model"
            )
    config = base.changed(**settings)
    check_names(meta_names(config), shapes, str(where))
    return config


def _vae_of(files: NetworkFiles, base: VAEConfig) -> VAEConfig:
    """The settings of an autoencoder that takes the place of ``base``; what latents are scaled by stays the model's.

    Raises CheckpointError for another network.
    """
    config = base
    if files.config is not None:
        read = read_vae_config(files.where)
        kept = ("scaling_factor", "shift_factor", "invert_scale_latents", "first_latent_alone")
        config = read.changed(**{name: getattr(base, name) for name in kept})
        if read.scaling_factor != base.scaling_factor:
            warnings.warn(
                f"{files.where}: its scaling_factor {read.scaling_factor:g} is not used: the model's transformer was "
                f"trained with {base.scaling_factor:g}",
                stacklevel=5,
            )
    shapes = shapes_of(files.tensors())
    if files.config is None and not is_vae(shapes):
        do = belongs_after(files.where, "give a VAE's folder or file")
        raise CheckpointError(f"{files.where}: holds no VAE: no encoder and decoder in it; {do}")
    check_names(meta_names(config), shapes, str(files.where))
    for name in ("spatial_compression_ratio", "temporal_compression_ratio"):
        if getattr(config, name) != getattr(base, name):
            raise CheckpointError(
                f"{files.where}: {name} {getattr(config, name)}, the model's own VAE has {getattr(base, name)}; take "
                "the VAE of this model"
            )
    return config


def _text_of(files: NetworkFiles, base: Settings | None) -> Settings:
    """The settings of a text encoder that takes the place of the model's own. Raises CheckpointError for a bare file
    beside a model that has none."""
    if files.config is not None:
        return read_json(files.config)
    if base is None:
        raise CheckpointError(
            f"{files.where}: a text encoder without settings, and the model has none; name a folder with config.json"
        )
    table, width = shapes_of(files.tensors()).get("shared.weight"), base.get("d_model")
    if table is None:
        do = belongs_after(files.where, "give a text encoder's folder or file")
        raise CheckpointError(f"{files.where}: holds no text encoder: no shared.weight in it; {do}")
    if table[1:] != (width,):
        raise CheckpointError(
            f"{files.where}: its vocabulary (shared.weight) is {list(table)}, the model's has "
            f"vectors of {width}: it is no text encoder of this model; take T5 v1.1 of its size"
        )
    return base


def _check_together(
    components: Components, transformer: TransformerConfig, vae: VAEConfig, text: Settings | None
) -> None:
    """Refuse networks that do not read what the others write. Raises CheckpointError with both values."""
    named = " and ".join(str(each.where) for each in components.given.values())
    if vae.latent_channels != transformer.out_channels:
        raise CheckpointError(
            f"{named}: the transformer makes {transformer.out_channels} latent channels, the VAE reads "
            f"{vae.latent_channels}; give a transformer and a VAE of one model"
        )
    width = text["d_model"] if text is not None and "d_model" in text else transformer.text_embed_dim
    if width != transformer.text_embed_dim:
        raise CheckpointError(
            f"{named}: the text encoder writes vectors of {width}, the transformer reads "
            f"{transformer.text_embed_dim}; give a transformer and a text encoder of one model"
        )


def own_settings(transformer: TransformerConfig | None, vae: VAEConfig | None) -> dict[str, dict[str, Any]]:
    """The settings that differ from what a reader of the diffusers files alone would assume."""
    found: dict[str, dict[str, Any]] = {"transformer": {}, "vae": {}}
    if transformer is not None:
        values = transformer.model_dump(mode="json")
        plain = TransformerConfig.parse({key: values[key] for key in RELEASED_TRANSFORMER}).model_dump(
            mode="json"
        )
        found["transformer"] = {key: value for key, value in values.items() if plain[key] != value}
    if vae is not None:
        values, plain = vae.model_dump(mode="json"), VAEConfig().model_dump(mode="json")
        found["vae"] = {key: values[key] for key in OWN_SETTINGS if values[key] != plain[key]}
    return found


def stored_dtype(path: str | Path, variant: str | None = None) -> torch.dtype:
    """The precision that a transformer's weights are stored in, by their headers."""
    return _first_float(read_network(component(path, "transformer"), STEM, variant))


def _first_float(tensors: Tensors) -> torch.dtype:
    entries = tensors.entries.values()
    return next((entry.dtype for entry in entries if entry.dtype.is_floating_point), torch.float32)


def _stored_bytes(tensors: Mapping[str, Tensors]) -> dict[str, dict[str, int]]:
    """Bytes of the quantised weights of each network that has some."""
    return {name: each.stored_bytes for name, each in tensors.items() if isinstance(each, QuantisedTensors)}


def read_transformer_config(folder: Path, record: ModelRecord | None = None) -> TransformerConfig:
    """``config.json`` of a transformer folder, with what ``cogvideox.json`` above it (or ``record``) adds."""
    file, values = _network_config(folder, TRANSFORMER_CLASS)
    record = read_record(folder.parent) if record is None else record
    return parse_config(TransformerConfig, values | record.transformer, file)


def read_vae_config(folder: Path, record: ModelRecord | None = None) -> VAEConfig:
    """``config.json`` of a VAE folder, with what ``cogvideox.json`` above it (or ``record``) adds."""
    file, values = _network_config(folder, VAE_CLASS)
    record = read_record(folder.parent) if record is None else record
    return parse_config(VAEConfig, values | record.vae, file)


def read_schedule_config(folder: Path) -> ScheduleConfig:
    """``scheduler_config.json`` of a folder; its values hold, except that times are always spaced "trailing".

    Every published result used that spacing, and it alone starts from pure noise. Warns when the file says otherwise.
    """
    file = folder / "scheduler_config.json"
    values = read_json(file)
    check_class(values, SCHEDULERS, file)
    spacing = values.get("timestep_spacing", "trailing")
    if spacing != "trailing":
        warnings.warn(
            f"{file}: timestep_spacing {spacing!r} is not used: as in every published result, times are spaced "
            '"trailing"',
            stacklevel=2,
        )
    return parse_config(ScheduleConfig, {**values, "timestep_spacing": "trailing"}, file)


def component(path: str | Path, name: str, config: str = "config.json") -> Path:
    """The folder of a component of a model, given it or the model folder. Raises CheckpointError for neither."""
    folder = find_folder(path)
    inner = folder / name if (folder / name / config).is_file() else folder
    if not (inner / config).is_file() or (inner == folder and (folder / "model_index.json").is_file()):
        raise CheckpointError(f"{folder}: no {name}: neither {name}/{config} nor {config} is in it")
    return inner


def check_class(values: Mapping[str, Any], known: tuple[str, ...], file: Path) -> None:
    """Raises CheckpointError for a config of another class than the ``known`` ones."""
    name = values.get("_class_name", known[0])
    if name not in known:
        raise CheckpointError(
            f"{file}: _class_name is {short(name)}, expected {' or '.join(known)}; it is another model's"
        )


def warn_of_unknown(
    values: Mapping[str, Any], kind: type[Config], harmless: Collection[str], file: Path
) -> None:
    """Warn of each setting in a file that is no field of ``kind`` and not among those known to change nothing."""
    for key in values:
        if key not in kind.model_fields and key not in harmless and not key.startswith("_"):
            warnings.warn(
                f"{file}: unknown setting {short(key)} is ignored{suggest(key, kind.model_fields)}",
                stacklevel=4,
            )


def _network_config(folder: Path, known: str) -> tuple[Path, dict[str, Any]]:
    """A network's config file and what it holds. Raises CheckpointError for another class, or a family not run."""
    file = folder / "config.json"
    values = read_json(file)
    check_config(values, file)
    check_class(values, (known,), file)
    return file, values


def parse_config(kind: type[C], values: Mapping[str, Any], file: Path) -> C:
    """A config from a file of any diffusers version: absent keys get defaults, unknown keys warn."""
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    warn_of_unknown(values, kind, HARMLESS, file)
    fixed: dict[str, Any] = getattr(kind, "fixed", {})
    checked = (*fixed, "down_block_types", "up_block_types") if fixed else ()
    return kind.parse(known | {key: values[key] for key in checked if key in values}, str(file))

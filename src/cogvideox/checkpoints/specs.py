"""The spec of a model from its folder: config files and ``cogvideox.json``, read and checked; no weight is loaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field

from cogvideox.checkpoints.families import check_config
from cogvideox.checkpoints.hub import cached, exists, find_folder, released, shipped_folder
from cogvideox.checkpoints.kinds import OF_FUN, fun_settings, is_noisy, kind_in
from cogvideox.checkpoints.network_files import read_network
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.checkpoints.tensors import Tensors, read_json
from cogvideox.checkpoints.trainers import not_a_model
from cogvideox.config import Config
from cogvideox.diffusion.schedule import ScheduleConfig
from cogvideox.errors import CheckpointError, ConfigError, suggest
from cogvideox.files import short
from cogvideox.presets import PRESETS, get_preset, guess_preset
from cogvideox.spec import GUIDANCE, Kind, ModelSpec
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig
from cogvideox.vae.config import OWN_SETTINGS

RECORD = "cogvideox.json"
"""What the diffusers layout cannot say about a model, in one file beside it."""
OWN_TRANSFORMER = ("use_positional_embeddings", "position_mode", "riflex_frames", "attention", "experts")
RELEASED_TRANSFORMER = tuple(name for name in TransformerConfig.model_fields if name not in OWN_TRANSFORMER)
STEM = "diffusion_pytorch_model"
"""How the weights files of transformer and VAE begin."""
TRANSFORMER_CLASS, VAE_CLASS = "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX"
SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
# written by some version of diffusers or of the converters, and without effect on the numbers
HARMLESS = {"act_fn", "down_block_types", "up_block_types", "latents_mean", "latents_std", "use_quant_conv",
            "use_post_quant_conv", "sample_size", "force_upcast", "add_noise_in_inpaint_model",
            "quantization_config"}  # fmt: skip
C = TypeVar("C", bound=Config)


class ModelRecord(Config):
    """The fields of the file. Each may be absent, since folders of others have no such file."""

    format: Literal[1] = Field(1, description="version of this file")
    preset: str = Field("", description="the row of the preset table this model is")
    kind: Kind | Literal[""] = Field("", description="what the model makes a video from")
    condition_noise: float = Field(
        0.0, ge=0, le=10, description="noise on the pixels of a condition before they are encoded"
    )
    height: int | None = Field(None, gt=0, le=65_536, description="native height in pixels")
    width: int | None = Field(None, gt=0, le=65_536, description="native width in pixels")
    frames: int | None = Field(None, gt=0, le=65_536, description="native number of frames")
    fps: float | None = Field(None, gt=0, le=1000, description="native frames per second")
    guidance: float | None = Field(
        None, ge=0, le=1000, description="guidance when none is asked for, if it is not 6"
    )
    dtype: str | None = Field(None, description="precision to compute in, when it is not the one stored")
    licence: str = Field("", description="under which the weights may be used")
    transformer: dict[str, Any] = Field(
        {}, description="settings that diffusers' transformer/config.json has no name for"
    )
    vae: dict[str, Any] = Field({}, description="settings that diffusers' vae/config.json has no name for")
    provenance: dict[str, Any] = Field({}, description="what made the weights: run, data, step, versions")
    files: dict[str, str] = Field({}, description="SHA-256 of each weights file")

    @classmethod
    def of(cls, spec: ModelSpec, **more: Any) -> ModelRecord:
        """The record of a model of this spec; ``more``: fields that its spec does not hold, or other values."""
        known = PRESETS.get(spec.name)
        native: dict[str, Any] = dict(
            preset=spec.name,
            kind=spec.kind,
            condition_noise=max((each.noise for each in spec.conditions), default=0.0),
            height=spec.height,
            width=spec.width,
            frames=spec.frames,
            fps=spec.fps,
            guidance=None if spec.guidance == GUIDANCE else spec.guidance,
            licence=spec.licence or (known.licence if known else ""),
        )
        return cls.model_construct(**(native | more))

    def write(self, folder: Path) -> None:
        """Write the file into a model folder."""
        values = self.model_dump(mode="json", exclude_none=True)
        (folder / RECORD).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def find_spec(path_or_name: str | Path, kind: Kind | None = None) -> ModelSpec:
    """The spec of a preset by name, a model folder, or a hub id; nothing is downloaded.

    ``kind``: what the model makes a video from, where its files leave that open. Raises CheckpointError when there is
    no such model on this computer nor in the table.
    """
    name = str(path_or_name)
    if not exists(Path(name)):
        if name in PRESETS and shipped_folder(name) is None:
            return get_preset(name)
        spec = released(name)
        if spec is not None and cached(spec.hub or name) is None:
            return spec
    return read_spec(find_folder(path_or_name, download=False), kind)


def read_spec(folder: Path, kind: Kind | None = None) -> ModelSpec:
    """The spec of a model folder. Raises CheckpointError or ConfigError when its files cannot be read.

    ``kind``: what it makes a video from, where its files leave that open.
    """
    if not (folder / "model_index.json").is_file():
        raise not_a_model(folder)
    return spec_of(folder, read_record(folder), kind=kind)


def spec_of(
    folder: Path,
    record: ModelRecord,
    variant: str | None = None,
    text: bool = True,
    kind: Kind | None = None,
) -> ModelSpec:
    """The spec of a model folder whose ``cogvideox.json`` was read; ``text`` false: without its text encoder.

    The folder's own files decide. The table of models only names the network and gives what no file says; ``kind`` says
    what the files leave open.
    """
    transformer = read_transformer_config(folder / "transformer", record)
    vae = read_vae_config(folder / "vae", record)
    schedule = read_schedule_config(component(folder, "scheduler", "scheduler_config.json"))
    if record.kind and kind not in (None, record.kind):
        raise ConfigError(f"{folder}: kind {kind!r}: {RECORD} says {record.kind}; leave the kind out")
    own = (folder / RECORD).is_file()
    kind = record.kind or kind_in(folder, transformer, kind, own=own)
    facts: dict[str, Any] = dict(transformer=transformer, vae=vae, schedule=schedule)
    if kind in OF_FUN and not own:
        facts = fun_settings(kind, is_noisy(folder), transformer, vae, schedule)
    native = dict(height=record.height, width=record.width, frames=record.frames, fps=record.fps)
    native |= dict(guidance=record.guidance, condition_noise=record.condition_noise or None)
    facts |= {name: value for name, value in native.items() if value is not None}
    guess = guess_preset(transformer)
    name = record.preset or (guess if guess in PRESETS and PRESETS[guess].kind == kind else "")
    known = PRESETS.get(name)
    t5 = folder / "text_encoder" / "config.json"
    networks = {"transformer": read_network(component(folder, "transformer"), STEM, variant)}
    if text and t5.is_file() and "quantization_config" in read_json(t5):
        networks["text_encoder"] = read_network(t5.parent, "model")
    return ModelSpec.of_configs(
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


def read_record(folder: Path) -> ModelRecord:
    """The record of a model folder, empty when there is none; raises ConfigError or CheckpointError."""
    file = folder / RECORD
    if not file.is_file():
        return ModelRecord()
    values = read_json(file)
    if values.get("format", 1) != 1:
        raise CheckpointError(f"{file}: format {values['format']!r}, this version reads 1; upgrade cogvideox")
    return ModelRecord.parse(values, str(file))


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

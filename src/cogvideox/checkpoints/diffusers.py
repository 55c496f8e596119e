"""Model folders in the diffusers layout: the public checkpoints, and everything we save.

    model_index.json   transformer/   vae/   text_encoder/   tokenizer/   scheduler/   cogvideox.json

Modules are built on ``meta`` and filled tensor by tensor, so a model needs its own size in memory and no more. Nothing
is unpickled and no class is looked up by name: a folder says only which of our own classes to fill.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from cogvideox.checkpoints.components import NO_COMPONENTS, STEM, Components, NetworkFiles
from cogvideox.checkpoints.families import check_floats
from cogvideox.checkpoints.fill import assign, assign_later, check_finite, check_names, cpu_dtypes, to_dtype
from cogvideox.checkpoints.folders import checkpoint_folder
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.kinds import BY_PIPELINE
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.checkpoints.record import ModelRecord, read_record
from cogvideox.checkpoints.shapes import meta_names
from cogvideox.checkpoints.shipped import is_shipped
from cogvideox.checkpoints.specs import (
    RELEASED_TRANSFORMER,
    SCHEDULERS,
    TRANSFORMER_CLASS,
    VAE_CLASS,
    check_class,
    component,
    own_settings,
    read_schedule_config,
    read_transformer_config,
    read_vae_config,
    spec_of,
)
from cogvideox.checkpoints.tensors import dtypes_of, read_json, shapes_of, to_bytes, write_folder
from cogvideox.checkpoints.text import load_text, write_text
from cogvideox.device import best_device, device_for
from cogvideox.diffusion.schedule import Schedule, ScheduleConfig
from cogvideox.errors import CheckpointError
from cogvideox.files import short
from cogvideox.files.digest import sha256_of
from cogvideox.presets import PRESETS
from cogvideox.spec import Kind
from cogvideox.transformer import Transformer, TransformerConfig
from cogvideox.vae import VAE, VAEConfig

if TYPE_CHECKING:
    from cogvideox.model import CogVideoX

LIBRARY = "0.30.0"  # the first diffusers release that knows CogVideoX
PIPELINES: dict[str, str] = {"i2v": "CogVideoXImageToVideoPipeline", "control": "CogVideoXFunControlPipeline"}
"""The class of diffusers that runs each kind of model; others are named as the text-to-video ones, as published."""
KNOWN_PIPELINES = ("CogVideoXPipeline", "CogVideoXVideoToVideoPipeline", *BY_PIPELINE)
CLASSES = {
    "scheduler": ("diffusers", SCHEDULERS[0]),
    "text_encoder": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "T5Tokenizer"),
    "transformer": ("diffusers", TRANSFORMER_CLASS),
    "vae": ("diffusers", VAE_CLASS),
}
OTHER_CLASSES = {"scheduler": SCHEDULERS, "tokenizer": ("T5TokenizerFast",)}
ShardSize = int | str
N = TypeVar("N", bound=nn.Module)


def load_model(
    path_or_id: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    *,
    variant: str | None = None,
    revision: str | None = None,
    text: bool = True,
    check: bool = False,
    compute_device: str | torch.device | None = None,
    digests: bool = True,
    kind: Kind | None = None,
    read_weights: bool = True,
    text_device: str | torch.device | None = None,
    text_encoder: str | Path | None = None,
    transformer: str | Path | None = None,
    vae: str | Path | None = None,
) -> CogVideoX:
    """A whole model from a folder, a preset name or a hub id.

    ``dtype`` casts the weights (None: what ``cogvideox.json`` asks for, else what is stored, except that a CPU gets
    float32 for float16), ``variant`` picks files such as ``*.fp16.safetensors``, ``text`` false leaves the text encoder
    out, ``check`` reads every tensor and refuses NaN. ``device`` None: the GPU; the CPU without one or, with a warning,
    when the GPU's free memory is too small. ``compute_device``: where it will run, when that is not ``device``
    (offloading). ``digests`` false leaves the SHA-256 of the weights out of the records of its videos, and the weights
    are read once instead of twice. ``kind``: what the model makes a video from (``spec.ABOUT_KINDS``), where its files
    leave that open. ``read_weights`` false leaves all weights in their files: ``memory.offload`` reads them when they
    are needed. ``text_device``: where a text encoder that stays in its files will run. ``transformer``, ``vae`` and
    ``text_encoder``: networks in place of the folder's own, each a folder, a hub id or one safetensors file, the text
    encoder also a .gguf file of T5 in 4 or 8 bits. Raises CheckpointError for files that are missing, cut, mis-shaped
    or unsafe and for networks that do not fit each other, ConfigError for settings that make no sense.
    """
    folder = find_folder(path_or_id, revision)
    components = Components.find(transformer, vae, text_encoder)
    index = read_index(folder)
    record = read_record(folder)
    wanted = to_dtype(dtype or record.dtype)
    networks = components.files(folder)
    packed = components.packed_text if text else None
    if not text or packed is not None or not (_has_text(index) or components.text_encoder):
        del networks["text_encoder"]
    types: dict[str, torch.dtype | None] = dict.fromkeys(networks, wanted)
    if not read_weights:
        device, compute_device = "meta", compute_device or device or best_device()
    if device is None:
        device = device_for(sum(each.nbytes(variant) for each in networks.values()))
    if torch.device(compute_device or device).type == "cpu":
        types = cpu_dtypes(folder, networks, wanted, asked=dtype is not None, variant=variant)
    elif "text_encoder" in networks and text_device is not None and torch.device(text_device).type == "cpu":
        apart_files = {"text_encoder": networks["text_encoder"]}
        types |= cpu_dtypes(folder, apart_files, wanted, asked=False, variant=variant)
    if packed is not None:
        where = text_device or compute_device or device
        types["text_encoder"] = _packed_text_dtype(networks["transformer"], types, where)
    apart = None if text_device is None else "meta"
    model = _assemble(folder, record, types, device, variant, check, kind, apart, components)
    if digests:
        model.weights = {
            name: digest for each in networks.values() for name, digest in each.digests().items()
        }
    return model


def _packed_text_dtype(
    transformer: NetworkFiles, types: Mapping[str, torch.dtype | None], device: str | torch.device
) -> torch.dtype:
    """The precision that a packed text encoder is computed in: the transformer's, but float32 for float16 on a CPU."""
    stored = next(iter(dtypes_of(transformer.tensors()).values()))
    wanted = types["transformer"] or stored
    slow = wanted == torch.float16 and torch.device(device).type == "cpu"
    return torch.float32 if slow else wanted


def load_stored(folder: Path, record: ModelRecord, text: bool = True, check: bool = False) -> CogVideoX:
    """A whole model with every tensor exactly as it is stored, for writing it again; ``text`` false: without its text
    encoder; ``check``: NaN is refused while it is read."""
    text = text and (folder / "text_encoder").is_dir() and _has_text(read_index(folder))
    names = ["transformer", "vae", *(["text_encoder"] if text else [])]
    return _assemble(folder, record, dict.fromkeys(names), check=check)


def _has_text(index: Mapping[str, Any]) -> bool:
    """Whether the model has a text encoder: yes, unless ``model_index.json`` says null."""
    return index.get("text_encoder", [True])[0] is not None


def _assemble(
    folder: Path,
    record: ModelRecord,
    types: Mapping[str, torch.dtype | None],
    device: str | torch.device = "cpu",
    variant: str | None = None,
    check: bool = False,
    kind: Kind | None = None,
    text_device: str | None = None,
    components: Components = NO_COMPONENTS,
) -> CogVideoX:
    from cogvideox.model import CogVideoX  # the networks can be read without the whole

    spec = spec_of(folder, record, variant, "text_encoder" in types, kind, components)
    files = components.files(folder)
    rest = device, variant, check
    text: Any = None
    if "text_encoder" in types:
        dtype, where = types["text_encoder"], text_device or device
        other, gguf = components.text_encoder, components.packed_text
        text = load_text(
            folder, dtype, where, max_tokens=spec.text_tokens, check=check, gguf=gguf, files=other
        )
    return CogVideoX(
        transformer=_load(Transformer, spec.transformer, files["transformer"], types["transformer"], *rest),
        vae=_load(VAE, spec.vae, files["vae"], types["vae"], *rest),
        text=text,
        schedule=Schedule(spec.schedule),
        spec=spec,
        shipped=is_shipped(folder) and components.transformer is None,
    )


def load_transformer(
    path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    variant: str | None = None,
    check: bool = False,
    dense: bool = False,
) -> Transformer:
    """The transformer of a model folder, or of its ``transformer/`` folder alone.

    ``dense``: quantised weights become plain numbers, which can be trained.
    """
    folder = component(path, "transformer")
    files = NetworkFiles("transformer", folder)
    return _load(Transformer, read_transformer_config(folder), files, dtype, device, variant, check, dense)


def load_vae(
    path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    variant: str | None = None,
    check: bool = False,
) -> VAE:
    """The autoencoder of a model folder, or of its ``vae/`` folder alone."""
    folder = component(path, "vae")
    return _load(VAE, read_vae_config(folder), NetworkFiles("vae", folder), dtype, device, variant, check)


def load_schedule(path: str | Path) -> Schedule:
    """The noise schedule of a model folder, or of its ``scheduler/`` folder alone; see ``read_schedule_config``."""
    return Schedule(read_schedule_config(component(path, "scheduler", "scheduler_config.json")))


def save_model(
    model: CogVideoX,
    path: str | Path,
    shard_size: ShardSize = "5GB",
    *,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> Path:
    """Write a model folder that diffusers loads too; it appears whole or not at all. Returns it.

    Weights are stored as they are. ``dtype`` names the precision to compute in where that is another; ``provenance``
    says what made them. Raises CheckpointError for NaN, Inf or weights that do not belong to the config (an adapter
    that is still attached: ``merge_lora`` or ``save_lora`` first), OutputError when the path is taken or the disk full.
    """
    if model.in_files:
        raise CheckpointError(
            f"{path}: not written: the weights are still in their files; load with read_weights=True"
        )
    with checkpoint_folder(path, overwrite) as folder:
        write_model(folder, model, shard_size, provenance=provenance, dtype=dtype)
    return Path(path)


def write_model(
    folder: Path,
    model: CogVideoX,
    shard_size: ShardSize,
    *,
    provenance: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> None:
    """Fill an empty folder with a model, as ``save_model`` says."""
    write_transformer(folder, model.transformer.config, model.transformer.state_dict(), shard_size)
    write_vae(folder, model.vae.config, model.vae.state_dict(), shard_size)
    write_schedule(folder, model.schedule.config)
    if model.text is not None:
        write_text(folder, model.text, shard_size)
    write_index(folder, model.spec.kind)
    configs = model.transformer.config, model.vae.config
    own = own_settings(*configs) | {"dtype": dtype}
    more = {"provenance": dict(provenance or {}), "files": digests_in(folder)}
    ModelRecord.of(model.spec, **own, **more).write(folder)


def write_transformer(
    folder: Path, config: TransformerConfig, tensors: Mapping[str, Tensor], shard_size: ShardSize
) -> None:
    """``transformer/``: config and weights, checked against each other first."""
    values = config.model_dump(mode="json")
    settings = {key: values[key] for key in RELEASED_TRANSFORMER}
    _write_network(folder / "transformer", config, settings, tensors, shard_size)


def write_vae(folder: Path, config: VAEConfig, tensors: Mapping[str, Tensor], shard_size: ShardSize) -> None:
    """``vae/``: config and weights, checked against each other first."""
    _write_network(folder / "vae", config, config.released(), tensors, shard_size)


def write_schedule(folder: Path, config: ScheduleConfig) -> None:
    """Write the noise schedule as ``scheduler/scheduler_config.json`` of a model folder."""
    values = {**_class("scheduler"), **config.model_dump(mode="json")}
    _write_json(folder / "scheduler" / "scheduler_config.json", values)


def write_index(folder: Path, kind: Kind) -> None:
    """``model_index.json``: the pipeline, and null for the components that this folder does not hold."""
    held = {name: list(both) if (folder / name).is_dir() else [None, None] for name, both in CLASSES.items()}
    values = {"_class_name": PIPELINES.get(kind, KNOWN_PIPELINES[0]), "_diffusers_version": LIBRARY, **held}
    _write_json(folder / "model_index.json", values)


def digests_in(folder: Path) -> dict[str, str]:
    """SHA-256 of each weights file below a folder, by its path there."""
    files = sorted(folder.rglob("*.safetensors"))
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in files}


def preset_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The preset whose transformer has exactly these tensors, "" when there is none."""
    return next((name for name, spec in PRESETS.items() if meta_names(spec.transformer) == shapes), "")


def _load(
    network: Callable[[Any], N],
    config: TransformerConfig | VAEConfig,
    files: NetworkFiles,
    dtype: str | torch.dtype | None,
    device: str | torch.device,
    variant: str | None,
    check: bool,
    dense: bool = False,
) -> N:
    """A network built on ``meta`` and filled from its weights files; for device meta they stay there."""
    tensors, where = files.tensors(variant), str(files.where)
    check_floats(tensors, where)
    with torch.device("meta"):
        module = network(config)
    if check:
        check_finite(tensors, where)
    wanted = to_dtype(dtype)
    if torch.device(device).type == "meta":
        return assign_later(module, tensors, where, lambda name: wanted).eval()
    if dense and isinstance(tensors, QuantisedTensors):
        tensors = tensors.as_numbers(wanted)
    return assign(module, tensors, where, wanted, device).eval()


def read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json``, its classes checked against the few we have; raises CheckpointError."""
    file = folder / "model_index.json"
    if not file.is_file():
        from cogvideox.checkpoints.trainers import not_a_model

        raise not_a_model(folder)
    index = read_json(file)
    name = index.get("_class_name")
    check_class(index, KNOWN_PIPELINES, file)
    for part, given in index.items():
        if part not in CLASSES and not part.startswith("_") and given not in ([None, None], None):
            warnings.warn(
                f"{file}: {short(part)}: {short(given)} is not a component of CogVideoX; ignored",
                stacklevel=3,
            )
    for part, (_, name) in CLASSES.items():
        given = index.get(part, [None, None])
        right = isinstance(given, list) and len(given) == 2 and isinstance(given[1], str | None)
        if not right or given[1] not in {name, None, *OTHER_CLASSES.get(part, ())}:
            raise CheckpointError(f"{file}: {part} is {short(given)}; only {name} can be loaded")
    return index


def _write_network(
    folder: Path,
    config: TransformerConfig | VAEConfig,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shard_size: ShardSize,
) -> None:
    """The settings and weights of one network, in the order of its state dict."""
    expected = meta_names(config)
    check_names(expected, shapes_of(tensors), folder.name)
    _write_json(folder / "config.json", {**_class(folder.name), **settings})
    write_folder(folder, STEM, {name: tensors[name] for name in expected}, to_bytes(shard_size))


def _class(component: str) -> dict[str, str]:
    return {"_class_name": CLASSES[component][1], "_diffusers_version": LIBRARY}


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

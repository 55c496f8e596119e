"""What is this file or folder? Its kind, preset, settings, sizes, precision, and what is wrong with it."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from cogvideox.checkpoints.adapter import (
    LORA_FILE,
    PEFT_FILE,
    Adapter,
    AlphaUnknownError,
    OddSettingsError,
)
from cogvideox.checkpoints.adapter_names import is_adapter, other_kind
from cogvideox.checkpoints.adapter_reading import read_adapter
from cogvideox.checkpoints.adapter_settings import KEY, recommended_beside
from cogvideox.checkpoints.components import Components
from cogvideox.checkpoints.controlnet import read_controlnet_config
from cogvideox.checkpoints.diffusers import load_schedule, preset_of_shapes, read_index
from cogvideox.checkpoints.families import (
    ALONE,
    CONTROLNET,
    FAMILY_NAMES,
    FUN_CONTROL,
    FUN_INP,
    VOID,
    Family,
    check_floats,
    family_of_config,
    family_of_tensors,
)
from cogvideox.checkpoints.fill import check_finite, check_names
from cogvideox.checkpoints.folders import read_training
from cogvideox.checkpoints.gguf_file import is_gguf, read_container, read_gguf
from cogvideox.checkpoints.gguf_text import ARCHITECTURES, read_gguf_text
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.network_files import read_network, read_network_file
from cogvideox.checkpoints.quantised import QuantisedTensors
from cogvideox.checkpoints.record import RECORD, read_record
from cogvideox.checkpoints.report import CheckpointReport, TensorSet
from cogvideox.checkpoints.sat import find_components, is_sat, read_sat
from cogvideox.checkpoints.shapes import is_vae, meta_names, transformer_settings
from cogvideox.checkpoints.specs import (
    STEM,
    TRANSFORMER_CLASS,
    VAE_CLASS,
    read_spec,
    read_transformer_config,
    read_vae_config,
)
from cogvideox.checkpoints.tensors import (
    Tensors,
    dtypes_of,
    link_root,
    read_json,
    shapes_of,
)
from cogvideox.checkpoints.text import TIED, read_t5_config, text_names
from cogvideox.checkpoints.trainers import PATCH, network_in, recognise
from cogvideox.errors import CheckpointError, CogVideoXError, few
from cogvideox.files import inside, short
from cogvideox.files.digest import sha256_of
from cogvideox.presets import PRESETS, guess_preset
from cogvideox.spec import ModelSpec, kind_of
from cogvideox.transformer import TransformerConfig


def inspect(
    path: str | Path,
    check: bool = False,
    *,
    transformer: str | Path | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
) -> CheckpointReport:
    """Look at a model folder, a component of one, a SAT checkpoint or an adapter without making a model of it.

    ``check`` reads every tensor: NaN and Inf, and the digests in ``cogvideox.json``. ``transformer``, ``vae`` and
    ``text_encoder``: networks in place of a model folder's own, as ``load`` takes them. What is wrong goes into
    ``problems``; only a path that leads nowhere raises (CheckpointError).
    """
    folder, asked = find_folder(path), (transformer, vae, text_encoder)
    report = CheckpointReport(str(folder))
    if any(each is not None for each in asked):
        _try(report, lambda: _look_at_together(folder, Components.find(*asked), report, check))
    else:
        _try(report, lambda: _look(folder, report, check))
    return report


def _look(path: Path, report: CheckpointReport, check: bool) -> None:
    """Find out what stands at a path, and write it into the report."""
    if path.is_file() and is_gguf(path):
        return _look_at_gguf(path, report, check)
    of_model = any((path / name).is_file() for name in ("model_index.json", "config.json", RECORD))
    if path.is_dir() and not of_model and _look_at_trained(path, report, check):
        return
    if is_sat(path):
        _look_at_sat(path, report, check)
    elif path.is_file():
        _look_at_file(path, report, check)
    elif (path / "model_index.json").is_file():
        _look_at_model(path, report, check)
    elif (path / "config.json").is_file():
        _look_at_component(path, report, check)
    elif components := find_components(path):
        for component in components:
            _look_at_sat(component, report, check)
        report.kind = "SAT model"
        report.todo = f"cogvideox convert {path} OUT --to diffusers makes a model folder of it"
    elif files := sorted(path.glob("*.safetensors")):
        for file in files:
            _look_at_file(file, report, check)
    else:
        held = ", ".join(sorted(child.name for child in path.iterdir())[:8])
        report.problems.append(f"{path}: nothing that is a checkpoint; the folder holds {held or 'nothing'}")


def _look_at_trained(path: Path, report: CheckpointReport, check: bool, weigh: bool = True) -> bool:
    """Look at what a trainer left; false when it is of SAT, an adapter, or not known."""
    output = recognise(path)
    if output is None or (output.weights is None and output.model is None and path.is_file()):
        return False
    if output.weights is None:
        report.kind = output.kind
        report.problems.append(f"{path}: {output.kind}, not a model: {output.do}")
        return True
    with warnings.catch_warnings(record=True) as beside:
        warnings.simplefilter("always")
        tensors = network_in(path)
    if tensors is None:
        if not path.is_dir() or is_sat(path):
            return False
        report.kind = output.kind
        report.problems.append(
            f"{path}: {output.kind}; it holds no transformer: go on with what wrote it, or name another folder"
        )
        return True
    report.kind = f"{output.kind}, with the network of CogVideoX"
    report.preset = preset_of_shapes(shapes_of(tensors))
    if weigh:
        _weigh(path.name, tensors, report, check)
    report.checked += [" ".join(str(note.message).split()) for note in beside]
    report.todo = output.do
    if path.is_dir():
        report.problems.append(f"{path}: {output.kind}, not a model: {output.do}")
    return True


def _look_at_model(folder: Path, report: CheckpointReport, check: bool) -> None:
    report.kind = "model folder"
    index = read_index(folder)
    record = read_record(folder)
    report.config["record"] = record.model_dump(mode="json", exclude_none=True)
    for name in ("transformer", "vae", "text_encoder"):
        if (folder / name).is_dir():
            _try(report, partial(_look_at_component, folder / name, report, check))
        elif index.get(name, [None, None])[1] is not None:
            report.problems.append(f"{folder}: {name}/ is missing, though model_index.json names it")
    _try(report, lambda: report.config.update(schedule=load_schedule(folder).config.model_dump(mode="json")))
    report.kind = "model folder" if report.kind not in FAMILY_NAMES else report.kind
    report.preset = record.preset or report.preset
    _try(report, lambda: _say_spec(read_spec(folder), report))
    _try(report, lambda: _say_distilled(folder, report))
    if check:
        _check_digests(folder, record.files, report)


def _say_spec(spec: ModelSpec, report: CheckpointReport) -> None:
    """What a model makes a video from, and what it is to be sampled with."""
    report.task = spec.kind
    few_steps = {"steps": len(spec.times), "times": list(spec.times), "sampler": spec.sampler}
    report.config["sampling"] = (few_steps if spec.times else {}) | {"guidance": spec.guidance}


def _say_distilled(folder: Path, report: CheckpointReport) -> None:
    """Teacher and method of a model or an adapter, by the ``training.json`` beside it; nothing for others."""
    config = read_training(folder).get("config")
    task = config.get("task") if isinstance(config, dict) else None
    if isinstance(task, dict) and task.get("kind") == "distil":
        method = task.get("method")
        kind = method.get("kind") if isinstance(method, dict) else None
        teacher, name = (short(each or "unknown").strip("'") for each in (task.get("start"), kind))
        report.config["distilled"] = {"teacher": teacher, "method": name}


def _look_at_together(folder: Path, components: Components, report: CheckpointReport, check: bool) -> None:
    """A model folder with other networks in place of its own: whether they fit, and what they make a video from."""
    report.kind = "model folder, with " + " and ".join(
        f"the {name.replace('_', ' ')} of {each.where}" for name, each in components.given.items()
    )
    for name, files in components.files(folder).items():
        if files.where.exists() and not (name == "text_encoder" and components.packed_text is not None):
            tensors = files.tensors()
            tensors.entries.pop(TIED, None)
            _weigh(name, tensors, report, check)
    spec = read_spec(folder, components=components)
    _say_spec(spec, report)
    report.preset = spec.name
    report.config.update(transformer=dict(spec.transformer_settings), vae=dict(spec.vae_settings))
    report.checked.append("names, shapes and whether they fit")


def _look_at_component(folder: Path, report: CheckpointReport, check: bool) -> None:
    values = read_json(folder / "config.json")
    if (family := family_of_config(values)) is not None:
        if family is CONTROLNET:
            _weigh(folder.name, read_network(folder, STEM), report, check)
            return _look_at_controlnet(folder, report)
        report.kind = family.name
        raise family.refusal(folder)
    name = str(values.get("_class_name") or (values.get("architectures") or ["unknown"])[0])
    if name == "T5EncoderModel":
        report.kind, text = "text encoder", read_t5_config(folder / "config.json")
        report.config["text_encoder"] = text.model_dump(mode="json")
        tensors = read_network(folder, "model")
        tensors.entries.pop(TIED, None)
        _weigh(folder.name, tensors, report, check, text_names(text))
    elif name in (VAE_CLASS, TRANSFORMER_CLASS):
        report.kind = "vae" if name == VAE_CLASS else "transformer"
        config = read_vae_config(folder) if name == VAE_CLASS else read_transformer_config(folder)
        report.config[report.kind] = config.model_dump(mode="json")
        if isinstance(config, TransformerConfig):
            report.preset, report.task = guess_preset(config), kind_of(config)
        _weigh(folder.name, read_network(folder, STEM), report, check, meta_names(config))
    else:
        report.problems.append(f"{folder / 'config.json'}: {name} is not a part of this kind of model")


def _look_at_sat(path: Path, report: CheckpointReport, check: bool) -> None:
    if path.is_file() and _look_at_trained(path, report, check):
        return
    sat = read_sat(path)
    report.kind = f"SAT {sat.component}"
    report.todo = f"cogvideox convert {path} OUT --to diffusers makes a model folder of it"
    _weigh(f"sat {sat.component}", sat.tensors, report, check, files=[sat.path.name])
    if sat.component == "lora":
        _look_at_adapter(sat.path, report)
    else:
        sat.ours(learned_positions=sat.has_positions)
        report.checked.append("names")


def _look_at_gguf(file: Path, report: CheckpointReport, check: bool) -> None:
    architecture, held = read_container(file, lambda name: name)
    if architecture in ARCHITECTURES:
        report.kind, report.todo = "text encoder (T5) in a GGUF file", f"generate --text-encoder {file}"
        _weigh(file.name, read_gguf_text(file), report, check)
        return
    tensors = read_gguf(file)
    report.kind, report.preset = "a GGUF file", preset_of_shapes(shapes_of(tensors))
    _weigh(file.name, tensors, report, check)
    if PATCH not in tensors:
        report.problems.append(
            f"{file}: holds no network of CogVideoX: architecture {short(architecture)}, tensors {few(list(held))}"
        )
        return
    report.kind = "a transformer of CogVideoX in a GGUF file"
    if (family := family_of_tensors(tensors)) is not None:
        report.kind = family.name
    report.todo = f"cogvideox generate --model BASE --transformer {file}; BASE: the model it was made from"


def _look_at_file(file: Path, report: CheckpointReport, check: bool) -> None:
    tensors = read_network_file(file)
    family = family_of_tensors(tensors)
    _weigh(file.name, tensors, report, check, floats=family is None)
    if family is CONTROLNET:
        return _look_at_controlnet(file, report)
    if family in ALONE:
        return _look_at_transformer_alone(file, family, tensors, report)
    if family is not None:
        report.kind, report.todo = family.name, family.do
        if family.is_part:
            return
        raise family.refusal(file)
    if is_adapter(tensors):
        kinds = Counter(kind for name in tensors if (kind := other_kind(name)))
        report.kind = kinds.most_common(1)[0][0] if kinds else "LoRA"
        _look_at_adapter(file, report)
    elif is_vae(tensors):
        report.kind = "a VAE alone"
        report.todo = f"cogvideox generate --model BASE --vae {file}; BASE: the model it is for"
    elif not _look_at_trained(file, report, check=False, weigh=False):
        report.kind = "safetensors file"
        report.todo = "nothing here is known: it holds no network of CogVideoX and no adapter"


def _look_at_controlnet(path: Path, report: CheckpointReport) -> None:
    """A ControlNet: its settings, names and shapes, and the released models it fits."""
    report.kind = CONTROLNET.name
    config = read_controlnet_config(path)
    report.checked.append("names and shapes")
    report.config["controlnet"] = config.model_dump(mode="json")
    fits = [name for name, spec in PRESETS.items() if spec.hub and not config.why_not(spec.transformer)]
    beside = f" --model {fits[0]}" if fits else ""
    base = " or ".join(fits) or f"a transformer of width {config.added_width}"
    report.task = f"follows a control video, beside {base}"
    report.todo = f"cogvideox generate{beside} --control-net {path}:0.8 --control VIDEO --prompt TEXT"


def _look_at_transformer_alone(
    file: Path, family: Family, tensors: Tensors, report: CheckpointReport
) -> None:
    """A single file that is run beside the rest of another model. Raises CheckpointError for a damaged one."""
    report.kind = family.name
    settings = transformer_settings(shapes_of(tensors))
    if not settings:
        raise CheckpointError(
            f"{file}: {family.name}, damaged: parts of the transformer are missing; copy it again"
        )
    rotary = {"use_rotary_positional_embeddings": settings["use_learned_positional_embeddings"]}
    config = TransformerConfig.parse(settings | rotary, str(file))
    check_names(meta_names(config), shapes_of(tensors), str(file))
    report.config["transformer"] = settings
    kinds = {FUN_INP.name: "inpaint", FUN_CONTROL.name: "control", VOID.name: "removal"}
    report.task = kinds.get(family.name, "control or i2v-every-frame")
    asked = " --as control (or i2v-every-frame)" if family.name not in kinds else ""
    report.checked.append("names and shapes")
    report.todo = (
        f"cogvideox generate --model BASE --transformer {file}{asked}; BASE: the model it was made from"
    )


def _look_at_adapter(file: Path, report: CheckpointReport) -> None:
    """The facts about an adapter. Raises CheckpointError for what is not run at all."""
    try:
        adapter, alpha_known = read_adapter(file), True
    except AlphaUnknownError as error:  # a fact about the file, not a fault of it
        adapter, alpha_known = read_adapter(file, alpha=1.0), False
        if isinstance(error, OddSettingsError):
            report.problems.append(str(error))
    if adapter.does_nothing():
        report.problems.append(f"{file}: this LoRA changes nothing; was it trained?")
    report.config["lora"] = _adapter_facts(adapter, alpha_known)
    _try(report, lambda: report.config.update(_recommended(file)))
    if file.name in (LORA_FILE, PEFT_FILE):
        _try(report, lambda: _say_distilled(file.parent, report))


def _recommended(file: Path) -> dict[str, Any]:
    values = recommended_beside(file)
    return {} if values is None else {KEY: values}


def _adapter_facts(adapter: Adapter, alpha_known: bool) -> dict[str, Any]:
    """Layers (those of all blocks under one name), rank, alpha, origin, what is applied and what is not."""
    leaves = (re.sub(r"^transformer_blocks\.[^.]*\.", "", layer) for layer in adapter.pairs)
    return {
        "layers": len(adapter.pairs),
        "ranks": adapter.ranks,
        "alphas": adapter.alphas if alpha_known else [],
        "norm_of_changes": adapter.delta_norm() if alpha_known else None,
        "origin": adapter.origin,
        "alpha_from": adapter.alpha_from if alpha_known else "",
        "variants": adapter.variants,
        "applied": dict(Counter(leaves)),
        "passed_over": list(adapter.passed_over),
    }


def _weigh(
    name: str,
    tensors: Mapping[str, Tensor],
    report: CheckpointReport,
    check: bool,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    files: list[str] | None = None,
    floats: bool = True,
) -> None:
    """Add a set of tensors to the report, and check what is asked for."""
    if isinstance(tensors, Tensors):
        files = sorted({entry.file.name for entry in tensors.entries.values()})
    dtypes = dtypes_of(tensors)
    counts = {key: math.prod(shape) for key, shape in shapes_of(tensors).items()}
    weight = sum(count * dtypes[key].itemsize for key, count in counts.items())
    types = Counter(str(dtype).removeprefix("torch.") for dtype in dtypes.values())
    if isinstance(tensors, QuantisedTensors):
        weight, types = tensors.nbytes, Counter(tensors.formats)
    report.tensor_sets.append(
        TensorSet(name, len(counts), sum(counts.values()), weight, dict(types.most_common()), files or [])
    )
    if floats and isinstance(tensors, Tensors):
        _try(report, lambda: check_floats(tensors, name))
    if expected is not None and isinstance(tensors, Tensors):
        _try(report, lambda: check_names(expected, shapes_of(tensors), name))
        report.checked.append(f"{name} names and shapes")
    if check:
        _try(report, lambda: check_finite(tensors, name))
        report.checked.append(f"{name} finite")


def _check_digests(folder: Path, files: Mapping[str, str], report: CheckpointReport) -> None:
    root = link_root(folder)
    for name, digest in files.items():
        file = folder / name
        if not inside(file, root) or not file.is_file():
            report.problems.append(f"{file}: named in cogvideox.json, but not there")
        elif sha256_of(file) != digest:
            report.problems.append(f"{file}: is not the file that was saved (SHA-256 differs); copy it again")
    if files:
        report.checked.append(f"{len(files)} digests")


def _try(report: CheckpointReport, look: Callable[[], None]) -> None:
    try:
        look()
    except CogVideoXError as error:
        report.problems.append(str(error))

"""What trainers leave: weights without a config, among optimiser states, averages and frozen networks.

Read: folders of accelerate and of diffusers' and the official ``finetune/`` trainers (``model.safetensors``, shards,
``pytorch_model.bin``), DeepSpeed's ``mp_rank_00_model_states.pt``, single files of other programs, and this package's
own runs and states. The transformer is found in them by its patch embedding; the rest is named and passed over.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.checkpoints.families import check_floats, family_of_config, family_of_tensors
from cogvideox.checkpoints.gguf_file import is_gguf
from cogvideox.checkpoints.hub import find_folder
from cogvideox.checkpoints.network_files import read_network_file
from cogvideox.checkpoints.pickled import is_plain, load_pickled, unwrapped
from cogvideox.checkpoints.tensors import (
    Tensors,
    link_root,
    read_file,
    read_folder,
    read_json,
    read_weight_map,
    shapes_of,
)
from cogvideox.errors import CheckpointError, few
from cogvideox.files import check_link, read_yaml, short
from cogvideox.transformer import TransformerConfig

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
DEEPSPEED = "mp_rank_00_model_states.pt"
PATCH = "patch_embed.proj.weight"
STATE_FILES = (
    "optimizer.bin",
    "scheduler.bin",
    "random_states_0.pkl",
    "trainer_state.json",
    "zero_to_fp32.py",
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
STATE_NAME = re.compile(r"state-\d{8}")
COMPONENTS = ("patch_embed", "transformer_blocks", "time_embedding", "ofs_embedding", "norm_final", "norm_out",
              "proj_out")  # fmt: skip
"""The modules at the top of a transformer."""


@dataclass(frozen=True)
class TrainerOutput:
    """Something that is no model folder: what it is, what to do with it, where its weights or its model are, if any."""

    kind: str
    do: str
    weights: Callable[[], Mapping[str, Tensor]] | None = None
    model: Path | None = None


def recognise(path: Path) -> TrainerOutput | None:
    """What a trainer or another program left at ``path``; None for what is not known. Reads names of files only."""
    if path.is_file():
        return _of_file(path)
    if (path / "manifest.json").is_file() and (path / "tree.json").is_file():
        do = "it holds the network alone: " + _convert(path)
        return TrainerOutput("a training state of this package", do, lambda: _own_state(path))
    if (path / "run.yaml").is_file():
        return _own_run(path)
    inner = _with_weights(path)
    if inner is not None:
        kind = "a training state (accelerate or DeepSpeed)" if _is_state(path) else "weights without a config"
        return TrainerOutput(kind, "it holds a network alone: " + _convert(path), lambda: _weights(*inner))
    steps = sorted(
        (child for child in path.glob("checkpoint-*") if child.is_dir()),
        key=lambda child: [int(number) for number in re.findall(r"\d{1,9}", child.name)],
    )
    if steps:
        return TrainerOutput("the output of a trainer", f"name one of its checkpoints, such as {steps[-1]}")
    return None


def find_source(src: str | Path) -> Path:
    """The folder or file that is converted, see ``find_folder``; of a run of ours the model it made."""
    source = find_folder(src)
    run = recognise(source)
    return run.model if run is not None and run.model is not None else source


def not_a_model(path: Path) -> CheckpointError:
    """The error for a path that is wanted as a model folder: what it is instead, and what to do."""
    if path.is_file() and path.suffix == ".safetensors":
        try:
            tensors = read_network_file(path)
        except CheckpointError as error:
            return error
        if (family := family_of_tensors(tensors)) is not None:
            return family.refusal(path)
    if (output := recognise(path)) is not None:
        return CheckpointError(f"{path}: not a model folder but {output.kind}; {output.do}")
    if path.is_file():
        return CheckpointError(f"{path}: is a file; pass the model's folder, the one with model_index.json")
    if (path / "config.json").is_file():
        return _network_alone(path, read_json(path / "config.json"))
    held = few(sorted(child.name for child in path.iterdir())) or "nothing"
    do = (
        f"; its transformer runs with --transformer {path}, beside --model with the model it was made from"
        if (path / "transformer" / "config.json").is_file()
        else ""
    )
    return CheckpointError(f"{path}: not a model folder: model_index.json is missing; it holds {held}{do}")


def _network_alone(path: Path, settings: Mapping[str, Any]) -> CheckpointError:
    """The error for the folder of one network that is wanted as a model folder."""
    if (family := family_of_config(settings)) is not None:
        return family.refusal(path)
    what = short(settings.get("_class_name", "a network of no name"))
    flags = {"'CogVideoXTransformer3DModel'": "transformer", "'AutoencoderKLCogVideoX'": "vae"}
    beside = (
        f"--{flags[what]} {path}, beside --model with the model it was made from" if what in flags else ""
    )
    do = f"it runs with {beside}" if beside else "pass the folder around it, the one with model_index.json"
    return CheckpointError(f"{path}: not a model folder but {what} alone; {do}")


def network_in(path: Path) -> dict[str, Tensor] | None:
    """The transformer that a trainer left at ``path``, under our names; None where there is none of a trainer.

    Raises CheckpointError for what is recognised and cannot be read, and for known families that are not run."""
    output = recognise(path)
    if output is None or output.model is not None:
        return None
    if output.weights is None:
        raise CheckpointError(f"{path}: {output.kind}; {output.do}")
    weights = output.weights()
    if isinstance(weights, Tensors) and (family := family_of_tensors(weights)) is not None:
        raise family.refusal(path)
    if not any(name.endswith(PATCH) and "mixins." not in name for name in weights):
        return None  # of SAT, an adapter, or nothing we know
    return _network(weights, path)


def config_of_run(path: Path) -> TransformerConfig | None:
    """The transformer's settings in the ``run.yaml`` of one of our runs or around one of its states; None elsewhere."""
    files = [folder / "run.yaml" for folder in (path, path.parent) if (folder / "run.yaml").is_file()]
    if not files or path.is_file():
        return None
    settings = read_yaml(files[0])
    for key in ("task", "transformer"):
        settings = settings.get(key) if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        return None
    return TransformerConfig.parse(settings, f"{files[0]}: task.transformer")


def _network(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The transformer among the weights of a trainer, under our names; warns of what is passed over.

    Raises CheckpointError when there are several, when they lie in parts, or for weights that are not plain floats.
    """
    prefixes = [name.removesuffix(PATCH) for name in weights if name.endswith(PATCH)]
    plain = [prefix for prefix in prefixes if "ema" not in prefix.lower()] or prefixes
    if len(plain) != 1:
        raise CheckpointError(
            f"{where}: several networks: {few(plain)} among its tensors ({few(list(weights))}); name another file"
        )
    prefix = plain[0]
    chosen = {
        name.removeprefix(prefix): name
        for name in weights
        if name.startswith(prefix) and name.removeprefix(prefix).split(".")[0] in COMPONENTS
    }
    taken = set(chosen.values())
    others = [name for name in weights if name not in taken]
    if others:
        warnings.warn(
            f"{where}: {len(others)} tensors beside the network are passed over: {few(others)}", stacklevel=4
        )
    tensors = {name: weights[old] for name, old in chosen.items()}
    if (0,) in shapes_of(tensors).values():
        raise CheckpointError(
            f"{where}: the weights lie in parts (ZeRO-3); join them first: python zero_to_fp32.py {where} OUT"
        )
    check_floats(tensors, where)
    if (family := family_of_tensors(tensors)) is not None:
        raise family.refusal(where)
    return tensors


def _convert(path: Path) -> str:
    return f"cogvideox convert {path} OUT --to diffusers --base MODEL makes a model folder of it"


def _of_file(file: Path) -> TrainerOutput | None:
    beside = f"cogvideox generate --model BASE --transformer {file} runs it, BASE being the model it was made from; or "
    if is_gguf(file):
        do = f"{beside}{_convert(file)}; a T5 goes to generate --text-encoder"
        return TrainerOutput("a GGUF file", do, lambda: read_network_file(file))
    if file.suffix == ".safetensors":
        do = beside + _convert(file)
        return TrainerOutput("a single file of weights", do, lambda: read_network_file(file))
    if file.suffix in PICKLED:
        return TrainerOutput("a pickled file of weights", _convert(file), lambda: _pickled(file))
    return None


def _is_state(path: Path) -> bool:
    return any((path / name).exists() for name in STATE_FILES) or any(path.glob("*_optim_states.pt"))


def _with_weights(path: Path) -> tuple[Path, str] | None:
    """The folder and the stem or file name of weights that a trainer left; None when there are none."""
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return None
    for stem in STEMS:
        if any((path / f"{stem}.safetensors{index}").is_file() for index in ("", ".index.json")):
            return path, stem
        for name in (f"{stem}.bin", f"{stem}.bin.index.json"):
            if (path / name).is_file():
                return path, name
    for inner in (path / "pytorch_model", path):
        if (inner / DEEPSPEED).is_file() and (inner != path or _is_state(path)):
            return inner, DEEPSPEED
    return None


def _weights(folder: Path, name: str) -> Mapping[str, Tensor]:
    """The tensors of a stem of safetensors, of a pickled file, or of the pickled shards that an index names."""
    if name in STEMS:
        return read_folder(folder, name)
    root = link_root(folder)
    if not name.endswith(".index.json"):
        return _pickled(folder / name, root)
    weight_map = read_weight_map(folder / name, ".bin")
    tensors: dict[str, Tensor] = {}
    for file in dict.fromkeys(weight_map.values()):
        tensors |= _pickled(folder / file, root)
    missing = [key for key in weight_map if key not in tensors]
    if missing:
        raise CheckpointError(
            f"{folder / name}: its shards do not hold {few(missing)}; copy the folder again"
        )
    return tensors


def _pickled(file: Path, root: Path | None = None) -> dict[str, Tensor]:
    if root is not None:
        check_link(file, root, CheckpointError)
    values = unwrapped(load_pickled(file))
    return {name: value for name, value in values.items() if isinstance(name, str) and is_plain(value)}


def _own_run(path: Path) -> TrainerOutput:
    models = sorted(child.parent for child in path.glob("*/model_index.json"))
    if models:
        return TrainerOutput("a run of this package", f"its model is {models[0]}", model=models[0])
    states = sorted(child for child in path.iterdir() if STATE_NAME.fullmatch(child.name) and child.is_dir())
    do = f"cogvideox train {path / 'run.yaml'} goes on with it"
    if not states:
        return TrainerOutput("a run of this package without a state", do)
    kind = f"a run of this package at step {int(states[-1].name[6:])}"
    return TrainerOutput(kind, f"{do}, or: {_convert(path)}", lambda: _own_state(states[-1]))


def _own_state(state: Path) -> dict[str, Tensor]:
    """The averaged weights of a state where there are any, else those that are trained; shards are joined."""
    root = link_root(state)
    shards: dict[str, dict[int, Tensor]] = {}  # name -> its first row -> rows; a whole tensor has one
    for file in sorted(state.glob("tensors-*.safetensors")):
        tensors = read_file(file, root)
        for key in tensors:
            name, mark, first = key.lstrip("/").rpartition("@")
            if not (mark and first.isdecimal() and len(first) < 19):
                name, first = key.lstrip("/"), "0"
            if name.startswith(("module/", "average/values/")):
                shards.setdefault(name, {})[int(first)] = tensors[key]
    trained, averaged = dict[str, Tensor](), dict[str, Tensor]()
    for name, by_row in shards.items():
        tensor = torch.cat([by_row[at] for at in sorted(by_row)]) if len(by_row) > 1 else by_row.popitem()[1]
        if name.startswith("module/"):
            trained[name.removeprefix("module/")] = tensor
        else:
            averaged[name.removeprefix("average/values/")] = tensor
    return trained | averaged

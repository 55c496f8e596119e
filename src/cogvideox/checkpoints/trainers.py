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

import torch
from torch import Tensor

from cogvideox.checkpoints.families import check_floats, family_of_file, family_of_tensors
from cogvideox.checkpoints.keymap import few
from cogvideox.checkpoints.pickled import is_plain, load_pickled
from cogvideox.checkpoints.tensors import Tensors, link_root, read_file, read_folder, read_json
from cogvideox.errors import CheckpointError
from cogvideox.files import check_link, read_yaml
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


@dataclass(frozen=True)
class Place:
    """Something that is no model folder: what it is, what to do with it, and where its weights are, if any are read."""

    kind: str
    do: str
    weights: Callable[[], Mapping[str, Tensor]] | None = None
    model: Path | None = None


def recognise(place: Path) -> Place | None:
    """What a trainer or another program left at ``place``; None for what is not known. Reads names of files only."""
    if place.is_file():
        return _file(place)
    if (place / "manifest.json").is_file() and (place / "tree.json").is_file():
        do = "it holds the network alone: " + _convert(place)
        return Place("a training state of this package", do, lambda: _own_state(place))
    if (place / "run.yaml").is_file():
        return _own_run(place)
    inner = _with_weights(place)
    if inner is not None:
        kind = (
            "a training state (accelerate or DeepSpeed)" if _is_state(place) else "weights without a config"
        )
        return Place(kind, "it holds a network alone: " + _convert(place), lambda: _weights(*inner))
    steps = sorted(
        (child for child in place.glob("checkpoint-*") if child.is_dir()),
        key=lambda child: [int(part) for part in re.findall(r"\d{1,9}", child.name)],
    )
    if steps:
        return Place("the output of a trainer", f"name one of its checkpoints, such as {steps[-1]}")
    return None


def not_a_model(place: Path) -> CheckpointError:
    """The error for a place that is wanted as a model folder: what it is instead, and what to do."""
    if (container := family_of_file(place)) is not None:
        return container.refusal(place)
    if place.is_file() and place.suffix == ".safetensors":
        try:
            tensors = read_file(place)
        except CheckpointError as error:
            return error
        if (family := family_of_tensors(tensors.shapes, tensors.dtypes, tensors.metadata)) is not None:
            return family.refusal(place)
    if (found := recognise(place)) is not None:
        return CheckpointError(f"{place}: not a model folder but {found.kind}; {found.do}")
    if place.is_file():
        return CheckpointError(f"{place}: is a file; pass the model's folder, the one with model_index.json")
    held = few(sorted(path.name for path in place.iterdir())) or "nothing"
    return CheckpointError(f"{place}: not a model folder: model_index.json is missing; it holds {held}")


def network_in(place: Path) -> dict[str, Tensor] | None:
    """The transformer that a trainer left at ``place``, under our names; None where there is none of a trainer.

    Raises CheckpointError for what is recognised and cannot be read, and for quantised and other known families."""
    found = recognise(place)
    if found is None or found.model is not None:
        return None
    if found.weights is None:
        raise CheckpointError(f"{place}: {found.kind}; {found.do}")
    weights = found.weights()
    shapes = (
        {name: tuple(value.shape) for name, value in weights.items()} if isinstance(weights, dict) else {}
    )
    if isinstance(weights, Tensors):
        shapes = weights.shapes
        family = family_of_tensors(shapes, weights.dtypes, weights.metadata)
        if family is not None:
            raise family.refusal(place)
    if not any(name.endswith(PATCH) and "mixins." not in name for name in shapes):
        return None  # of SAT, an adapter, or nothing we know
    return network(weights, place)


def network(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The transformer among the weights of a trainer, under our names; warns of what is passed over.

    Raises CheckpointError when there is none, when there are several, or for weights that are not plain floats.
    """
    found = [name.removesuffix(PATCH) for name in weights if name.endswith(PATCH)]
    plain = [prefix for prefix in found if "ema" not in prefix.lower()] or found
    if len(plain) != 1:
        what = "no transformer of CogVideoX" if not plain else f"several networks: {few(plain)}"
        raise CheckpointError(f"{where}: {what} among its tensors ({few(weights)}); name another file")
    prefix = plain[0]
    chosen = {name.removeprefix(prefix): name for name in weights if name.startswith(prefix)}
    beside = [name for name in weights if not name.startswith(prefix)]
    inner = [name for name in chosen if name.split(".")[0] not in PARTS]
    if inner:
        beside += [chosen.pop(name) for name in inner]
    if beside:
        warnings.warn(
            f"{where}: {len(beside)} tensors beside the network are passed over: {few(beside)}", stacklevel=4
        )
    tensors = {name: weights[old] for name, old in chosen.items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if any(shape == (0,) for shape in shapes.values()):
        raise CheckpointError(
            f"{where}: the weights lie in parts (ZeRO-3); join them first: python zero_to_fp32.py {where} OUT"
        )
    check_floats(shapes, {name: value.dtype for name, value in tensors.items()}, where)
    family = family_of_tensors(shapes, {})
    if family is not None:
        raise family.refusal(where)
    return tensors


PARTS = (
    "patch_embed",
    "transformer_blocks",
    "time_embedding",
    "ofs_embedding",
    "norm_final",
    "norm_out",
    "proj_out",
)


def _convert(place: Path) -> str:
    return f"cogvideox convert {place} OUT --to diffusers --base MODEL makes a model folder of it"


def _file(file: Path) -> Place | None:
    if file.suffix == ".safetensors":
        return Place("a single file of weights", _convert(file), lambda: read_file(file))
    if file.suffix in PICKLED:
        return Place("a pickled file of weights", _convert(file), lambda: _pickled(file))
    return None


def _is_state(place: Path) -> bool:
    return any((place / name).exists() for name in STATE_FILES) or any(place.glob("*_optim_states.pt"))


def _with_weights(place: Path) -> tuple[Path, str] | None:
    """The folder and the stem or file name of weights that a trainer left; None when there are none."""
    if (place / "config.json").is_file() or (place / "model_index.json").is_file():
        return None
    for stem in STEMS:
        for name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
            if (place / name).is_file():
                return place, stem
        for name in (f"{stem}.bin", f"{stem}.bin.index.json"):
            if (place / name).is_file():
                return place, name
    for inner in (place / "pytorch_model", place):
        if (inner / DEEPSPEED).is_file() and (inner != place or _is_state(place)):
            return inner, DEEPSPEED
    return None


def _weights(folder: Path, name: str) -> Mapping[str, Tensor]:
    if name in STEMS:
        return read_folder(folder, name)
    root = link_root(folder)
    if not name.endswith(".index.json"):
        return _pickled(folder / name, root)
    shards = read_json(folder / name).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(f"{folder / name}: no 'weight_map' from tensor names to file names")
    found: dict[str, Tensor] = {}
    for file in dict.fromkeys(shards.values()):
        if Path(file).name != file or not file.endswith(".bin"):
            raise CheckpointError(f"{folder / name}: shard {file[:80]!r} is not the name of a .bin file here")
        found |= _pickled(folder / file, root)
    missing = [key for key in shards if key not in found]
    if missing:
        raise CheckpointError(
            f"{folder / name}: its shards do not hold {few(missing)}; copy the folder again"
        )
    return found


def _pickled(file: Path, root: Path | None = None) -> dict[str, Tensor]:
    if root is not None:
        check_link(file, root, CheckpointError)
    values = load_pickled(file)
    for wrapper in ("module", "model", "state_dict"):
        inner = values.get(wrapper)
        if isinstance(inner, Mapping):
            values = dict(inner)
    return {name: value for name, value in values.items() if isinstance(name, str) and is_plain(value)}


def _own_run(place: Path) -> Place:
    models = sorted(child.parent for child in place.glob("*/model_index.json"))
    if models:
        return Place("a run of this package", f"its model is {models[0]}", model=models[0])
    states = sorted(child for child in place.iterdir() if STATE_NAME.fullmatch(child.name) and child.is_dir())
    if not states:
        return Place(
            "a run of this package without a state", f"cogvideox train {place / 'run.yaml'} goes on with it"
        )
    step, do = (
        int(states[-1].name[6:]),
        f"cogvideox train {place / 'run.yaml'} goes on with it, or: {_convert(place)}",
    )
    return Place(f"a run of this package at step {step}", do, lambda: _own_state(states[-1]))


def config_of_run(place: Path) -> TransformerConfig | None:
    """The transformer's settings in the ``run.yaml`` of one of our runs or around one of its states; None elsewhere."""
    file = next(
        (folder / "run.yaml" for folder in (place, place.parent) if (folder / "run.yaml").is_file()), None
    )
    if file is None or place.is_file():
        return None
    values = read_yaml(file)
    task = values.get("task") if isinstance(values, dict) else None
    settings = task.get("transformer") if isinstance(task, dict) else None
    return (
        TransformerConfig.parse(settings, f"{file}: task.transformer") if isinstance(settings, dict) else None
    )


def _own_state(state: Path) -> dict[str, Tensor]:
    """The averaged weights of a state where there are any, else those that are trained; rows are joined."""
    root = link_root(state)
    held: dict[str, Tensor] = {}
    for file in sorted(state.glob("tensors-*.safetensors")):
        tensors = read_file(file, root)
        names = {name.lstrip("/"): name for name in tensors}
        held |= {
            short: tensors[name]
            for short, name in names.items()
            if short.startswith(("module/", "average/values/"))
        }
    whole: dict[str, Tensor] = {}
    rows: dict[str, dict[int, Tensor]] = {}
    for name, value in held.items():
        base, mark, first = name.rpartition("@")
        if mark and first.isdecimal():
            rows.setdefault(base, {})[int(first)] = value
        else:
            whole[name] = value
    whole |= {name: torch.cat([pieces[at] for at in sorted(pieces)]) for name, pieces in rows.items()}
    trained = {
        name.removeprefix("module/"): value for name, value in whole.items() if name.startswith("module/")
    }
    averaged = {
        name.removeprefix("average/values/"): value
        for name, value in whole.items()
        if not name.startswith("module/")
    }
    return trained | averaged

"""Low-rank adapters on a finished model, put on, merged and taken off from outside.

A linear layer is replaced by a ``LoraLinear`` that shares its weights and adds ``scale * alpha / rank * B A x``; names
of the original weights do not change, several adapters add up, and taking them off restores the very same layers.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cogvideox.checkpoints.adapter import Adapter, Form, Pair, write_adapter
from cogvideox.checkpoints.adapter_names import Layers, layers_of
from cogvideox.checkpoints.adapter_reading import find_adapter, read_adapter
from cogvideox.checkpoints.adapter_settings import recommended_beside
from cogvideox.checkpoints.hub import as_path, origin_of
from cogvideox.checkpoints.lora_linear import LoraLinear
from cogvideox.errors import CheckpointError, ConfigError, few, suggest
from cogvideox.files.digest import sha256_of
from cogvideox.noise import generator
from cogvideox.strength import Strength
from cogvideox.transformer.transformer import FlatPatch

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that the public trainers adapt: the four projections of attention."""


class HasTransformer(Protocol):
    """A whole model; the adapters go on its transformer."""

    @property
    def transformer(self) -> nn.Module:
        """The network that adapters are put on."""


Model = nn.Module | HasTransformer


def load_lora(
    model: Model,
    path: str | Path,
    scale: float | str | Strength | None = None,
    *,
    alpha: float | None = None,
    name: str | None = None,
) -> Adapter:
    """Read an adapter and put it on the transformer under ``name`` (default: that of the file, or of its folder when
    the file's is taken); returns it.

    ``path``: a file, a folder, or ``owner/name[:file][@revision]`` of the hub. ``scale`` weakens or strengthens it, the
    same at all steps or changing over them ("0.8@0-0.6", see ``Strength``), as recommended beside the file or 1 by
    default; ``generate`` takes the other settings that are recommended there. ``alpha`` is needed when the file does
    not say it. Warns about an adapter that changes nothing, and about what is passed over. Raises CheckpointError when
    it does not fit; the model is unchanged. Raises ConfigError for a scale that is none, or such settings.
    """
    module, file = _transformer(model), find_adapter(path)
    recommended = recommended_beside(file)
    strength = Strength.of((recommended or {}).get("scale", 1.0) if scale is None else scale)
    adapter = read_adapter(file, alpha, Layers(layers_of(module)))
    source: dict[str, Any] = {"file": file.name, "sha256": sha256_of(file), "origin": adapter.origin}
    source |= {"alpha_from": adapter.alpha_from, "passed_over": list(adapter.passed_over)}
    source |= origin_of(file)
    if recommended is not None:
        source["recommended"] = recommended
    attach_lora(model, adapter, name or _free_name(model, as_path(path)), strength, source)
    if adapter.passed_over:
        warnings.warn(f"{path}: passed over: {', '.join(adapter.passed_over)}", stacklevel=2)
    if strength.constant == 0 or adapter.does_nothing():
        norm = f"norm of its changes {adapter.delta_norm():.1e}; was it trained?"
        warnings.warn(
            f"{path}: this LoRA changes nothing: {'scale is 0' if strength.constant == 0 else norm}",
            stacklevel=2,
        )
    return adapter


def check_fits(model: Model, adapter: Adapter, name: str = "default") -> None:
    """Raise CheckpointError when a layer of the adapter is unknown or of another size; ``model`` may be on ``meta``."""
    layers = _adaptable(_transformer(model))
    unknown = [path for path in adapter.pairs if path not in layers]
    if unknown:
        unknown[:5] = [path + suggest(path, layers) for path in unknown[:5]]
        raise CheckpointError(f"LoRA {name!r}: layers this model does not have: {few(unknown)}")
    wrong = []
    for path, pair in adapter.pairs.items():
        shape = layers[path].weight.shape
        size = shape[0], shape[1:].numel()
        if pair.size != size:
            wrong.append(f"{path} {pair.size}, here {size}")
        elif pair.kernel and pair.kernel != tuple(shape[2:]) and any(side != 1 for side in pair.kernel):
            wrong.append(
                f"{path} of a convolution {list(pair.kernel)}, here {list(shape[2:]) or 'a linear layer'}"
            )
    if wrong:
        raise CheckpointError(f"LoRA {name!r} was made for another model: {few(wrong)}")


def attach_lora(
    model: Model,
    adapter: Adapter,
    name: str = "default",
    scale: float | str | Strength = 1.0,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Put an adapter on; raises CheckpointError when a layer is unknown or of another size.

    ``scale``: as for ``load_lora``. ``source`` says where it came from; it is noted on the transformer with name,
    ranks, alphas and scale.
    """
    module, strength = _transformer(model), Strength.of(scale)
    check_fits(module, adapter, name)
    if name in lora_names(module):
        raise CheckpointError(
            f"LoRA {name!r} is on this model already; unload it, or give this one another name"
        )
    layers = _adaptable(module)
    for path, pair in adapter.pairs.items():
        layer = layers[path]
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)
            _replace(module, path, layer)
        layer.add(name, pair, strength)
    facts = {"rank": adapter.ranks, "alpha": adapter.alphas, "scale": strength.plain, "merged": False}
    _notes(module).append({"name": name, **(source or {}), **facts})


def add_lora(
    model: Model,
    rank: int,
    alpha: float | None = None,
    targets: Iterable[str] = TARGETS,
    name: str = "default",
    seed: int = 0,
    dtype: torch.dtype | None = torch.float32,
) -> list[nn.Parameter]:
    """Put a fresh adapter on for training and return its parameters; everything else is frozen.

    A is Kaiming-uniform and B zero, so the model starts as it was. ``targets`` are endings of layer names;
    ``alpha`` defaults to the rank. Raises ConfigError for a target that no linear layer ends with.
    """
    module = _transformer(model)
    if rank < 1:
        raise ConfigError(f"rank {rank}: must be at least 1")
    pairs = {}
    for path, layer in _targeted(module, tuple(targets)).items():
        kept = dtype or layer.weight.dtype
        a = torch.empty(rank, layer.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator(seed, f"lora/{path}"))
        b = torch.zeros(layer.out_features, rank, dtype=kept)
        pairs[path] = Pair(a.to(kept), b, float(alpha or rank))
    module.requires_grad_(False)
    attach_lora(module, Adapter(pairs), name)
    layers = (layer for _, layer in _with_adapter(module, name))
    return [p for layer in layers for p in (layer.lora_A[name], layer.lora_B[name])]


def extract_lora(model: Model, name: str | None = None) -> Adapter:
    """The adapter called ``name`` (or the only one) as a value; raises CheckpointError when there is none."""
    module = _transformer(model)
    name = _one(module, name)
    return Adapter({path: layer.pair(name) for path, layer in _with_adapter(module, name)})


def save_lora(
    model: Model,
    path: str | Path,
    *,
    name: str | None = None,
    form: Form = "diffusers",
    overwrite: bool = False,
) -> Path:
    """Write one adapter of a model alone, with rank and alpha; returns the file."""
    return write_adapter(extract_lora(model, name), path, form, overwrite)


def scale_lora(model: Model, scale: float | str | Strength, name: str | None = None) -> None:
    """Change the strength of one adapter (the only one, or ``name``), see ``load_lora``. Raises CheckpointError without
    it, also when it was merged, and ConfigError for a scale that is none."""
    module, strength = _transformer(model), Strength.of(scale)
    name = _one(module, name)
    for _, layer in _with_adapter(module, name):
        layer.rescale(name, strength)
    for note in _notes_on(module, name):
        note["scale"] = strength.plain


def merge_lora(model: Model, name: str | None = None) -> None:
    """Add adapters (one, or all) into the weights; the layers are plain again when none is left.

    ``unload_lora`` cannot take a merged adapter out: load the model again. Raises CheckpointError, before any weight is
    changed, where a weight cannot take an adapter in (one byte a weight), or a DoRA would be merged out of its order.
    """
    module = _transformer(model)
    names = [_one(module, name)] if name else lora_names(module)
    for index, each in enumerate(names):
        for _, layer in _with_adapter(module, each):
            layer.check_mergeable(each, merged=names[:index])
    for each in names:
        for _, layer in _with_adapter(module, each):
            layer.merge(each)
        for note in _notes_on(module, each):
            note["merged"] = True
    _strip(module)


def unload_lora(model: Model, name: str | None = None) -> None:
    """Remove adapters (one, or all): the model is as before ``load_lora``, bit for bit. Raises CheckpointError for a
    name that is not on the model, also when it was merged."""
    module = _transformer(model)
    for each in [_one(module, name)] if name else lora_names(module):
        for _, layer in _with_adapter(module, each):
            layer.remove(each)
        for note in _notes_on(module, each):
            _notes(module).remove(note)
    _strip(module)


def lora_names(model: Model) -> list[str]:
    """The adapters on a model, in the order they were put on."""
    layers = (layer for layer in _transformer(model).modules() if isinstance(layer, LoraLinear))
    return list(dict.fromkeys(name for layer in layers for name in layer.strengths))


def changing_layers(model: Model) -> list[str]:
    """The layers of the transformer whose adapters change in strength over the steps of a run."""
    layers = (
        (path, layer) for path, layer in _transformer(model).named_modules() if isinstance(layer, LoraLinear)
    )
    return [path for path, layer in layers if any(each.constant is None for each in layer.strengths.values())]


def of_modulation(layers: Iterable[str]) -> bool:
    """Whether layers are among those that depend on the timestep alone, whose results may stand in tables."""
    return any(re.search(r"(norm\d|norm_out)\.linear$|^(time|ofs)_embedding\.", layer) for layer in layers)


def _free_name(model: Model, path: Path) -> str:
    """Most adapters are called pytorch_lora_weights.safetensors: then the folder's name tells them apart."""
    taken = lora_names(model)
    names = [each.replace(".", "_") for each in (path.stem, path.absolute().parent.name) if each]
    numbered = (f"{names[-1]}_{number}" for number in count(2))
    return next(name for name in (*names, *islice(numbered, len(taken) + 1)) if name not in taken)


def _notes(module: nn.Module) -> list[dict[str, Any]]:
    """What has been put on this network, for the record of what it makes."""
    notes: list[dict[str, Any]] = vars(module).setdefault("adapters", [])
    return notes


def _notes_on(module: nn.Module, name: str) -> list[dict[str, Any]]:
    """The notes of an adapter that can still be changed; a merged one is part of the weights."""
    return [note for note in _notes(module) if note["name"] == name and not note["merged"]]


def _transformer(model: Model) -> nn.Module:
    return model if isinstance(model, nn.Module) else model.transformer


def _adaptable(module: nn.Module) -> dict[str, nn.Linear | FlatPatch]:
    """The layers that an adapter can change, by name."""
    return {path: module.get_submodule(path) for path in layers_of(module)}  # type: ignore[misc]


def _targeted(module: nn.Module, endings: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers whose names end so. Raises ConfigError for an ending of none."""
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    targeted, unused = {}, list(endings)
    for path, layer in layers.items():
        fits = [e for e in endings if path == e or path.endswith("." + e)]
        if fits:
            targeted[path] = layer
            unused = [e for e in unused if e not in fits]
    if unused or not targeted:
        ends = {path.rpartition("transformer_blocks.0.")[2] for path in layers if ".1." not in path}
        leaves = sorted(ends | {path.rpartition(".")[2] for path in ends})
        raise ConfigError(
            f"targets {', '.join(unused) or 'none'}: no linear layer of the transformer ends so"
            f"{suggest(unused[0], leaves) if unused else ''}; try {TARGETS[0]}"
        )
    return targeted


def _with_adapter(module: nn.Module, name: str) -> list[tuple[str, LoraLinear]]:
    """The layers that the adapter called ``name`` is on, by path."""
    layers = ((path, layer) for path, layer in module.named_modules() if isinstance(layer, LoraLinear))
    return [(path, layer) for path, layer in layers if name in layer.strengths]


def _one(module: nn.Module, name: str | None) -> str:
    names = lora_names(module)
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        raise CheckpointError(
            f"LoRA {name or '(unnamed)'}: this model has {few(names) or 'none'}; name one of them"
        )
    return name


def _replace(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    owner = module.get_submodule(parent)
    if isinstance(owner, nn.ModuleList):
        owner[int(leaf)] = layer
    else:
        setattr(owner, leaf, layer)


def _strip(module: nn.Module) -> None:
    for path, layer in list(module.named_modules()):
        if isinstance(layer, LoraLinear) and not layer.strengths:
            _replace(module, path, layer.plain())

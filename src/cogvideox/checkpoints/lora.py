"""Low-rank adapters on a finished model, put on and taken off from outside.

A linear layer is replaced by one that shares its weights and adds ``scale * alpha / rank * B A x``; names of
the original weights do not change, several adapters add up, and taking them off restores the very same
layers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.checkpoints.adapter import Adapter, Form, Pair, find_adapter, read_adapter, write_adapter
from cogvideox.checkpoints.keymap import few
from cogvideox.errors import CheckpointError, ConfigError, suggest
from cogvideox.manifest import sha256_of
from cogvideox.native import Linear, product
from cogvideox.noise import generator

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that the public trainers adapt: the four projections of attention."""
NOTHING = 1e-8  # norm of all changes below which an adapter surely was not trained


class HasTransformer(Protocol):
    """A whole model; the adapters go on its transformer."""

    transformer: nn.Module


Model = nn.Module | HasTransformer


class AdaptedLinear(nn.Module):
    """A linear layer and the adapters on it, in the order they were added."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("weight", linear.weight)
        self.register_parameter("bias", linear.bias)
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.alphas: dict[str, float] = {}
        self.scales: dict[str, float] = {}

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        y = product(F.linear, x, self.weight, self.bias)
        for name, a in self.lora_A.items():
            factor = self.scales[name] * self.alphas[name] / a.shape[0]
            y = (y + F.linear(F.linear(x.to(a.dtype), a), self.lora_B[name]) * factor).to(y.dtype)
        return y

    def add(self, name: str, pair: Pair, scale: float) -> None:
        """Put an adapter on; its matrices keep their precision and move to the layer's device."""
        device = self.weight.device
        self.lora_A[name] = nn.Parameter(pair.a.to(device, copy=True))
        self.lora_B[name] = nn.Parameter(pair.b.to(device, copy=True))
        self.alphas[name], self.scales[name] = pair.alpha, scale

    def remove(self, name: str) -> None:
        """Take one adapter off."""
        del self.lora_A[name], self.lora_B[name], self.alphas[name], self.scales[name]

    def pair(self, name: str) -> Pair:
        """The matrices of one adapter."""
        return Pair(self.lora_A[name].detach(), self.lora_B[name].detach(), self.alphas[name])

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """Add one adapter into the weight, computed in float32, and take it off."""
        a, b = self.lora_A[name].float(), self.lora_B[name].float()
        delta = b @ a * (self.scales[name] * self.alphas[name] / a.shape[0])
        self.weight.copy_((self.weight.float() + delta).to(self.weight.dtype))
        self.remove(name)

    def plain(self) -> nn.Linear:
        """The layer without adapters; it shares the weights."""
        with torch.device("meta"):
            linear = Linear(self.in_features, self.out_features, bias=self.bias is not None)
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)


def load_lora(
    model: Model, path: str | Path, scale: float = 1.0, *, alpha: float | None = None, name: str | None = None
) -> Adapter:
    """Read an adapter and put it on the transformer under ``name`` (default: that of the file, or of its folder when
    the file's is taken); returns it.

    ``scale`` weakens or strengthens it; ``alpha`` is needed when the file does not say it. Warns about an
    adapter that changes nothing. Raises CheckpointError when it does not fit the model; the model is then as
    before.
    """
    adapter = read_adapter(path, alpha)
    file = find_adapter(Path(path))
    source = {"file": file.name, "sha256": sha256_of(file)}
    attach_lora(model, adapter, name or _free_name(model, Path(path)), scale, source)
    if scale == 0 or adapter.delta_norm() < NOTHING:
        reason = (
            "scale is 0" if scale == 0 else f"norm of its changes {adapter.delta_norm():.1e}; was it trained?"
        )
        warnings.warn(f"{path}: this LoRA changes nothing: {reason}", stacklevel=2)
    return adapter


def attach_lora(
    model: Model,
    adapter: Adapter,
    name: str = "default",
    scale: float = 1.0,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Put an adapter on; raises CheckpointError when a layer is unknown or of another size.

    ``source`` says where it came from; it is noted on the transformer with name, ranks, alphas and scale.
    """
    module = _transformer(model)
    layers = {
        path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear | AdaptedLinear)
    }
    unknown = [path + suggest(path, layers) for path in adapter.pairs if path not in layers]
    if unknown:
        raise CheckpointError(f"LoRA {name!r}: layers this model does not have: {few(unknown)}")
    sizes = {path: (layers[path].out_features, layers[path].in_features) for path in adapter.pairs}
    shaped = [
        f"{path} {pair.size}, here {sizes[path]}"
        for path, pair in adapter.pairs.items()
        if pair.size != sizes[path]
    ]
    if shaped:
        raise CheckpointError(f"LoRA {name!r} was made for another model: {few(shaped)}")
    if name in lora_names(module):
        raise CheckpointError(
            f"LoRA {name!r} is on this model already; unload it, or give this one another name"
        )
    for path, pair in adapter.pairs.items():
        layer = layers[path]
        if isinstance(layer, nn.Linear):
            layer = AdaptedLinear(layer).train(layer.training)
            _replace(module, path, layer)
        layer.add(name, pair, scale)
    alphas = sorted({pair.alpha for pair in adapter.pairs.values()})
    facts = {"rank": adapter.ranks, "alpha": alphas, "scale": scale, "merged": False}
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
    ``alpha`` defaults to the rank. Raises ConfigError when nothing matches.
    """
    module = _transformer(model)
    if rank < 1:
        raise ConfigError(f"rank {rank}: must be at least 1")
    endings = tuple(targets)
    pairs = {}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear | AdaptedLinear) and any(
            path == e or path.endswith("." + e) for e in endings
        ):
            kept = dtype or layer.weight.dtype
            a = torch.empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator(seed, f"lora/{path}"))
            pairs[path] = Pair(
                a.to(kept), torch.zeros(layer.out_features, rank, dtype=kept), float(alpha or rank)
            )
    if not pairs:
        raise ConfigError(
            f"targets {', '.join(endings)}: no linear layer of the transformer ends so; try {TARGETS[0]}"
        )
    module.requires_grad_(False)
    attach_lora(module, Adapter(pairs), name)
    return [
        p
        for layer in _adapted(module)
        if name in layer.scales
        for p in (layer.lora_A[name], layer.lora_B[name])
    ]


def extract_lora(model: Model, name: str | None = None) -> Adapter:
    """The adapter called ``name`` (or the only one) as a value; raises CheckpointError when there is none."""
    module = _transformer(model)
    name = _one(module, name)
    pairs = {
        path: layer.pair(name)
        for path, layer in module.named_modules()
        if isinstance(layer, AdaptedLinear) and name in layer.scales
    }
    return Adapter(pairs)


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


def scale_lora(model: Model, scale: float, name: str | None = None) -> None:
    """Change the strength of one adapter."""
    module = _transformer(model)
    name = _one(module, name)
    for layer in _adapted(module):
        if name in layer.scales:
            layer.scales[name] = scale
    for note in _notes_on(module, name):
        note["scale"] = scale


def merge_lora(model: Model, name: str | None = None) -> None:
    """Add adapters (one, or all) into the weights for good; the layers are plain again when none is left."""
    module = _transformer(model)
    for each in [_one(module, name)] if name else lora_names(module):
        for layer in _adapted(module):
            if each in layer.scales:
                layer.merge(each)
        for note in _notes_on(module, each):
            note["merged"] = True
    _strip(module)


def unload_lora(model: Model, name: str | None = None) -> None:
    """Take adapters off (one, or all); the weights are those from before."""
    module = _transformer(model)
    for each in [_one(module, name)] if name else lora_names(module):
        for layer in _adapted(module):
            if each in layer.scales:
                layer.remove(each)
        for note in _notes_on(module, each):
            _notes(module).remove(note)
    _strip(module)


def lora_names(model: Model) -> list[str]:
    """The adapters on a model, in the order they were put on."""
    return list(dict.fromkeys(name for layer in _adapted(_transformer(model)) for name in layer.scales))


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


def _adapted(module: nn.Module) -> Iterator[AdaptedLinear]:
    return (layer for layer in module.modules() if isinstance(layer, AdaptedLinear))


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
        if isinstance(layer, AdaptedLinear) and not layer.scales:
            _replace(module, path, layer.plain())

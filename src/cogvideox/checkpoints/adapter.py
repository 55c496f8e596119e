"""The files that low-rank adapters travel in: diffusers, PEFT, kohya and its kin, ComfyUI, SAT.

The same two matrices mean different things under another ``alpha``, and guessing it is the best known way to get a LoRA
that "does nothing": alpha comes from the file, from the caller, or from the one convention that all files of its kind
follow; otherwise reading stops. Layers are found by ``adapter_names``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cogvideox.checkpoints.adapter_names import (
    Layers,
    Role,
    Target,
    is_of_text_encoder,
    is_usual_prefix,
    other_kind,
    public_layers,
    take_apart,
)
from cogvideox.checkpoints.adapter_pairs import (
    Adapter,
    AlphaUnknownError,
    OddSettingsError,
    Pair,
    check_alpha,
    make_pair,
)
from cogvideox.checkpoints.adapter_settings import FILE, FINETRAINERS, PEFT_CONFIG, PEFT_FILE, Said, read_said
from cogvideox.checkpoints.adapter_writing import Form, write_adapter
from cogvideox.checkpoints.keymap import RenameRule, few
from cogvideox.checkpoints.sat import PREFIX, SUFFIXES, keymap, read_sat
from cogvideox.checkpoints.tensors import read_file
from cogvideox.errors import CheckpointError, suggest

__all__ = [
    "FILE",
    "PEFT_FILE",
    "Adapter",
    "AlphaUnknownError",
    "Form",
    "OddSettingsError",
    "Pair",
    "find_adapter",
    "is_adapter",
    "read_adapter",
    "write_adapter",
]

DIFFERENCE = "an extracted difference of two models"
COGKIT = (128, 64.0)  # rank and alpha of every adapter that CogKit trains


@dataclass(frozen=True)
class Group:
    """The tensors of one layer in the file's spelling, by role."""

    spelled: str
    partition: int | None
    names: dict[Role, str]


@dataclass(frozen=True)
class AdapterFile:
    """A group and the layers of ours that it changes: several where the file holds them as one."""

    group: Group
    target: Target
    before: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Our layers that this group changes."""
        part = self.group.partition
        return self.target.layers if part is None else self.target.layers[part : part + 1]

    @property
    def rule(self) -> RenameRule | None:
        """How what the file holds as one is cut; None where the group is of one layer."""
        return self.target.rule if self.group.partition is None else None


def read_adapter(path: str | Path, alpha: float | None = None, layers: Layers | None = None) -> Adapter:
    """Read an adapter from a file or folder of any form; the form is recognised by its names.

    ``alpha`` overrides the file's. ``layers`` are those of the model it is for; without it those of every public
    CogVideoX. Raises CheckpointError for unknown names, two names of one layer, a pair that is not whole, matrices that
    do not fit each other, and AlphaUnknownError for a file that does not say its alpha when none is given.
    """
    file = find_adapter(Path(path))
    if alpha is not None:
        alpha = check_alpha(alpha, f"{file}: given", CheckpointError)
    tensors: Mapping[str, Tensor]
    if file.suffix in SUFFIXES:
        tensors, metadata = read_sat(file).tensors, {}
    else:
        opened = read_file(file)
        tensors, metadata = opened, opened.metadata
    groups = _groups(file, tensors)
    found, passed = _resolve(file, groups, layers or public_layers(tensors))
    said, unread = _said(file, metadata, alpha)
    origin = _origin(file, found, metadata, not said.source and _is_difference(found, tensors))
    pairs, sources = {}, []
    for each in found:
        for layer, parts in _cut(each, tensors).items():
            pair = make_pair(str(file), layer, parts, 0.0)
            value, source = _alpha(file, each, pair, layer, tensors, alpha, said, origin)
            pairs[layer] = replace(pair, alpha=value)
            sources.append(source)
    unsaid = sources.count("")
    if unsaid:
        ranks = ", ".join(map(str, sorted({pair.rank for pair in pairs.values()})))
        raise AlphaUnknownError(
            f"{file}: does not say its alpha (rank {ranks}); pass alpha (--lora-alpha): the value it was trained "
            "with, or the rank for an effective scale of 1, as diffusers assumes. CogVideo's own trainer takes half "
            "the rank, SAT (DimensionX and other exports) 1"
        )
    kinds = ", ".join(dict.fromkeys(sources))
    return Adapter(pairs, origin, kinds, (*unread, *passed))


def _groups(file: Path, tensors: Mapping[str, Tensor]) -> list[Group]:
    """The tensors by the layer that they name. Raises CheckpointError for what no LoRA holds."""
    groups: dict[tuple[str, int | None], Group] = {}
    unknown, kinds = [], []
    for name in tensors:
        parsed = take_apart(name)
        if parsed is None:
            kind = other_kind(name)
            unknown.append(name)
            kinds += [kind] if kind else []
            continue
        key = parsed.layer, parsed.partition
        names = groups.setdefault(key, Group(parsed.layer, parsed.partition, {})).names
        if parsed.role in names:
            raise CheckpointError(
                f"{file}: {few([names[parsed.role], name])} are two of one kind for one layer; keep one of them"
            )
        names[parsed.role] = name
    if any(group.partition is not None for group in groups.values()):
        # a SAT fine-tuning run saves the frozen weights too, under ``original``
        known = keymap("transformer")
        unknown = [
            name for name in unknown if not known.knows(name.removeprefix(PREFIX).replace(".original.", "."))
        ]
    if kinds:
        raise CheckpointError(
            f"{file}: holds {few(list(dict.fromkeys(kinds)))} (such as {few(unknown, 1)}), which is not run here; "
            "merge it into the model with the tool that made it, or convert it to a plain LoRA"
        )
    if unknown:
        raise CheckpointError(f"{file}: not tensors of a LoRA: {few(unknown)}")
    if not any(role != "alpha" for group in groups.values() for role in group.names):
        raise CheckpointError(f"{file}: holds no matrices of a LoRA")
    return list(groups.values())


def _resolve(file: Path, groups: list[Group], layers: Layers) -> tuple[list[AdapterFile], list[str]]:
    """The layers of the groups, and what belongs to a text encoder. Raises CheckpointError for other layers."""
    found, passed, unknown = [], 0, []
    for group in groups:
        hit = layers.find(group.spelled)
        if hit is not None and (group.partition is None or group.partition < len(hit[0].layers)):
            found.append(AdapterFile(group, *hit))
        elif is_of_text_encoder(group.spelled):
            passed += 1
        else:
            unknown.append(group.spelled)
    prefixes = {each.before for each in found}
    if len(prefixes) > 1:  # an unusual word before all names is a wrapper; before some, another network
        unknown += [each.group.spelled for each in found if not is_usual_prefix(each.before)]
    if unknown:
        hints = [name + suggest(name, layers.names) for name in unknown[:5]]
        raise CheckpointError(
            f"{file}: layers that this kind of model does not have: {few(hints + unknown[5:])}"
        )
    if not found:
        raise CheckpointError(f"{file}: adapts a text encoder alone ({passed} layers), which is not run here")
    taken: dict[str, str] = {}
    for each in found:
        for layer in each.layers:
            if layer in taken:
                raise CheckpointError(
                    f"{file}: {layer} has two names: {few([taken[layer], each.group.spelled])}; keep one of them"
                )
            taken[layer] = each.group.spelled
    return found, [f"{passed} layers of a text encoder"] if passed else []


def _cut(found: AdapterFile, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by role for each of our layers; rows of q, k and v held as one are cut apart."""
    parts: dict[str, Tensor] = {
        role: tensors[name] for role, name in found.group.names.items() if role != "alpha"
    }
    if found.rule is None:
        return {found.layers[0]: parts}
    cut: dict[str, dict[str, Tensor]] = {layer: {} for layer in found.layers}
    for role, tensor in parts.items():
        whole = role == "a"
        pieces = [tensor] * len(cut) if whole else found.rule.split(found.group.names[role], tensor)
        for layer, piece in zip(found.layers, pieces, strict=True):
            cut[layer][role] = piece
    return cut


def _said(file: Path, metadata: Mapping[str, str], alpha: float | None) -> tuple[Said, list[str]]:
    try:
        return read_said(file, metadata, beside=file.name == PEFT_FILE), []
    except OddSettingsError:
        if alpha is None:
            raise
        return Said(), ["settings in the file that cannot be used"]


def _alpha(
    file: Path,
    found: AdapterFile,
    pair: Pair,
    layer: str,
    tensors: Mapping[str, Tensor],
    given: float | None,
    said: Said,
    origin: str,
) -> tuple[float, str]:
    """Alpha of a layer and where it was found, '' for nowhere."""
    own = found.group.names.get("alpha")
    if given is not None:
        value, source = given, "given"
    elif own is not None:
        tensor = tensors[own]
        if tensor.numel() != 1 or tensor.dtype == torch.bool:
            raise OddSettingsError(
                f"{file}: {own} {list(tensor.shape)} is not one number; pass alpha (--lora-alpha)"
            )
        value, source = check_alpha(tensor.item(), f"{file}: {own}"), "tensors of the file"
    else:
        said.check_rank(str(file), layer, pair.rank)
        known = said.alpha_of(layer)
        if known is None:
            return _convention(origin, found, pair)
        value, source = known, said.source
    if said.rank_stabilised and own is None:
        return value * pair.rank**0.5, f"{source}, rank-stabilised"
    return value, source


def _convention(origin: str, found: AdapterFile, pair: Pair) -> tuple[float, str]:
    """The alpha of files of this kind that do not say it, where all trainers of the kind agree; else 0 and ''."""
    if origin == "SAT":
        return 1.0, "convention of SAT: 1"
    if "down" in found.group.names["a"].split(".")[-2:] or ".lora_down" in found.group.names["a"]:
        return float(pair.rank), f"convention of {origin}: alpha = rank"
    if origin in ("ComfyUI", DIFFERENCE):
        return float(pair.rank), f"convention of {origin}: alpha = rank"
    if origin == "CogKit" and pair.rank == COGKIT[0]:
        return COGKIT[1], "convention of CogKit: 64"
    return 0.0, ""


def _is_difference(found: list[AdapterFile], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the patch convolution is among the layers, without alpha: no trainer adapts it, extraction does."""
    return any(
        tensors[each.group.names["a"]].ndim > 2
        for each in found
        if each.layers == ("patch_embed.proj",) and "a" in each.group.names
    ) and not any("alpha" in each.group.names for each in found)


def _origin(file: Path, found: list[AdapterFile], metadata: Mapping[str, str], difference: bool) -> str:
    """Which kind of trainer or exporter wrote the file, by its names."""
    spelled = [each.group.spelled for each in found]
    before = found[0].before
    rules = {
        "SAT": any(each.group.partition is not None for each in found),
        "finetrainers": FINETRAINERS in metadata,
        "VideoX-Fun": any(name.startswith("lora_unet__") for name in spelled),
        "kohya": any(name.startswith("lora_") for name in spelled),
        "diffusers before PEFT": any(".processor." in name for name in spelled),
        "ComfyUI": before[-2:] == ("diffusion", "model"),
        "PEFT": before[:2] == ("base", "model") or (file.parent / PEFT_CONFIG).is_file(),
        DIFFERENCE: difference,
        "diffusers": before[:1] == ("transformer",),
        "CogKit": not before and file.name == PEFT_FILE,
        "names of the layers alone": not before,
    }
    return next((kind for kind, fits in rules.items() if fits), f"names after {' '.join(before)!r}")


def is_adapter(names: Iterable[str]) -> bool:
    """Whether a file with these tensor names holds an adapter, of a kind that is run or not."""
    for name in names:
        parsed = take_apart(name)
        if other_kind(name) or (parsed is not None and parsed.role != "alpha"):
            return True
    return False


def find_adapter(path: Path) -> Path:
    """The file of an adapter, given it or a folder that holds one. Raises CheckpointError."""
    if path.is_dir():
        for name in (FILE, PEFT_FILE):
            if (path / name).is_file():
                return path / name
        if (path / "latest").is_file():
            return read_sat(path).path
        several = sorted(path.glob("*.safetensors"))
        if len(several) == 1:
            return several[0]
        raise CheckpointError(f"{path}: holds {len(several)} safetensors files and no {FILE}; name one file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path

"""Reading the files that low-rank adapters travel in: diffusers, PEFT, kohya and its kin, ComfyUI, SAT.

The same two matrices mean different things under another ``alpha``, and guessing it is the best known way to get a LoRA
that "does nothing": alpha comes from the file, from the caller, or from the one convention that all files of its kind
follow; otherwise reading stops. Layers are found by ``adapter_names``.

PEFT's ``alpha_pattern`` and ``rank_pattern`` are regular expressions. A file's expressions are never run: a key that is
the name of a layer (or its end) is compared as text, any other makes alpha unknown for the layers it might mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.checkpoints.adapter import (
    LORA_FILE,
    METADATA,
    PEFT_CONFIG,
    PEFT_FILE,
    Adapter,
    AlphaUnknownError,
    OddSettingsError,
    Pair,
    check_alpha,
    make_pair,
)
from cogvideox.checkpoints.adapter_names import (
    Layers,
    LayerTensors,
    MatchedLayer,
    group_by_layer,
    is_adapter,
    public_layers,
)
from cogvideox.checkpoints.hub import find_file, read_reference
from cogvideox.checkpoints.misplaced import belongs, belongs_after
from cogvideox.checkpoints.published import published_file
from cogvideox.checkpoints.sat import SUFFIXES, read_sat
from cogvideox.checkpoints.tensors import read_file
from cogvideox.errors import CheckpointError
from cogvideox.files import parse_json, read_json, short

FINETRAINERS = "lora_config"
DIFFERENCE = "an extracted difference of two models"
COGKIT = (128, 64.0)  # rank and alpha of every adapter that CogKit trains
_ALPHA_KEYS = ("lora_alpha", "alpha", "ss_network_alpha")
_REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")
PASS_ALPHA = "pass alpha (--lora-alpha; convert: --alpha)"


@dataclass(frozen=True)
class AdapterSettings:
    """Rank and alpha from a file's metadata or from beside it; ``source`` names where they stood, '' for nowhere."""

    source: str = ""
    alpha: float | None = None
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    rank_stabilised: bool = False

    def alpha_of(self, layer: str) -> float | None:
        """Alpha of a layer of ours, None where nothing says it."""
        own = _by_ending(self.alphas, layer)
        return self.alpha if own is None else own

    def check_rank(self, where: str, layer: str, rank: int) -> None:
        """Raises OddSettingsError when the matrices have another rank than the settings say."""
        own = _by_ending(self.ranks, layer)
        expected = self.rank if own is None else own
        if expected is not None and expected != rank and (own is not None or not self.patterns):
            raise OddSettingsError(
                f"{where}: {layer} has rank {rank}, {self.source} says {expected:g}: they are not of one adapter, so "
                f"alpha cannot be trusted; {PASS_ALPHA}"
            )


def read_adapter(path: str | Path, alpha: float | None = None, layers: Layers | None = None) -> Adapter:
    """Read an adapter from a file or folder of any form; the form is recognised by its names.

    ``alpha`` overrides the file's. ``layers`` are those of the model it is for; without it those of every public
    CogVideoX. Raises CheckpointError for unknown names, two names of one layer, a pair that is not whole, matrices that
    do not fit each other, and AlphaUnknownError for a file that does not say its alpha when none is given.
    """
    file = find_adapter(path)
    if alpha is not None:
        alpha = check_alpha(alpha, f"{file}: given", CheckpointError)
    tensors, metadata = _open(file)
    groups = _groups(file, tensors)
    matched, of_text = (layers or public_layers(tensors)).match(file, groups)
    passed = [f"{of_text} layers of a text encoder"] if of_text else []
    try:
        settings = read_settings(file, metadata)
    except OddSettingsError:
        if alpha is None:
            raise
        settings, passed = AdapterSettings(), ["settings in the file that cannot be used", *passed]
    origin = _origin(file, matched, metadata, not settings.source and _is_difference(matched, tensors))
    pairs, sources = dict[str, Pair](), list[str]()
    for each in matched:
        for layer, roles in _cut(each, tensors).items():
            pair = make_pair(str(file), layer, roles, 0.0)
            value, source = _alpha(file, each, pair, layer, tensors, alpha, settings, origin)
            pairs[layer] = replace(pair, alpha=value)
            sources.append(source)
    adapter = Adapter(pairs, origin, ", ".join(dict.fromkeys(sources)), tuple(passed))
    if "" in sources:
        raise AlphaUnknownError(
            f"{file}: does not say its alpha (rank {', '.join(map(str, adapter.ranks))}); {PASS_ALPHA}: the value it "
            "was trained with, or the rank for an effective scale of 1, as diffusers assumes. CogVideo's own trainer "
            "takes half the rank, SAT (DimensionX and other exports) 1"
        )
    return adapter


def adapted_layers(path: str | Path) -> list[str]:
    """The names of the layers that an adapter changes, by the names of its tensors. Raises CheckpointError."""
    file = find_adapter(path)
    tensors, _ = _open(file)
    matched, _ = public_layers(tensors).match(file, _groups(file, tensors))
    return [layer for each in matched for layer in each.layers]


def adapter_bytes(path: str | Path) -> dict[str, int]:
    """Bytes that an adapter adds to each layer it changes, in the precision of its file. Raises CheckpointError."""
    file = find_adapter(path)
    tensors, _ = _open(file)
    matched, _ = public_layers(tensors).match(file, _groups(file, tensors))
    layers = [pair for each in matched for pair in _cut(each, tensors).items()]
    return {layer: sum(tensor.nbytes for tensor in roles.values()) for layer, roles in layers}


def find_adapter(name: str | Path, download: bool = True) -> Path:
    """The file of an adapter, given it, a folder that holds one, or ``owner/name[:file][@revision]`` of the hub.

    download: False looks on this computer only. Raises CheckpointError.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        for name in (LORA_FILE, PEFT_FILE):
            if (path / name).is_file():
                return path / name
        if (path / "latest").is_file():
            return read_sat(path).path
        several = sorted(path.glob("*.safetensors"))
        if len(several) == 1:
            return several[0]
        raise CheckpointError(
            f"{path}: holds {len(several)} safetensors files and no {LORA_FILE}; "
            f"{belongs_after(path, 'name one file')}"
        )
    if (reference := read_reference(name)) is not None:
        return find_file(reference, (LORA_FILE, PEFT_FILE), download=download)
    if "\0" in str(name) or not path.is_file():
        raise CheckpointError(f"{short(str(name), 200)}: no such file or folder; check the path")
    return path


def read_settings(file: Path, metadata: Mapping[str, str]) -> AdapterSettings:
    """The settings of an adapter; PEFT keeps them in a file beside its weights. Raises OddSettingsError for what
    alpha given by hand makes good, CheckpointError for adapters of another kind.
    """
    config = file.parent / PEFT_CONFIG
    for key in (METADATA, FINETRAINERS):
        if key in metadata:
            where = f"{file}: metadata {key!r}"
            values = parse_json(metadata[key], where, error=OddSettingsError)
            return _of_peft(_of_transformer(_checked_object(values, where)), f"metadata {key}", where)
    if file.name == PEFT_FILE and config.is_file():
        values = _checked_object(read_json(config, error=OddSettingsError), str(config))
        return _of_peft(values, PEFT_CONFIG, str(config))
    for key in _ALPHA_KEYS:
        if metadata.get(key) not in (None, "", "None"):
            return AdapterSettings(f"metadata {key}", check_alpha(metadata[key], f"{file}: metadata {key!r}"))
    return AdapterSettings()


def _open(file: Path) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """The tensors of a file and the metadata of its header."""
    if file.suffix in SUFFIXES:
        return read_sat(file).tensors, {}
    tensors = read_file(file)
    return tensors, tensors.metadata


def _groups(file: Path, tensors: Mapping[str, Tensor]) -> list[LayerTensors]:
    """The tensors of an adapter by layer. Raises CheckpointError, which says where other weights belong."""
    if not is_adapter(tensors) and (where := belongs(file)):
        raise CheckpointError(f"{file}: holds no LoRA; {where}")
    return group_by_layer(file, tensors)


def _cut(matched: MatchedLayer, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by role for each of our layers; q, k and v held as one are cut apart."""
    cut: dict[str, dict[str, Tensor]] = {layer: {} for layer in matched.layers}
    for role, name in matched.group.names.items():
        if role == "alpha":
            continue
        rule = None if role == "a" else matched.rule
        pieces = [tensors[name]] * len(cut) if rule is None else rule.split(name, tensors[name])
        for layer, piece in zip(matched.layers, pieces, strict=True):
            cut[layer][role] = piece
    return cut


def _alpha(
    file: Path,
    matched: MatchedLayer,
    pair: Pair,
    layer: str,
    tensors: Mapping[str, Tensor],
    given: float | None,
    settings: AdapterSettings,
    origin: str,
) -> tuple[float, str]:
    """Alpha of a layer and where it was found, '' for nowhere."""
    own = matched.group.names.get("alpha")
    if own is not None and given is not None:
        return given, "given"
    if own is not None:
        tensor = tensors[own]
        if tensor.numel() != 1 or tensor.dtype == torch.bool:
            raise OddSettingsError(f"{file}: {own} {list(tensor.shape)} is not one number; {PASS_ALPHA}")
        return check_alpha(tensor.item(), f"{file}: {own}"), "tensors of the file"
    if given is None:
        settings.check_rank(str(file), layer, pair.rank)
    value = settings.alpha_of(layer) if given is None else given
    if value is None:
        return _convention(file, origin, matched, pair)
    source = settings.source if given is None else "given"
    if settings.rank_stabilised:
        return value * pair.rank**0.5, f"{source}, rank-stabilised"
    return value, source


def _convention(file: Path, origin: str, matched: MatchedLayer, pair: Pair) -> tuple[float, str]:
    """The alpha of a public file, or of all files of this kind, where all trainers of the kind agree; else 0 and ''."""
    name = matched.group.names["a"]
    entry = published_file(file)
    if entry is not None and (known := entry.alpha_of(pair.rank)) is not None:
        return known, f"convention of {entry.hub}: {entry.alpha if known != entry.alpha else f'{known:g}'}"
    if origin == "SAT":
        return 1.0, "convention of SAT: 1"
    if "down" in name.split(".")[-2:] or ".lora_down" in name or origin in ("ComfyUI", DIFFERENCE):
        return float(pair.rank), f"convention of {origin}: alpha = rank"
    if origin == "CogKit" and pair.rank == COGKIT[0]:
        return COGKIT[1], "convention of CogKit: 64"
    return 0.0, ""


def _is_difference(matched: list[MatchedLayer], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the patch convolution is among the layers, without alpha: no trainer adapts it, extraction does."""
    return any(
        tensors[each.group.names["a"]].ndim > 2
        for each in matched
        if each.layers == ("patch_embed.proj",) and "a" in each.group.names
    ) and not any("alpha" in each.group.names for each in matched)


def _origin(file: Path, matched: list[MatchedLayer], metadata: Mapping[str, str], difference: bool) -> str:
    """Which kind of trainer or exporter wrote the file, by its names."""
    spelled = [each.group.spelled for each in matched]
    before = matched[0].before
    rules = {
        "SAT": any(each.group.partition is not None for each in matched),
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


def _checked_object(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise OddSettingsError(f"{where}: not a JSON object; {PASS_ALPHA}")
    return values


def _of_transformer(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of the transformer alone, where the names say of which component of the model they are."""
    prefix = "transformer."
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    return own or {key: value for key, value in values.items() if "." not in key}


def _of_peft(values: Mapping[str, Any], source: str, where: str) -> AdapterSettings:
    """PEFT's settings, checked: those that mean another kind of adapter, or nothing sensible, are errors."""
    kind = values.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{where}: an adapter of type {short(kind)}, which is not run; LORA is")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REBASED):
        raise CheckpointError(
            f"{where}: init_lora_weights {short(start)} changes the weights under the adapter; convert it to a plain "
            "LoRA with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    alphas, unread = _literal(values.get("alpha_pattern"), f"{where}: alpha_pattern")
    if unread:
        raise OddSettingsError(
            f"{where}: alpha_pattern {short(unread[0])} is a regular expression; those of files are not run: "
            f"{PASS_ALPHA}"
        )
    ranks, unread = _literal(values.get("rank_pattern"), f"{where}: rank_pattern")
    alpha, rank = values.get("lora_alpha"), values.get("r")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise OddSettingsError(f"{where}: r {short(rank)} is not a rank; {PASS_ALPHA}")
    for switch in ("use_rslora", "use_dora", "lora_bias"):
        if not isinstance(values.get(switch, False), bool | None):
            raise OddSettingsError(f"{where}: {switch} {short(values[switch])} is neither true nor false")
    number = None if alpha is None else check_alpha(alpha, f"{where}: lora_alpha")
    stabilised = bool(values.get("use_rslora"))
    return AdapterSettings(source, number, rank, alphas, ranks, tuple(unread), stabilised)


def _literal(pattern: Any, where: str) -> tuple[dict[str, float], list[str]]:
    """Keys that are text, and those that are not. PEFT writes dots as they are or as ``\\.``."""
    literal, unread = dict[str, float](), list[str]()
    values = _checked_object({} if pattern is None else pattern, f"{where}: {short(pattern)}")
    for key, value in values.items():
        number = check_alpha(value, f"{where}: {short(key)}")
        plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".").replace("\\-", "-")
        if all(word.replace("_", "").replace("-", "").isalnum() for word in plain.split(".")):
            literal[plain] = number
        else:
            unread.append(key)
    return literal, unread


def _by_ending(values: Mapping[str, float], layer: str) -> float | None:
    """The value whose key is the layer's name or its end after a dot, the longest first."""
    words = layer.split(".") if values else []
    return next((values[end] for at in range(len(words)) if (end := ".".join(words[at:])) in values), None)

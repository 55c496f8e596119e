"""From the name of a tensor in an adapter's file to the layer of the model that it changes.

Trainers spell the same layer in many ways: ``transformer.transformer_blocks.0.attn1.to_q``,
``lora_unet__transformer_blocks_0_attn1_to_q``, ``base_model.model.module.transformer_blocks.0.attn1.processor.to_q``.
Names are compared by their letters and digits with the layers of the model at hand; what stands before the layer may
be any words. A name that fits two layers is an error that names both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from cogvideox.checkpoints.keymap import RenameRule, sat_transformer
from cogvideox.errors import CheckpointError, few, suggest
from cogvideox.presets import get_preset
from cogvideox.transformer.transformer import FlatPatch, Transformer

Role = Literal["a", "b", "bias", "magnitude", "alpha"]
MOST_NAME = 400  # letters of a tensor's name; the longest of public files has about 110
_ROLES: dict[str, Role] = {
    "lora_A": "a", "lora_down": "a", "matrix_A": "a",
    "lora_B": "b", "lora_up": "b", "matrix_B": "b",
    "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude",
    "alpha": "alpha", "lora_alpha": "alpha",
}  # fmt: skip
_HALVES: dict[str, Role] = {"down": "a", "up": "b", "alpha": "alpha"}  # after ``lora`` and ``to_q_lora``
_INSIDE = {"processor", "base_layer", "module", "original_module", "orig_mod", "fsdp_wrapped_module",
           "checkpoint_wrapped_module"}  # fmt: skip
_BEFORE = {"lora", "unet", "transformer", "dit", "model", "base", "module", "diffusion", "network", "net", "denoiser",
           "pipe", "pipeline", "state", "dict", "orig", "mod", "fsdp", "wrapped", "checkpoint"}  # fmt: skip
_TEXT = {"te", "te1", "te2", "te3", "t5", "t5xxl", "clip", "textencoder", "conditioner", "tokenizer"}
_ELSEWHERE = {
    "controlnet",
    "control",
    "vae",
    "encoder",
    "decoder",
    "single",
    "image",
    "clip",
    "adapter",
    "ip",
}
_EMBEDDING, _NORMS = "an embedding (textual inversion)", "full differences of norms (LyCORIS)"
_OTHER = {
    "hada_": "LoHa (LyCORIS)", "lokr_": "LoKr (LyCORIS)", "oft_": "OFT", "boft_": "BOFT",
    "lora_mid": "LoCon with a core between its matrices (LyCORIS)", "lora_E": "AdaLoRA",
    "lora_embedding_": "LoRA of an embedding", "ia3_": "IA3", "on_input": "IA3 (LyCORIS)", "vera_": "VeRA",
    "modules_to_save": "whole layers trained beside an adapter", "diff": "full differences of weights",
    "diff_b": "full differences of biases", "w_norm": _NORMS, "b_norm": _NORMS, "set_weight": "whole weights",
    "reshape_weight": "weights of another shape", "emb_params": _EMBEDDING, "string_to_param": _EMBEDDING,
    "bundle_emb": _EMBEDDING, "a1": "GLoRA (LyCORIS)", "b1": "GLoRA (LyCORIS)",
}  # fmt: skip
"""Words in the tensor names of other kinds of adapters; one that ends in an underscore begins a word."""


@dataclass(frozen=True)
class TensorName:
    """A name taken apart: the layer in the file's spelling, what the tensor is to it, and SAT's partition."""

    layer: str
    role: Role
    partition: int | None = None


@dataclass(frozen=True)
class LayerTensors:
    """The tensors of one layer in the file's spelling: their names by role, and SAT's partition."""

    spelled: str
    partition: int | None
    names: dict[Role, str]


@dataclass(frozen=True)
class Target:
    """A layer of the model, or several that the file holds as one, with the rule that cuts them apart."""

    layers: tuple[str, ...]
    rule: RenameRule | None = None


@dataclass(frozen=True)
class MatchedLayer:
    """Tensors of a file, our layers that they change, and the words before the layer in their spelling.

    Where the file holds several layers as one, ``rule`` cuts them apart.
    """

    group: LayerTensors
    layers: tuple[str, ...]
    rule: RenameRule | None
    before: tuple[str, ...]


def take_apart(name: str) -> TensorName | None:
    """Layer and role of a tensor of a LoRA; None for any other name."""
    if len(name) > MOST_NAME:
        return None
    words = name.split(".")
    for at in range(len(words) - 1, max(len(words) - 4, 0), -1):
        word, before, tail = words[at], words[at - 1], words[at + 1 :]
        role, layer = _ROLES.get(word), words[:at]
        if role is None and (before in ("lora", "lora_linear_layer") or before.endswith("_lora")):
            role, layer = _HALVES.get(word), words[: at - 1]
            if before.endswith("_lora"):
                layer = [*layer, before.removesuffix("_lora")]
        if role == "alpha" and before in ("lora", "lora_linear_layer"):
            layer = words[: at - 1]
        if role is None or not any(layer):
            continue
        if word.startswith("matrix_"):
            partition = tail[0] if len(tail) == 1 else ""
            known = partition.isdecimal() and partition.isascii() and len(partition) < 3
            return TensorName(".".join(layer), role, int(partition)) if known else None
        if tail and tail[-1] == "bias":
            return TensorName(".".join(layer), "bias") if role == "b" and len(tail) < 3 else None
        if len(tail) > 2 or (len(tail) == 2 and tail[-1] != "weight"):
            return None
        return TensorName(".".join(layer), role)
    return None


def other_kind(name: str) -> str | None:
    """What a tensor is that no LoRA holds, where it belongs to an adapter of another kind."""
    words = name[:MOST_NAME].split(".")[-4:]
    fits = (
        kind
        for word in words
        for known, kind in _OTHER.items()
        if word == known or (known.endswith("_") and word.startswith(known))
    )
    return next(fits, None)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether a file with these tensor names holds an adapter, of a kind that is run or not."""
    for name in names:
        parsed = take_apart(name)
        if other_kind(name) or (parsed is not None and parsed.role != "alpha"):
            return True
    return False


def is_of_text_encoder(name: str) -> bool:
    """Whether a layer that the transformer does not have belongs to a text encoder."""
    words = _words(name)[:4]
    after_text = {after for word, after in zip(words, words[1:], strict=False) if word == "text"}
    return bool(_TEXT & set(words) or {"encoder", "encoders", "model"} & after_text)


def group_by_layer(file: Path, names: Iterable[str]) -> list[LayerTensors]:
    """The tensor names of a file by the layer that they name. Raises CheckpointError for what no LoRA holds."""
    groups: dict[tuple[str, int | None], LayerTensors] = {}
    unknown, kinds = [], []
    for name in names:
        parsed = take_apart(name)
        if parsed is None:
            kind = other_kind(name)
            unknown.append(name)
            kinds += [kind] if kind else []
            continue
        key = parsed.layer, parsed.partition
        roles = groups.setdefault(key, LayerTensors(*key, {})).names
        if parsed.role in roles:
            raise CheckpointError(
                f"{file}: {few([roles[parsed.role], name])} are two of one kind for one layer; keep one of them"
            )
        roles[parsed.role] = name
    if any(group.partition is not None for group in groups.values()):
        # a SAT fine-tuning run saves the frozen weights too, under ``original``
        sat = sat_transformer()
        unknown = [
            name
            for name in unknown
            if not sat.knows(name.removeprefix(sat.prefix).replace(".original.", "."))
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


class Layers:
    """The layers of a model, found by the letters and digits of any spelling."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._known: dict[str, list[Target]] = {}
        for name in self.names:
            self._known.setdefault(_key(_words(name)), []).append(Target((name,)))
        others: dict[str, list[Target]] = {}
        for spelled, target in [*self._shortened(), *self._of_sat()]:
            same = others.setdefault(_key(_words(spelled)), [])
            if target not in same:
                same.append(target)
        for key, targets in others.items():
            self._known.setdefault(key, targets)

    def find(self, name: str) -> tuple[Target, tuple[str, ...]] | None:
        """The layer that a spelling means, and the words before it; None when there is none.

        Raises CheckpointError that names both layers when it fits two.
        """
        words = _words(".".join(word for word in name.split(".") if word.strip("_") not in _INSIDE))
        for start in range(len(words)):
            targets = self._known.get(_key(words[start:]))
            before = tuple(words[:start])
            if targets is None or any(word.isdecimal() or word in _ELSEWHERE | _TEXT for word in before):
                continue
            if len(targets) > 1:
                two = " and ".join(target.layers[0] for target in targets[:2])
                raise CheckpointError(f"{name}: fits two layers of this model, {two}; rename it in the file")
            return targets[0], before
        return None

    def match(self, file: Path, groups: Iterable[LayerTensors]) -> tuple[list[MatchedLayer], int]:
        """The layers that the tensors of a file change, and how many are of a text encoder, which are passed over.

        Raises CheckpointError for layers that this model does not have, and for two names of one layer.
        """
        matched, passed, unknown = list[MatchedLayer](), 0, []
        for group in groups:
            target, before = self.find(group.spelled) or (Target(()), ())
            at, layers = group.partition, target.layers
            if at is None and layers:
                matched.append(MatchedLayer(group, layers, target.rule, before))
            elif at is not None and at < len(layers):
                matched.append(MatchedLayer(group, layers[at : at + 1], None, before))
            elif is_of_text_encoder(group.spelled):
                passed += 1
            else:
                unknown.append(group.spelled)
        if len({each.before for each in matched}) > 1:
            # an unusual word before all names is a wrapper; before some, another network
            unknown += [each.group.spelled for each in matched if not _BEFORE.issuperset(each.before)]
        if unknown:
            hints = [name + suggest(name, self.names) for name in unknown[:5]]
            raise CheckpointError(
                f"{file}: layers that this kind of model does not have: {few(hints + unknown[5:])}"
            )
        if not matched:
            raise CheckpointError(
                f"{file}: adapts a text encoder alone ({passed} layers), which is not run here"
            )
        spelled: dict[str, str] = {}
        for each in matched:
            for layer in each.layers:
                if layer in spelled:
                    two = few([spelled[layer], each.group.spelled])
                    raise CheckpointError(f"{file}: {layer} has two names: {two}; keep one of them")
                spelled[layer] = each.group.spelled
        return matched, passed

    def _shortened(self) -> Iterable[tuple[str, Target]]:
        """``to_out`` for ``to_out.0``, ``blocks.0`` for ``transformer_blocks.0``."""
        for name in self.names:
            for shorter in (name, name.replace("transformer_blocks.", "blocks.", 1)):
                for spelled in {shorter, shorter.removesuffix(".0")} - {name}:
                    yield spelled, Target((name,))

    def _of_sat(self) -> Iterable[tuple[str, Target]]:
        """SAT's names, among them one for q, k and v together."""
        here = set(self.names)
        blocks = blocks_in(self.names)
        for rule in sat_transformer().rules:
            if not rule.foreign.endswith(".{wb}"):
                continue
            for block in blocks if "{i}" in rule.foreign else [0]:
                foreign, *ours = (
                    pattern.removesuffix(".{wb}").replace("{i}", str(block))
                    for pattern in (rule.foreign, *rule.ours)
                )
                if here.issuperset(ours):
                    yield foreign, Target(tuple(ours), rule if len(ours) > 1 else None)


def layers_of(module: nn.Module) -> list[str]:
    """The names of the layers that an adapter can change."""
    return [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear | FlatPatch)]


def public_layers(names: Iterable[str]) -> Layers:
    """The layers of any public CogVideoX transformer, with the blocks that occur in ``names``."""
    first, blocks = "transformer_blocks.0.", blocks_in(names)
    layers: list[str] = []
    for name in _one_block():
        repeated = name.startswith(first)
        rest = name.removeprefix(first)
        layers += [f"transformer_blocks.{block}.{rest}" for block in blocks] if repeated else [name]
    return Layers(layers)


def blocks_in(names: Iterable[str]) -> list[int]:
    """The numbers of blocks in names of any spelling."""
    blocks = set()
    for words in map(_words, names):
        for word, after in zip(words, words[1:], strict=False):
            lists = word.endswith(("blocks", "layers", "modulations", "list"))
            if lists and after.isdecimal() and len(after) <= 3:
                blocks.add(int(after))
    return sorted(blocks)


@cache
def _one_block() -> tuple[str, ...]:
    config = get_preset("1.5-5b-i2v").transformer.changed(num_layers=1)
    with torch.device("meta"):
        return tuple(layers_of(Transformer(config)))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name[:MOST_NAME].lower())


def _key(words: list[str]) -> str:
    """Letters and digits alone; two numbers side by side stay apart."""
    key = ""
    for word in words:
        key += f"-{word}" if key[-1:].isdecimal() and word[:1].isdecimal() else word
    return key

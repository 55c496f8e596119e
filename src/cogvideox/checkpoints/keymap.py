"""Rename rules that read both ways: foreign names to ours and back, splitting and joining rows where needed.

Our names are the diffusers names, so only SAT needs rules. A pattern is a name with ``{i}`` for a number, ``{wb}`` for
weight or bias and ``{rest}`` for any ending; both sides of a rule use the same holes, the first rule that matches wins,
and a name that no rule matches is an error that says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cogvideox.errors import CheckpointError, few


@dataclass(frozen=True)
class RenameRule:
    """One foreign name against one or several of ours.

    With several, the foreign tensor is cut along its first axis into equal chunks and ``chunks[k]`` lists those that
    make ``ours[k]``.
    """

    foreign: str
    ours: tuple[str, ...]
    chunks: tuple[tuple[int, ...], ...] = ((0,),)

    @property
    def chunk_count(self) -> int:
        """Into how many equal chunks the foreign tensor is cut."""
        return sum(len(numbers) for numbers in self.chunks)

    def split(self, name: str, tensor: Tensor) -> list[Tensor]:
        """A foreign tensor as ours, in the order of ``ours``; views where possible. Raises CheckpointError."""
        count = self.chunk_count
        if count == 1:
            return [tensor]
        if tensor.ndim == 0 or tensor.shape[0] % count:
            raise CheckpointError(
                f"{name}: shape {tuple(tensor.shape)} cannot be cut into {count} equal parts"
            )
        cut = tensor.chunk(count)
        return [torch.cat([cut[k] for k in ks]) if len(ks) > 1 else cut[ks[0]] for ks in self.chunks]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The foreign tensor from ours: the inverse of ``split``."""
        if self.chunk_count == 1:
            return tensors[0]
        pieces: dict[int, Tensor] = {}
        for numbers, tensor in zip(self.chunks, tensors, strict=True):
            pieces.update(zip(numbers, tensor.chunk(len(numbers)), strict=True))
        return torch.cat([pieces[k] for k in range(self.chunk_count)])


@dataclass(frozen=True)
class Keymap:
    """Ordered rules, a prefix that every foreign name carries, and foreign names that mean nothing to us."""

    rules: tuple[RenameRule, ...]
    prefix: str = ""
    drop: tuple[str, ...] = ()

    def drops(self, name: str) -> bool:
        """Whether a foreign name (without prefix) is known and unused."""
        return any(_match(pattern, name) is not None for pattern in self.drop)

    def knows(self, name: str) -> bool:
        """Whether a foreign name (without prefix) is renamed or dropped on purpose."""
        return self.drops(name) or self._first(name, foreign=True) is not None

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names for foreign tensors; raises CheckpointError that lists the names nobody knows."""
        ours: dict[str, Tensor] = {}
        unknown = []
        for name, tensor in tensors.items():
            short = name.removeprefix(self.prefix)
            if self.drops(short):
                continue
            hit = self._first(short, foreign=True)
            if hit is None:
                unknown.append(name)
                continue
            rule, holes = hit
            names = (_fill(pattern, holes) for pattern in rule.ours)
            ours.update(zip(names, rule.split(name, tensor), strict=True))
        if unknown:
            raise CheckpointError(
                f"unknown tensors: {few(unknown)}; is this the right kind of file and preset?"
            )
        return ours

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Foreign names, prefix included, for our tensors; raises CheckpointError on one without a rule."""
        theirs: dict[str, Tensor] = {}
        wrong = []
        for name in tensors:
            hit = self._first(name, foreign=False)
            names = [] if hit is None else [_fill(pattern, hit[1]) for pattern in hit[0].ours]
            if hit is None or not all(each in tensors for each in names):
                wrong.append(name)
                continue
            foreign = self.prefix + _fill(hit[0].foreign, hit[1])
            if foreign not in theirs:
                theirs[foreign] = hit[0].join([tensors[each] for each in names])
        if wrong:
            raise CheckpointError(f"tensors that the other format cannot hold: {few(wrong)}")
        return theirs

    def _first(self, name: str, foreign: bool) -> tuple[RenameRule, dict[str, str]] | None:
        for rule in self.rules:
            for pattern in (rule.foreign,) if foreign else rule.ours:
                holes = _match(pattern, name)
                if holes is not None:
                    return rule, holes
        return None


def _match(pattern: str, name: str) -> dict[str, str] | None:
    found = _compiled(pattern).fullmatch(name)
    return None if found is None else found.groupdict()


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")
    text = text.replace("{rest}", "(?P<rest>.+)").replace("{wb}", "(?P<wb>weight|bias)")
    return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>[0-9]+)", text))


def _fill(pattern: str, holes: Mapping[str, str]) -> str:
    for hole, value in holes.items():
        pattern = pattern.replace(f"{{{hole}}}", value)
    return pattern


def _rename(foreign: str, ours: str) -> RenameRule:
    return RenameRule(foreign, (ours,))


@cache
def sat_vae(stages: int = 4) -> Keymap:
    """SAT's autoencoder names; its decoder counts the up stages from the pixel side."""
    rules = [
        _rename(
            "encoder.down.{i}.block.{j}.nin_shortcut.{wb}",
            "encoder.down_blocks.{i}.resnets.{j}.conv_shortcut.{wb}",
        ),
        _rename("encoder.down.{i}.block.{j}.{rest}", "encoder.down_blocks.{i}.resnets.{j}.{rest}"),
        _rename("encoder.down.{i}.downsample.{rest}", "encoder.down_blocks.{i}.downsamplers.0.{rest}"),
    ]
    for stage in range(stages):
        theirs, ours = f"decoder.up.{stages - 1 - stage}", f"decoder.up_blocks.{stage}"
        rules += [
            _rename(theirs + ".block.{j}.nin_shortcut.{wb}", ours + ".resnets.{j}.conv_shortcut.{wb}"),
            _rename(theirs + ".block.{j}.{rest}", ours + ".resnets.{j}.{rest}"),
            _rename(theirs + ".upsample.{rest}", ours + ".upsamplers.0.{rest}"),
        ]
    for half in ("encoder", "decoder"):
        rules += [
            _rename(half + ".mid.block_1.{rest}", half + ".mid_block.resnets.0.{rest}"),
            _rename(half + ".mid.block_2.{rest}", half + ".mid_block.resnets.1.{rest}"),
            *(
                _rename(f"{half}.{same}.{{rest}}", f"{half}.{same}.{{rest}}")
                for same in ("conv_in", "norm_out", "conv_out")
            ),
        ]
    return Keymap(tuple(rules), drop=("loss.{rest}",))


@cache
def sat_transformer(learned_positions: bool = False) -> Keymap:
    """SAT's transformer names; the position table is a weight of 5B-I2V only, and frozen in 2B."""
    block, layer = "transformer_blocks.{i}.", "transformer.layers.{i}."
    position = "mixins.pos_embed.pos_embedding"
    rules = [
        _rename("time_embed.0.{wb}", "time_embedding.linear_1.{wb}"),
        _rename("time_embed.2.{wb}", "time_embedding.linear_2.{wb}"),
        _rename("ofs_embed.0.{wb}", "ofs_embedding.linear_1.{wb}"),
        _rename("ofs_embed.2.{wb}", "ofs_embedding.linear_2.{wb}"),
        _rename("mixins.patch_embed.proj.{wb}", "patch_embed.proj.{wb}"),
        _rename("mixins.patch_embed.text_proj.{wb}", "patch_embed.text_proj.{wb}"),
        # twelve chunks: (shift, scale, gate) of attention, then of the feed forward, for video, then for text
        RenameRule(
            "mixins.adaln_layer.adaLN_modulations.{i}.1.{wb}",
            (block + "norm1.linear.{wb}", block + "norm2.linear.{wb}"),
            ((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)),
        ),
        _rename("mixins.adaln_layer.query_layernorm_list.{i}.{wb}", block + "attn1.norm_q.{wb}"),
        _rename("mixins.adaln_layer.key_layernorm_list.{i}.{wb}", block + "attn1.norm_k.{wb}"),
        _rename("mixins.final_layer.norm_final.{wb}", "norm_out.norm.{wb}"),
        _rename("mixins.final_layer.adaLN_modulation.1.{wb}", "norm_out.linear.{wb}"),
        _rename("mixins.final_layer.linear.{wb}", "proj_out.{wb}"),
        _rename(layer + "input_layernorm.{wb}", block + "norm1.norm.{wb}"),
        _rename(layer + "post_attention_layernorm.{wb}", block + "norm2.norm.{wb}"),
        RenameRule(
            layer + "attention.query_key_value.{wb}",
            tuple(block + f"attn1.to_{letter}.{{wb}}" for letter in "qkv"),
            ((0,), (1,), (2,)),
        ),
        _rename(layer + "attention.dense.{wb}", block + "attn1.to_out.0.{wb}"),
        _rename(layer + "mlp.dense_h_to_4h.{wb}", block + "ff.net.0.proj.{wb}"),
        _rename(layer + "mlp.dense_4h_to_h.{wb}", block + "ff.net.2.{wb}"),
        _rename("transformer.final_layernorm.{wb}", "norm_final.{wb}"),
    ]
    drop = [
        "mixins.pos_embed.freqs_sin",
        "mixins.pos_embed.freqs_cos",
        "transformer.position_embeddings.weight",
    ]
    if learned_positions:
        rules.append(_rename(position, "patch_embed.pos_embedding"))
    else:
        drop.append(position)
    return Keymap(tuple(rules), prefix="model.diffusion_model.", drop=tuple(drop))

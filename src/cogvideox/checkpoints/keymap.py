"""Rename rules that read both ways: foreign names to ours and back, splitting and joining rows where needed.

Our names are the diffusers names, so the diffusers keymap is the identity and only SAT needs rules. A pattern
is a name with ``{i}`` for a number and ``{rest}`` for any ending; both sides of a rule use the same holes,
the first rule that matches wins, and a name that no rule matches is an error that says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from cogvideox.errors import CheckpointError

Rows = tuple[tuple[int, ...], ...]
MOST_SHOWN = 300  # letters of one name in a message


@dataclass(frozen=True)
class RenameRule:
    """One foreign name against one or several of ours.

    With several, the foreign tensor is cut along its first axis into equal chunks and ``rows[k]`` lists the
    chunks that make ``ours[k]``.
    """

    foreign: str
    ours: tuple[str, ...]
    rows: Rows = ((0,),)

    @property
    def chunks(self) -> int:
        """Into how many equal parts the foreign tensor is cut."""
        return sum(len(row) for row in self.rows)

    def split(self, name: str, tensor: Tensor) -> list[Tensor]:
        """The parts of a foreign tensor, in the order of ``ours``; views where possible."""
        if self.chunks == 1:
            return [tensor]
        if tensor.ndim == 0 or tensor.shape[0] % self.chunks:
            raise CheckpointError(
                f"{name}: shape {tuple(tensor.shape)} cannot be cut into {self.chunks} equal parts"
            )
        parts = tensor.chunk(self.chunks)
        return [parts[row[0]] if len(row) == 1 else torch.cat([parts[k] for k in row]) for row in self.rows]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The foreign tensor from its parts: the inverse of ``split``."""
        if self.chunks == 1:
            return tensors[0]
        pieces: dict[int, Tensor] = {}
        for row, tensor in zip(self.rows, tensors, strict=True):
            pieces.update(zip(row, tensor.chunk(len(row)), strict=True))
        return torch.cat([pieces[k] for k in range(self.chunks)])


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
        found: dict[str, Tensor] = {}
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
            found.update(zip(names, rule.split(name, tensor), strict=True))
        if unknown:
            raise CheckpointError(
                f"unknown tensors: {few(unknown)}; is this the right kind of file and preset?"
            )
        return found

    def to_foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Foreign names, prefix included, for our tensors; raises CheckpointError on one without a rule."""
        found: dict[str, Tensor] = {}
        wrong = []
        for name in tensors:
            hit = self._first(name, foreign=False)
            names = [] if hit is None else [_fill(pattern, hit[1]) for pattern in hit[0].ours]
            missing = [part for part in names if part not in tensors]
            if hit is None or missing:
                wrong.append(name)
                continue
            foreign = self.prefix + _fill(hit[0].foreign, hit[1])
            if foreign not in found:
                found[foreign] = hit[0].join([tensors[part] for part in names])
        if wrong:
            raise CheckpointError(f"tensors that the other format cannot hold: {few(wrong)}")
        return found

    def _first(self, name: str, foreign: bool) -> tuple[RenameRule, dict[str, str]] | None:
        for rule in self.rules:
            for pattern in (rule.foreign,) if foreign else rule.ours:
                holes = _match(pattern, name)
                if holes is not None:
                    return rule, holes
        return None


def few(names: Sequence[str], limit: int = 5) -> str:
    """The first names and how many there are in all, for a one-line message."""
    shown = ", ".join(
        name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}..." for name in names[:limit]
    )
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


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


DIFFUSERS = Keymap(rules=(_rename("{rest}", "{rest}"),))
"""The identity: our parameters carry the diffusers names."""


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
        # twelve chunks: (shift, scale, gate) of attention, then of the feed forward, for video and then for
        # text
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

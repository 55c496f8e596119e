"""Rules that rename SAT's tensors to ours and back, and split or join them along the first axis where needed.

Our names are those of diffusers, so only SAT needs rules. A pattern is a name with ``{i}`` for a number, ``{wb}`` for
weight or bias and ``{rest}`` for any ending; both sides of a rule use the same placeholders,
the first rule that matches wins, and a name that no rule matches is an error.
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
    """Renames one foreign tensor to one or several of ours.

    With several, the foreign tensor is cut along its first axis into equal chunks and ``chunks[k]`` lists those that
    make ``ours[k]``.
    """

    foreign: str
    ours: tuple[str, ...]
    chunks: tuple[tuple[int, ...], ...] = ((0,),)

    @property
    def chunk_count(self) -> int:
        """Number of equal chunks that the foreign tensor is cut into."""
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
    """The names of one foreign format: rules in order, a ``prefix`` of every foreign name, and names to ``drop``, which
    we do not need."""

    rules: tuple[RenameRule, ...]
    prefix: str = ""
    drop: tuple[str, ...] = ()

    def drops(self, name: str) -> bool:
        """Whether a foreign name (without prefix) is known and unused."""
        return any(_compiled(pattern).fullmatch(name) for pattern in self.drop)

    def knows(self, name: str) -> bool:
        """Whether a foreign name (without prefix) is renamed or dropped on purpose."""
        return self.drops(name) or self._first(name, foreign=True) is not None

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names for foreign tensors; raises CheckpointError that lists unknown names."""
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
                if (match := _compiled(pattern).fullmatch(name)) is not None:
                    return rule, match.groupdict()
        return None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")
    text = text.replace("{rest}", "(?P<rest>.+)").replace("{wb}", "(?P<wb>weight|bias)")
    return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>[0-9]+)", text))


def _fill(pattern: str, holes: Mapping[str, str]) -> str:
    for hole, value in holes.items():
        pattern = pattern.replace(f"{{{hole}}}", value)
    return pattern


def _rules(table: str) -> list[RenameRule]:
    """A rule for each line of a table: the foreign name, then ours."""
    lines = (line.split() for line in table.strip().splitlines())
    return [RenameRule(foreign, (ours,)) for foreign, ours in lines]


SAT_VAE = """
encoder.down.{i}.block.{j}.nin_shortcut.{wb}   encoder.down_blocks.{i}.resnets.{j}.conv_shortcut.{wb}
encoder.down.{i}.block.{j}.{rest}              encoder.down_blocks.{i}.resnets.{j}.{rest}
encoder.down.{i}.downsample.{rest}             encoder.down_blocks.{i}.downsamplers.0.{rest}
"""
SAT_VAE_UP = """
decoder.up.THEIRS.block.{j}.nin_shortcut.{wb}  decoder.up_blocks.OURS.resnets.{j}.conv_shortcut.{wb}
decoder.up.THEIRS.block.{j}.{rest}             decoder.up_blocks.OURS.resnets.{j}.{rest}
decoder.up.THEIRS.upsample.{rest}              decoder.up_blocks.OURS.upsamplers.0.{rest}
"""
SAT_VAE_HALF = """
HALF.mid.block_1.{rest}                        HALF.mid_block.resnets.0.{rest}
HALF.mid.block_2.{rest}                        HALF.mid_block.resnets.1.{rest}
HALF.conv_in.{rest}                            HALF.conv_in.{rest}
HALF.norm_out.{rest}                           HALF.norm_out.{rest}
HALF.conv_out.{rest}                           HALF.conv_out.{rest}
"""
SAT_TRANSFORMER = """
time_embed.0.{wb}                                      time_embedding.linear_1.{wb}
time_embed.2.{wb}                                      time_embedding.linear_2.{wb}
ofs_embed.0.{wb}                                       ofs_embedding.linear_1.{wb}
ofs_embed.2.{wb}                                       ofs_embedding.linear_2.{wb}
mixins.patch_embed.proj.{wb}                           patch_embed.proj.{wb}
mixins.patch_embed.text_proj.{wb}                      patch_embed.text_proj.{wb}
mixins.adaln_layer.query_layernorm_list.{i}.{wb}       transformer_blocks.{i}.attn1.norm_q.{wb}
mixins.adaln_layer.key_layernorm_list.{i}.{wb}         transformer_blocks.{i}.attn1.norm_k.{wb}
mixins.final_layer.norm_final.{wb}                     norm_out.norm.{wb}
mixins.final_layer.adaLN_modulation.1.{wb}             norm_out.linear.{wb}
mixins.final_layer.linear.{wb}                         proj_out.{wb}
transformer.layers.{i}.input_layernorm.{wb}            transformer_blocks.{i}.norm1.norm.{wb}
transformer.layers.{i}.post_attention_layernorm.{wb}   transformer_blocks.{i}.norm2.norm.{wb}
transformer.layers.{i}.attention.dense.{wb}            transformer_blocks.{i}.attn1.to_out.0.{wb}
transformer.layers.{i}.mlp.dense_h_to_4h.{wb}          transformer_blocks.{i}.ff.net.0.proj.{wb}
transformer.layers.{i}.mlp.dense_4h_to_h.{wb}          transformer_blocks.{i}.ff.net.2.{wb}
transformer.final_layernorm.{wb}                       norm_final.{wb}
"""
SAT_JOINED = (
    # twelve chunks: (shift, scale, gate) of attention, then of the feed forward, for video, then for text
    RenameRule(
        "mixins.adaln_layer.adaLN_modulations.{i}.1.{wb}",
        ("transformer_blocks.{i}.norm1.linear.{wb}", "transformer_blocks.{i}.norm2.linear.{wb}"),
        ((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)),
    ),
    RenameRule(
        "transformer.layers.{i}.attention.query_key_value.{wb}",
        tuple(f"transformer_blocks.{{i}}.attn1.to_{letter}.{{wb}}" for letter in "qkv"),
        ((0,), (1,), (2,)),
    ),
)
SAT_UNUSED = (
    "mixins.pos_embed.freqs_sin",
    "mixins.pos_embed.freqs_cos",
    "transformer.position_embeddings.weight",
)
SAT_POSITIONS = "mixins.pos_embed.pos_embedding"


@cache
def sat_vae(stages: int = 4) -> Keymap:
    """SAT's autoencoder names; its decoder numbers the up stages from the pixel side."""
    rules = _rules(SAT_VAE)
    for stage in range(stages):
        rules += _rules(SAT_VAE_UP.replace("THEIRS", str(stages - 1 - stage)).replace("OURS", str(stage)))
    for half in ("encoder", "decoder"):
        rules += _rules(SAT_VAE_HALF.replace("HALF", half))
    return Keymap(tuple(rules), drop=("loss.{rest}",))


@cache
def sat_transformer(learned_positions: bool = False) -> Keymap:
    """SAT's transformer names; the position table is a weight of 5B-I2V only, and frozen in 2B."""
    positions = RenameRule(SAT_POSITIONS, ("patch_embed.pos_embedding",))
    rules = (*_rules(SAT_TRANSFORMER), *SAT_JOINED, *((positions,) if learned_positions else ()))
    drop = SAT_UNUSED if learned_positions else (*SAT_UNUSED, SAT_POSITIONS)
    return Keymap(rules, prefix="model.diffusion_model.", drop=drop)

"""Sequence parallelism of the transformer: each rank holds a range of the joint text and video sequence.

Everything but attention works token by token. Ulysses exchanges all tokens of some heads for some tokens of all heads,
so any attention function and packed sequences work as they are; ring attention serves more ranks than heads. Neither
needs a length, a height or a number of heads that divides.

Each rank computes the whole output and the same loss; the mean of their gradients is that of one process, as in data
parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogvideox.errors import ConfigError
from cogvideox.parallel.exchange import Group, all_gather_cat, all_to_all
from cogvideox.parallel.ring import ring_attention
from cogvideox.transformer import Transformer
from cogvideox.transformer.attention import Attention, AttentionFn, Heads, attend, split_attention
from cogvideox.transformer.layout import ClipTokens, Layout, Segment

SequenceParallel = Literal["auto", "ulysses", "ring"]


@dataclass(frozen=True)
class TokenRange(Layout):
    """The tokens ``start`` to ``stop`` of a sequence. Segments without tokens stay, so that every weight is used."""

    start: int = 0
    stop: int = 0

    @property
    def whole(self) -> Layout:
        """The layout of the whole sequence."""
        return Layout(self.clips)

    @property
    def is_plain(self) -> bool:
        """Never: an attention function is given a range of tokens and not a clip."""
        return False

    def _segments(self) -> tuple[Segment, ...]:
        segments, first = [], 0
        for segment in self.whole.segments:
            last = first + segment.length
            here = max(0, min(last, self.stop) - max(first, self.start))
            segments.append(Segment(segment.clip, segment.modality, here))
            first = last
        return tuple(segments)


def split_sizes(count: int, ranks: int) -> tuple[int, ...]:
    """``count`` things for ``ranks``, as equal as can be; the first ones have one more."""
    each, more = divmod(count, ranks)
    return tuple(each + (rank < more) for rank in range(ranks))


@dataclass(frozen=True)
class SequenceParallelAttention:
    """An attention function for sequences split over the ranks of a group; for whole ones it is ``inner``."""

    inner: AttentionFn
    group: Group
    way: SequenceParallel

    def __call__(self, q: Heads, k: Heads, v: Heads, clip: ClipTokens) -> Heads:
        return self.inner(q, k, v, clip)

    def packed(self, q: Heads, k: Heads, v: Heads, layout: Layout) -> Heads:
        """The output for this rank's tokens; ``q``, ``k``, ``v`` hold this rank's tokens of all heads."""
        if not isinstance(layout, TokenRange):
            return attend(self.inner, q, k, v, layout)
        lengths = split_sizes(layout.tokens, dist.get_world_size(self.group))
        if self.way == "ring":
            clips = None if len(layout.clips) == 1 else layout.whole.clip().to(q.device)
            return ring_attention(q, k, v, lengths, self.group, clips)
        heads = split_sizes(q.shape[1], dist.get_world_size(self.group))
        q, k, v = heads_for_tokens(torch.stack([q, k, v]), heads, lengths, self.group)
        return tokens_for_heads(attend(self.inner, q, k, v, layout.whole), heads, lengths, self.group)


def heads_for_tokens(x: Tensor, heads: tuple[int, ...], lengths: tuple[int, ...], group: Group) -> Tensor:
    """All heads of this rank's tokens to its heads of all tokens: [..., k, n_local, e] -> [..., k_local, n, e]."""
    rank, (*rest, _, n, e) = dist.get_rank(group), x.shape
    size = prod(rest) * e
    flat = torch.cat([chunk.reshape(-1) for chunk in x.split(heads, dim=-3)])
    take = [size * heads[rank] * length for length in lengths]
    chunks = all_to_all(flat, [size * h * n for h in heads], take, group).split(take)
    shaped = (p.view(*rest, heads[rank], length, e) for p, length in zip(chunks, lengths, strict=True))
    return torch.cat([*shaped], dim=-2)


def tokens_for_heads(x: Tensor, heads: tuple[int, ...], lengths: tuple[int, ...], group: Group) -> Tensor:
    """The inverse: this rank's heads of all tokens to all heads of its tokens."""
    rank, (*rest, k, _, e) = dist.get_rank(group), x.shape
    size = prod(rest) * e
    flat = torch.cat([chunk.reshape(-1) for chunk in x.split(lengths, dim=-2)])
    take = [size * h * lengths[rank] for h in heads]
    chunks = all_to_all(flat, [size * k * length for length in lengths], take, group).split(take)
    shaped = (p.view(*rest, h, lengths[rank], e) for p, h in zip(chunks, heads, strict=True))
    return torch.cat([*shaped], dim=-3)


def split_sequence(
    transformer: Transformer, group: Group, way: SequenceParallel = "auto"
) -> Callable[[], None]:
    """Let ``group`` share every sequence that goes through ``transformer``; returns what undoes it.

    ``auto``: Ulysses up to one rank a head, ring beyond. Raises ConfigError for more ranks than heads with
    Ulysses, and for ring with separated attention.
    """
    ranks, heads = dist.get_world_size(group), transformer.config.num_attention_heads
    chosen: SequenceParallel = way if way != "auto" else "ulysses" if ranks <= heads else "ring"
    if chosen == "ulysses" and ranks > heads:
        raise ConfigError(f"{ranks} ranks, {heads} heads: Ulysses gives each rank a head; use way ring")
    modules = [m for m in transformer.modules() if isinstance(m, Attention)]
    if chosen == "ring" and any(m.attn_fn is split_attention for m in modules):
        raise ConfigError("ring: separated attention sees frames and patches; use way ulysses")
    attn_fns = [(module, module.attn_fn) for module in modules]
    for module, attn_fn in attn_fns:
        module.attn_fn = SequenceParallelAttention(attn_fn, group, chosen)
    blocks = transformer.transformer_blocks
    take = partial(_take_local_tokens, group)
    hooks = [block.register_forward_pre_hook(take(first=i == 0)) for i, block in enumerate(blocks)]
    hooks.append(blocks[-1].register_forward_hook(_gather_tokens(group)))

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for module, attn_fn in attn_fns:
            module.attn_fn = attn_fn

    return undo


def token_range(layout: Layout, group: Group) -> TokenRange:
    """This rank's tokens of a sequence. Raises ConfigError for fewer tokens than ranks."""
    if isinstance(layout, TokenRange):
        return layout
    lengths, rank = split_sizes(layout.tokens, dist.get_world_size(group)), dist.get_rank(group)
    if not lengths[-1]:
        raise ConfigError(f"{layout.tokens} tokens over {len(lengths)} ranks: each rank needs one; use fewer")
    start = sum(lengths[:rank])
    return TokenRange(layout.clips, start, start + lengths[rank])


def _take_local_tokens(group: Group, first: bool) -> Callable[[nn.Module, tuple], tuple]:
    def before(block: nn.Module, given: tuple) -> tuple:
        x, temb, rotary_emb, layout = given
        part = token_range(layout, group)
        if first:
            x = x[:, part.start : part.stop].contiguous()
        return x, temb, rotary_emb if rotary_emb is None else rotary_emb[part.start : part.stop], part

    return before


def _gather_tokens(group: Group) -> Callable[[nn.Module, tuple, Any], Tensor]:
    def after(block: nn.Module, given: tuple, x: Tensor) -> Tensor:
        return all_gather_cat(x, split_sizes(given[3].tokens, dist.get_world_size(group)), 1, group)

    return after

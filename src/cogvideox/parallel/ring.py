"""Ring attention (Liu et al. 2023), exact: each rank keeps its queries; keys and values are sent from rank to rank.

Each round attends to one rank's keys; partial softmaxes are combined by their log-sum-exp. The backward pass sends keys
and values round once more, with their gradients, until these are back on the rank that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from cogvideox.parallel.exchange import Group, send_right

Heads = Float[Tensor, "b k n e"]
MOST_SCORES = 2**26
"""Attention scores in memory at once, at most; more queries are computed in chunks."""


def ring_attention(
    q: Heads, k: Heads, v: Heads, lengths: Sequence[int], group: Group, clips: Int[Tensor, " n"] | None = None
) -> Heads:
    """Full attention of this rank's queries over all ranks' keys; ``lengths``: tokens of each rank.

    ``clips``: the clip of every token of the whole sequence; tokens attend to their own clip only.
    """
    return _Ring.apply(q, k, v, tuple(lengths), group, clips)


class _Ring(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: tuple, group: Group, clips: Any
    ) -> Tensor:
        out = torch.zeros_like(q, dtype=torch.float32)
        total = torch.full(q.shape[:3], -torch.inf, device=q.device)  # log of the sum of exponentials so far
        kv = torch.stack([k, v])
        for owner, last in _owners(lengths, group):
            for queries, scores in _scores(q, kv[0], _mask(clips, lengths, group, owner)):
                lse = scores.logsumexp(-1)
                chunk = torch.exp(scores - _finite(lse)[..., None]) @ kv[1].float()
                both = torch.logaddexp(total[:, :, queries], lse)
                old, new = (torch.exp(x - both)[..., None] for x in (total[:, :, queries], lse))
                out[:, :, queries] = out[:, :, queries] * old + chunk * new
                total[:, :, queries] = both
            if not last:
                kv = send_right(kv, _left_of(owner, lengths), 3, group)
        ctx.save_for_backward(q, k, v, out, total)
        ctx.lengths, ctx.group, ctx.clips = lengths, group, clips
        return out.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, total = ctx.saved_tensors
        lengths, group = ctx.lengths, ctx.group
        scale, grad = q.shape[-1] ** -0.5, grad.float()
        drift = (grad * out).sum(-1, keepdim=True)
        dq = torch.zeros_like(q, dtype=torch.float32)
        kv = torch.stack([k.float(), v.float(), *(torch.zeros_like(k, dtype=torch.float32) for _ in "kv")])
        for owner, _ in _owners(lengths, group):
            keys, values, dk, dv = kv
            for queries, scores in _scores(q, keys, _mask(ctx.clips, lengths, group, owner)):
                weights = torch.exp(scores - total[:, :, queries, None])
                dv += weights.mT @ grad[:, :, queries]
                slope = weights * (grad[:, :, queries] @ values.mT - drift[:, :, queries]) * scale
                dq[:, :, queries] += slope @ keys
                dk += slope.mT @ q[:, :, queries].float()
            kv = send_right(kv, _left_of(owner, lengths), 3, group)  # the last round brings them back
        return dq.to(q.dtype), kv[2].to(k.dtype), kv[3].to(v.dtype), None, None, None


def _owners(lengths: Sequence[int], group: Group) -> Iterator[tuple[int, bool]]:
    """The rank whose keys are here in each round, and whether it is the last round."""
    rank, size = dist.get_rank(group), len(lengths)
    for done in range(size):
        yield (rank - done) % size, done == size - 1


def _left_of(owner: int, lengths: Sequence[int]) -> int:
    """Number of keys that arrive next: those of the rank before ``owner``."""
    return lengths[(owner - 1) % len(lengths)]


def _mask(clips: Tensor | None, lengths: tuple, group: Group, owner: int) -> Tensor | None:
    """Which of the owner's keys this rank's queries may attend to; None for all."""
    if clips is None:
        return None
    by_rank = clips.split(lengths)
    return by_rank[dist.get_rank(group)][:, None] == by_rank[owner][None]


def _scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, Float[Tensor, "b k s m"]]]:
    """Scaled scores in float32, some queries at a time."""
    b, heads, n, e = q.shape
    most = max(1, MOST_SCORES // max(1, b * heads * k.shape[2]))
    for start in range(0, n, most):
        queries = slice(start, min(n, start + most))
        scores = (q[:, :, queries].float() * e**-0.5) @ k.float().mT
        if mask is not None:
            scores = scores.masked_fill(~mask[queries].to(q.device), -torch.inf)
        yield queries, scores


def _finite(lse: Tensor) -> Tensor:
    """Replace infinite log-sum-exps (rows without any allowed key) by 0, so that differences with them are not NaN."""
    return torch.where(lse.isinf(), 0.0, lse)

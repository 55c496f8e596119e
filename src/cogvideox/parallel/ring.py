"""Ring attention: everybody keeps their queries, keys and values go round (Liu et al. 2023), exactly.

Each round attends to one rank's keys; parts of the softmax are joined by their log-sum-exp. Backwards the same round
is made once more, and the gradients of keys and values travel with them until they are home.
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
"""Scores computed at once; longer rows of queries are taken in parts."""


def ring_attention(
    q: Heads, k: Heads, v: Heads, lengths: Sequence[int], group: Group, clips: Int[Tensor, " n"] | None = None
) -> Heads:
    """Full attention of my queries over everybody's keys; ``lengths``: tokens of each rank.

    ``clips``: the clip of every token of the whole row; tokens see their own clip only.
    """
    return _Ring.apply(q, k, v, tuple(lengths), group, clips)


class _Ring(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: tuple, group: Group, clips: Any
    ) -> Tensor:
        out = torch.zeros_like(q, dtype=torch.float32)
        total = torch.full(q.shape[:3], -torch.inf, device=q.device)  # log of the sum of exponentials so far
        turn = torch.stack([k, v])
        for owner, last in _owners(lengths, group):
            for rows, scores in _scores(q, turn[0], _seen(clips, lengths, group, owner)):
                lse = scores.logsumexp(-1)
                part = torch.exp(scores - _finite(lse)[..., None]) @ turn[1].float()
                both = torch.logaddexp(total[:, :, rows], lse)
                old, new = (torch.exp(x - both)[..., None] for x in (total[:, :, rows], lse))
                out[:, :, rows] = out[:, :, rows] * old + part * new
                total[:, :, rows] = both
            if not last:
                turn = send_right(turn, _left_of(owner, lengths), 3, group)
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
        turn = torch.stack([k.float(), v.float(), *(torch.zeros_like(k, dtype=torch.float32) for _ in "kv")])
        for owner, _ in _owners(lengths, group):
            keys, values, dk, dv = turn
            for rows, scores in _scores(q, keys, _seen(ctx.clips, lengths, group, owner)):
                share = torch.exp(scores - total[:, :, rows, None])
                dv += share.mT @ grad[:, :, rows]
                slope = share * (grad[:, :, rows] @ values.mT - drift[:, :, rows]) * scale
                dq[:, :, rows] += slope @ keys
                dk += slope.mT @ q[:, :, rows].float()
            turn = send_right(turn, _left_of(owner, lengths), 3, group)  # the last one brings them home
        return dq.to(q.dtype), turn[2].to(k.dtype), turn[3].to(v.dtype), None, None, None


def _owners(lengths: Sequence[int], group: Group) -> Iterator[tuple[int, bool]]:
    """Whose keys I hold in each round, and whether it is the last."""
    rank, size = dist.get_rank(group), len(lengths)
    for done in range(size):
        yield (rank - done) % size, done == size - 1


def _left_of(owner: int, lengths: Sequence[int]) -> int:
    """How many keys come next: those of the rank before the owner of these."""
    return lengths[(owner - 1) % len(lengths)]


def _seen(clips: Tensor | None, lengths: tuple, group: Group, owner: int) -> Tensor | None:
    """Which of the owner's keys my queries may see; None for all."""
    if clips is None:
        return None
    parts = clips.split(lengths)
    return parts[dist.get_rank(group)][:, None] == parts[owner][None]


def _scores(q: Tensor, k: Tensor, seen: Tensor | None) -> Iterator[tuple[slice, Float[Tensor, "b k s m"]]]:
    """Scaled scores in float32, some rows of queries at a time."""
    b, heads, n, e = q.shape
    most = max(1, MOST_SCORES // max(1, b * heads * k.shape[2]))
    for start in range(0, n, most):
        rows = slice(start, min(n, start + most))
        scores = (q[:, :, rows].float() * e**-0.5) @ k.float().mT
        if seen is not None:
            scores = scores.masked_fill(~seen[rows].to(q.device), -torch.inf)
        yield rows, scores


def _finite(lse: Tensor) -> Tensor:
    """Where nothing is seen the sum is zero; its logarithm must not make NaN of the differences."""
    return torch.where(lse.isinf(), 0.0, lse)

"""Collectives with exact gradients: all-reduce, all-gather, all-to-all, frames from the left neighbour.

The backward pass of each sends gradients the opposite way. With one rank each is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

Group = dist.ProcessGroup


def all_reduce(x: Tensor, group: Group) -> Tensor:
    """The sum of ``x`` over all ranks; gradients are summed too, since the loss of every rank depends on the sum."""
    return _Sum.apply(x, group)


def from_left(tail: Tensor, start: Tensor | None, frames: int, group: Group) -> Tensor:
    """The ``frames`` frames (dim 2) before this rank's; ``start`` is what the first rank has there, None elsewhere.

    ``tail``: this rank's last frames, ``frames`` of them or all it has. A rank with fewer sends its neighbour frames of
    its own left neighbour too. The gradient of what was received goes back to the rank that sent it.
    """
    return _FromLeft.apply(tail, start, frames, group)


def all_gather_cat(x: Tensor, lengths: Sequence[int], dim: int, group: Group) -> Tensor:
    """torch.cat of all ranks' ``x`` along ``dim``, of these ``lengths``. Summed gradients return to the owners."""
    return _Joined.apply(x, tuple(lengths), dim, group)


def all_to_all(x: Tensor, give: Sequence[int], take: Sequence[int], group: Group) -> Tensor:
    """A flat ``x`` cut into one chunk for each rank; returns what all ranks cut for this one, in their order.

    ``give`` and ``take``: the lengths of the chunks sent and received. Gradients travel the opposite way.
    """
    return _Swap.apply(x, list(give), list(take), group)


def send_right(x: Tensor, length: int, dim: int, group: Group) -> Tensor:
    """Send ``x`` to the right neighbour in a ring; returns the left one's, ``length`` along ``dim``. No gradients."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    got = x.new_empty([length if i == dim % x.ndim else n for i, n in enumerate(x.shape)])
    _exchange(group, send=((rank + 1) % size, x), receive=((rank - 1) % size, got))
    return got


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _FromLeft(Function):
    @staticmethod
    def forward(ctx: Any, tail: Tensor, start: Tensor | None, frames: int, group: Group) -> Tensor:
        rank, size, have = dist.get_rank(group), dist.get_world_size(group), tail.shape[2]
        ctx.group, ctx.have, ctx.missing = group, have, frames - have
        held = start
        if held is None:
            held = tail.new_empty(*tail.shape[:2], frames, *tail.shape[3:])
        sends = rank + 1 < size
        if have < frames or rank == 0:  # what is sent holds what is received: one after the other
            if rank:
                _exchange(group, receive=(rank - 1, held))
            if sends:
                whole = torch.cat([held[:, :, have:], tail], dim=2) if have < frames else tail
                _exchange(group, send=(rank + 1, whole))
        else:
            _exchange(group, send=(rank + 1, tail) if sends else None, receive=(rank - 1, held))
        return held.clone() if held is start else held

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        group, have, missing = ctx.group, ctx.have, ctx.missing
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        shape = (*grad.shape[:2], have + missing, *grad.shape[3:])
        back = grad.new_zeros(shape)  # the gradient of what was sent
        receives = rank + 1 < size
        total = grad.clone(memory_format=torch.contiguous_format)
        if missing or rank == 0:
            if receives:
                _exchange(group, receive=(rank + 1, back))
            total[:, :, have:] += back[:, :, :missing]
            if rank:
                _exchange(group, send=(rank - 1, total))
        else:
            _exchange(group, send=(rank - 1, total), receive=(rank + 1, back) if receives else None)
        return back[:, :, missing:], total if rank == 0 else None, None, None


class _Joined(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: tuple[int, ...], dim: int, group: Group) -> Tensor:
        ctx.lengths, ctx.dim, ctx.group = lengths, dim, group
        return torch.cat(all_gather(x, lengths, dim, group), dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.split(ctx.lengths, ctx.dim)[dist.get_rank(ctx.group)], None, None, None


class _Swap(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, give: list[int], take: list[int], group: Group) -> Tensor:
        ctx.give, ctx.take, ctx.group = give, take, group
        return _swap(x, give, take, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _swap(grad, ctx.take, ctx.give, ctx.group), None, None, None


def _swap(x: Tensor, give: list[int], take: list[int], group: Group) -> Tensor:
    got = x.new_empty(sum(take))
    dist.all_to_all_single(got, x.contiguous(), take, give, group=group)
    return got


def all_gather(x: Tensor, lengths: Sequence[int], dim: int, group: Group) -> list[Tensor]:
    """The ``x`` of every rank, of these ``lengths`` along ``dim``. Without gradients."""
    longest = max(lengths)
    padded = x.new_zeros([longest if i == dim % x.ndim else n for i, n in enumerate(x.shape)])
    padded.narrow(dim, 0, x.shape[dim]).copy_(x)
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded, group=group)
    return [x.narrow(dim, 0, length) for x, length in zip(received, lengths, strict=True)]


def _exchange(
    group: Group, send: tuple[int, Tensor] | None = None, receive: tuple[int, Tensor] | None = None
) -> None:
    """Send to one rank of the group and receive from one, both at once."""
    calls = []
    if send is not None:
        calls.append(dist.P2POp(dist.isend, send[1].contiguous(), group=group, group_peer=send[0]))
    if receive is not None:
        calls.append(dist.P2POp(dist.irecv, receive[1], group=group, group_peer=receive[0]))
    if calls:
        for work in dist.batch_isend_irecv(calls):
            work.wait()

"""How the answers of guidance become one prediction: the formulas, on tensors [b, ...] of one dtype.

Sums and norms are taken over everything but the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Answer = Float[Tensor, "b *dims"]


def classifier_free(negative: Answer, prompt: Answer, scale: float) -> Answer:
    """negative + scale (prompt - negative)."""
    return torch.add(negative, prompt - negative, alpha=scale)


def zero_star(negative: Answer, prompt: Answer, scale: float) -> Answer:
    """The same with the negative answer projected on the other: a = <prompt, negative> / (|negative|^2 + 1e-8)."""
    p, n = prompt.flatten(1), negative.flatten(1)
    a = (p * n).sum(1) / (n.square().sum(1) + 1e-8)
    return classifier_free(negative * _as(a, negative), prompt, scale)


def projected(
    negative: Answer, prompt: Answer, difference: Answer, scale: float, eta: float, norm: float
) -> Answer:
    """negative + scale (orthogonal + eta parallel), the parts of ``difference`` across and along ``prompt``.

    A difference longer than ``norm`` (0: any) is shortened to it first. The split is computed in float64, as in
    diffusers: the parts are small differences of large sums.
    """
    d = difference.flatten(1)
    if norm > 0:
        d = d * (norm / d.norm(dim=1, keepdim=True)).clamp(max=1.0)
    wide = torch.float32 if d.device.type == "mps" else torch.float64  # which has no float64
    direction = F.normalize(prompt.flatten(1).to(wide), dim=1)
    parallel = (d.to(wide) * direction).sum(1, keepdim=True) * direction
    update = (d.to(wide) - parallel).to(d.dtype) + eta * parallel.to(d.dtype)
    return torch.add(negative, update.view_as(negative), alpha=scale)


def rescaled(guided: Answer, prompt: Answer, share: float) -> Answer:
    """Part of the way to the spread of the prompt's answer: guided (share std(prompt) / std(guided) + 1 - share)."""
    ratio = prompt.flatten(1).std(1) / guided.flatten(1).std(1)
    return guided * _as(share * ratio + (1.0 - share), guided)


def _as(values: Float[Tensor, " b"], like: Answer) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))

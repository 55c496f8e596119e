"""Moves between noise levels that distillation needs, finite at zero terminal SNR.

With sqrt(alpha_bar) = cos(a) and sqrt(1 - alpha_bar) = sin(a), a level is an angle a from 0 (a clean video) to pi/2
(pure noise), x_a = cos(a) x0 + sin(a) eps, and the velocity v = cos(a) eps - sin(a) x0 is its derivative. Every move
below is a rotation; nothing divides by cos(a), which is exactly 0 at the last time. All arithmetic is float32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "b *dims"]
Angle = Float[Tensor, "b *ones"] | float


def angle(alpha_bar: Tensor | float) -> Tensor | float:
    """The angle of a signal level: atan2(sqrt(1 - alpha_bar), sqrt(alpha_bar)), in [0, pi/2]."""
    if isinstance(alpha_bar, float):
        return math.atan2((1 - alpha_bar) ** 0.5, alpha_bar**0.5)
    level = alpha_bar.double()
    return torch.atan2((1 - level).sqrt(), level.sqrt())


def hop(x: Latents, v: Latents, start: Angle, end: Angle) -> Latents:
    """Deterministic DDIM from one angle to another: x_end = cos(start - end) x - sin(start - end) v."""
    cos, sin = _turn(start, end, x)
    return cos * x.float() - sin * v.float()


def velocity_between(x: Latents, x_end: Latents, start: Angle, end: Angle) -> Latents:
    """The velocity whose hop from ``x`` lands on ``x_end``: the target of progressive distillation (end != start)."""
    cos, sin = _turn(start, end, x)
    return (cos * x.float() - x_end.float()) / sin


def noised_up(x: Latents, start: Angle, end: Angle, noise: Latents) -> Latents:
    """Forward diffusion from an angle to a larger one: the exact transition of the noising process.

    x_end = (cos(end) / cos(start)) x + sqrt(sin(end)^2 - (cos(end) sin(start) / cos(start))^2) noise; start < pi/2.
    """
    start, end = (_shaped(a, x).double() for a in (start, end))
    keep = end.cos() / start.cos()
    spread = (end.sin().square() - (keep * start.sin()).square()).clamp_min(0).sqrt()
    return keep.float() * x.float() + spread.float() * noise.float()


def renoised(x0: Latents, eps: Latents, end: Angle, eta: float, noise: Latents) -> Latents:
    """A DDIM step's landing with part of its noise drawn anew: eps' = eta eps + sqrt(1 - eta^2) noise.

    eta 1 is deterministic DDIM, 0 is a fresh noising of ``x0``.
    """
    end = _shaped(end, x0)
    mixed = eta * eps.float() + (1 - eta * eta) ** 0.5 * noise.float()
    return end.cos().float() * x0.float() + end.sin().float() * mixed


def _turn(start: Angle, end: Angle, like: Tensor) -> tuple[Tensor, Tensor]:
    between = _shaped(start, like).double() - _shaped(end, like).double()
    return between.cos().float(), between.sin().float()


def _shaped(value: Angle, like: Tensor) -> Tensor:
    """An angle for each clip, shaped to multiply ``like`` [b, ...]."""
    value = torch.as_tensor(value, device=like.device, dtype=torch.float64)
    return value.view(-1, *[1] * (like.ndim - 1)) if value.ndim else value

"""Samplers: from noise to a video by repeated estimates of the clean one. Plain functions over a path.

Each takes ``denoise`` (x, step) -> x0, a start ``x`` at the level of the first step, and ``path``. ``noise``
makes fresh standard normal noise shaped like x, for the stochastic ones. ``after`` is called when a step is
done; an exception raised in it stops the run. Arithmetic is float32; x keeps its own dtype between steps, as
the released pipelines do. Coefficients are numbers of the host: no step waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from cogvideox.diffusion.denoiser import Denoise, add_scaled_
from cogvideox.diffusion.schedule import SamplerStep
from cogvideox.errors import ConfigError

Latents = Float[Tensor, "b *dims"]
Noise = Callable[[int], Tensor]
"""The last of so many draws; a source that need not reproduce the released stream may make that one only."""

After = Callable[[SamplerStep, Tensor, Tensor], None]
"""What happens after a step: (step, x after it, estimate of x0)."""

SamplerName = Literal["ddim", "dpmpp_sde", "dpmpp_2m"]


def ddim(
    denoise: Denoise,
    x: Latents,
    path: Sequence[SamplerStep],
    noise: Noise | None = None,
    after: After | None = None,
) -> Latents:
    """Deterministic DDIM (Song et al. 2021, Eq. 12 with sigma = 0). ``noise`` is not used."""
    for step in path:
        x0 = denoise(x, step)
        ratio = ((1.0 - step.next_alpha_bar) / (1.0 - step.alpha_bar)) ** 0.5
        pull = step.next_alpha_bar**0.5 - step.alpha_bar**0.5 * ratio
        x = add_scaled_(ratio * x, x0, pull).to(x.dtype)
        if after is not None:
            after(step, x, x0)
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: Latents,
    path: Sequence[SamplerStep],
    noise: Noise | None = None,
    after: After | None = None,
) -> Latents:
    """DPM-Solver++ (2M), the deterministic form (Lu et al. 2022, Algorithm 2). ``noise`` is not used."""
    x0_before: Tensor | None = None
    for step in path:
        x0 = denoise(x, step)
        h = _log_snr(step.next_alpha_bar) - _log_snr(step.alpha_bar)
        keep = ((1.0 - step.next_alpha_bar) / (1.0 - step.alpha_bar)) ** 0.5
        pull = -(step.next_alpha_bar**0.5) * math.expm1(-h)
        x = add_scaled_(keep * x, _extrapolate(x0, x0_before, step, h), pull).to(x.dtype)
        x0_before = x0
        if after is not None:
            after(step, x, x0)
    return x


def dpmpp_sde(
    denoise: Denoise,
    x: Latents,
    path: Sequence[SamplerStep],
    noise: Noise | None = None,
    after: After | None = None,
) -> Latents:
    """DPM-Solver++ SDE (2M), the sampler of the released demos. Raises ConfigError without ``noise``.

    The released step draws noise for a first-order result and, on second-order steps, throws that away and
    draws again. Seeds are reproduced only if both draws are made, so ``noise`` is told how many there were.
    """
    if noise is None:
        raise ConfigError(
            "dpmpp_sde without noise: the sampler is stochastic; pass noise, or use dpmpp_2m or ddim"
        )
    x0_before: Tensor | None = None
    for step in path:
        x0 = denoise(x, step)
        h = _log_snr(step.next_alpha_bar) - _log_snr(step.alpha_bar)
        keep = ((1.0 - step.next_alpha_bar) / (1.0 - step.alpha_bar)) ** 0.5 * math.exp(-h)
        pull = -(step.next_alpha_bar**0.5) * math.expm1(-2.0 * h)
        sigma = (1.0 - step.next_alpha_bar) ** 0.5 * (1.0 - math.exp(-2.0 * h)) ** 0.5
        draws, dtype = 1 if x0_before is None or step.final else 2, x.dtype
        x = add_scaled_(keep * x, _extrapolate(x0, x0_before, step, h), pull)
        x0_before = x0
        x = add_scaled_(x, noise(draws), sigma).to(dtype)  # drawn last: the estimate before this one is gone
        if after is not None:
            after(step, x, x0)
    return x


SAMPLERS: dict[str, Callable[..., Latents]] = {"ddim": ddim, "dpmpp_sde": dpmpp_sde, "dpmpp_2m": dpmpp_2m}


def _log_snr(alpha_bar: float) -> float:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)); the infinities at 0 and 1 are meant."""
    if alpha_bar <= 0.0:
        return -math.inf
    if alpha_bar >= 1.0:
        return math.inf
    return 0.5 * math.log(alpha_bar / (1.0 - alpha_bar))


def _extrapolate(x0: Tensor, before: Tensor | None, step: SamplerStep, h: float) -> Tensor:
    """The second-order estimate (1 + 1/2r) x0 - (1/2r) x0_before; plain x0 at the first step and the last."""
    if before is None or step.back_alpha_bar is None or step.final:
        return x0
    r = (_log_snr(step.alpha_bar) - _log_snr(step.back_alpha_bar)) / h
    half = 1.0 / (2.0 * r)  # 0 when the step before started from pure noise
    return add_scaled_((1.0 + half) * x0, before, -half)

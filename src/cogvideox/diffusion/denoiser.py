"""The one contract of this room: a denoiser takes a noisy x and a step, and estimates the clean x0.

Samplers know nothing else, so a network, a guided pair of networks, a network that must respect known frames,
and a Gaussian whose answer is known in closed form are all the same thing to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.diffusion.combine import classifier_free
from cogvideox.diffusion.guidance import Branch, Guide, Guider
from cogvideox.diffusion.schedule import SamplerStep
from cogvideox.errors import ConfigError

Network = Callable[[Float[Tensor, "b *dims"], Int[Tensor, " b"]], Float[Tensor, "b *dims"]]
"""x_t and its time to the prediction (v, by default)."""


class Denoise(Protocol):
    """Noisy x [b, ...] at a step, to the float32 estimate of x0, of the same shape."""

    def __call__(self, x: Tensor, step: SamplerStep) -> Tensor: ...


def clean_estimate(
    x: Tensor, prediction: Tensor, alpha_bar: float, prediction_type: str = "v_prediction"
) -> Tensor:
    """x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v, or its like for networks that predict eps or x0."""
    alpha, sigma = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
    if prediction_type == "v_prediction":
        return add_scaled_(alpha * x, prediction, -sigma)
    if prediction_type == "epsilon":
        return torch.sub(x, prediction, alpha=sigma) / alpha
    return prediction


def add_scaled_(total: Tensor, x: Tensor, weight: float) -> Tensor:
    """total + weight x, written over ``total``, which must be nobody else's, where both have one type."""
    if total.dtype == x.dtype:
        return total.add_(x, alpha=weight)
    return torch.add(total, x, alpha=weight)


def denoiser(network: Network, prediction_type: str = "v_prediction") -> Denoise:
    """A network without guidance, as a denoiser."""

    def denoise(x: Tensor, step: SamplerStep) -> Tensor:
        return clean_estimate(x, network(x, _times(x, step)).float(), step.alpha_bar, prediction_type)

    return denoise


def guided(
    network: Network,
    guide: Guide | Guider,
    prediction_type: str = "v_prediction",
    alone: Network | None = None,
) -> Denoise:
    """Guidance in float32: v = v_negative + g (v_prompt - v_negative), or as a ``Guider`` says.

    The network is called once per step, with x as often in the batch as there are branches, and answers each part for
    one of ``Guider.branches``: the negative prompt, then the prompt. ``alone`` answers for the prompt only; it is
    called at the steps where a Guider is off. A run calls its denoiser for each step in order: some rules remember.
    Raises ConfigError for a Guider that is off at some steps without ``alone``.
    """
    guider = guide if isinstance(guide, Guider) else Guider()
    if alone is None and (guider.start > 0 or guider.stop < 1):
        raise ConfigError(
            f"guidance from {guider.start:g} to {guider.stop:g}: the other steps need a network that answers for the "
            "prompt alone; pass one as alone"
        )
    combine = guider.build() if isinstance(guide, Guider) else _plainly(guide)
    plain = denoiser(alone, prediction_type) if alone is not None else None
    branches = guider.branches

    def denoise(x: Tensor, step: SamplerStep) -> Tensor:
        asked = guider.branches_at(step.index, step.count)
        if not asked:
            return clean_estimate(
                x, torch.zeros_like(x, dtype=torch.float32), step.alpha_bar, prediction_type
            )
        if asked != branches and plain is not None:
            return plain(x, step)
        repeated = torch.cat([x] * len(branches))
        answers = network(repeated, _times(repeated, step)).float().chunk(len(branches))
        prediction = combine(step, dict(zip(branches, answers, strict=True)))
        return clean_estimate(x, prediction, step.alpha_bar, prediction_type)

    return denoise


def _plainly(guide: Guide) -> Callable[[SamplerStep, dict[Branch, Tensor]], Tensor]:
    return lambda step, answers: classifier_free(answers["negative"], answers["prompt"], guide(step))


def sequential(networks: Sequence[Network]) -> Network:
    """One network made of several that answer a part of the batch each, one after the other.

    For the pair of guidance this halves the memory of the activations; the arithmetic is the same. A third branch is
    a third network.
    """

    def network(x: Tensor, t: Tensor) -> Tensor:
        parts = zip(networks, x.chunk(len(networks)), t.chunk(len(networks)), strict=True)
        return torch.cat([each(part, time) for each, part, time in parts])

    return network


def pinned(denoise: Denoise, known: Float[Tensor, "b c k h w"]) -> Denoise:
    """A denoiser that knows the first k frames: their estimate is replaced by the truth at every step.

    Every sampler here moves x along the line between x and the estimate, so when the frames start as
    sqrt(alpha_bar) known + sqrt(1 - alpha_bar) eps they stay exactly that at every later level: the network
    always sees the known frames with the right amount of noise (the replacement method of Ho et al., "Video
    Diffusion Models", section 3.1), and the last step returns them unchanged.
    """
    k = known.shape[2]

    def denoise_rest(x: Tensor, step: SamplerStep) -> Tensor:
        estimate = denoise(x, step)
        return torch.cat([known.to(estimate), estimate[:, :, k:]], dim=2)

    return denoise_rest


def _times(x: Tensor, step: SamplerStep) -> Tensor:
    return torch.full((x.shape[0],), step.t, dtype=torch.int64, device=x.device)

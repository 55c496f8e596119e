"""Noise and conditions in, latents out: the networks, the schedule and a sampler put together for one run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import noise
from cogvideox.conditioning import Conditioning
from cogvideox.diffusion import GUIDANCE, SAMPLERS, Network, denoiser, guided, is_guided, pinned, sequential
from cogvideox.diffusion.denoiser import Denoise
from cogvideox.diffusion.guidance import RELEASED_GUIDANCE, Constant, Cosine, Wave
from cogvideox.diffusion.samplers import After, Noise
from cogvideox.errors import ConfigError, InputError
from cogvideox.generation.options import GenerateOptions
from cogvideox.model import CogVideoX
from cogvideox.spec import ABOUT_KINDS


class Noises:
    """Every draw of a run. From a seed, each purpose has a stream of its own; nothing depends on the device.

    An explicit generator instead is used for everything in the order, layout and precision of the public
    pipelines (frames before channels, the model's precision), which reproduces their seeds; then no seed is needed.
    """

    def __init__(
        self,
        seed: int | None,
        dtype: torch.dtype,
        device: torch.device | str,
        generator: torch.Generator | None = None,
    ) -> None:
        if seed is None and generator is None:
            raise ConfigError("seed: missing; give one, or a generator")
        self.seed, self.dtype, self.device, self.explicit = seed, dtype, device, generator
        self._before_steps: Tensor | None = None

    def encoding(self) -> torch.Generator:
        """For latents drawn from the autoencoder's distribution."""
        return self._source("encode")

    def condition(self) -> torch.Generator:
        """For the noise of conditions that are noised before they are encoded."""
        return self._source("condition")

    def initial(self, shape: Sequence[int]) -> Float[Tensor, "b c t h w"]:
        """The noise a video starts from."""
        return self._draw(shape, self._source("latents"))

    def steps(self, shape: Sequence[int]) -> Noise:
        """Fresh noise for each step of a stochastic sampler; asked again, the same noise again.

        Only an explicit generator goes past the draws that the public pipelines make and throw away.
        """
        source = self._source("steps")
        if self.explicit is not None:
            if self._before_steps is None:
                self._before_steps = self.explicit.get_state()
            self.explicit.set_state(self._before_steps)

        def draw(draws: int) -> Tensor:
            for _ in range(draws - 1 if self.explicit else 0):
                noise.skip_normal(shape, source, self.dtype)
            return self._draw(shape, source)

        return draw

    def _source(self, purpose: str) -> torch.Generator:
        if self.explicit is not None:
            return self.explicit
        assert self.seed is not None  # refused above
        return noise.generator(self.seed, purpose)

    def _draw(self, shape: Sequence[int], source: torch.Generator) -> Tensor:
        b, c, t, h, w = shape
        dtype = torch.float32 if self.explicit is None else self.dtype
        drawn = torch.randn(b, t, c, h, w, generator=source, device=source.device, dtype=dtype)
        return drawn.to(self.device, self.dtype).transpose(1, 2).contiguous()


def guidance_of(options: GenerateOptions) -> Constant | Wave | Cosine:
    """The guidance spec that the options name; of a model that is not known yet, the released models' scale."""
    scale = RELEASED_GUIDANCE if options.guidance is None else options.guidance
    return GUIDANCE[options.guidance_schedule](scale=scale)


def sample_latents(
    model: CogVideoX,
    prompt: Float[Tensor, "b l d"],
    negative: Float[Tensor, "b l d"] | None,
    initial: Float[Tensor, "b c t h w"],
    options: GenerateOptions,
    condition: Conditioning | None = None,
    step_noise: Noise | None = None,
    after: After | None = None,
) -> Float[Tensor, "b c t h w"]:
    """Denoise ``initial`` (standard normal noise) into scaled latents, in its dtype.

    ``negative`` is needed when guidance is above 1. Raises ConfigError for settings that leave nothing to do
    and InputError when an image-to-video model is given no image.
    """
    condition = condition or Conditioning()
    path = model.schedule.path(options.steps, options.previous, condition.strength)
    if not path:
        raise ConfigError(
            f"strength {condition.strength:g} of {options.steps} steps: no step is left; raise one of them"
        )
    denoise = _denoiser(model, prompt, negative, initial.shape[0], options, condition)
    x, known = initial, condition.known
    if condition.start is not None:
        x = model.schedule.add_noise(condition.start, initial, path[0].t).to(initial.dtype)
    elif known is not None and path[0].alpha_bar > 0:
        noisy = model.schedule.add_noise(known, initial[:, :, : known.shape[2]], path[0].t)
        x = torch.cat([noisy.to(x.dtype), x[:, :, known.shape[2] :]], dim=2)
    return SAMPLERS[options.sampler](denoise, x, path, noise=step_noise, after=after)


def _denoiser(
    model: CogVideoX,
    prompt: Tensor,
    negative: Tensor | None,
    batch: int,
    options: GenerateOptions,
    condition: Conditioning,
) -> Denoise:
    """The clean estimate at each step: the network, guidance as the options ask, and what is known already."""
    guidance = guidance_of(options)
    active = is_guided(guidance)
    if active and negative is None:
        raise ConfigError(
            f"guidance {guidance.scale:g}: needs a negative prompt embedding; pass one, or guidance 1"
        )
    text = torch.cat([negative, prompt]) if active and negative is not None else prompt
    text = text.to(model.device, model.dtype)
    if options.guidance_pair == "sequence" and active:
        network = sequential([_network(model, half, condition.channels) for half in text.split(batch)])
    else:
        network = _network(model, text, condition.channels)
    kind = model.schedule.config.prediction_type
    denoise = guided(network, guidance.build(), kind) if active else denoiser(network, kind)
    return pinned(denoise, condition.known) if condition.known is not None else denoise


def _network(model: CogVideoX, text: Tensor, channels: Tensor | None) -> Network:
    wants = model.transformer.config.in_channels - model.spec.latent_channels
    has = 0 if channels is None else channels.shape[1]
    if has != wants:
        kind = model.spec.kind
        cure = (
            f"pass what it makes a video from: {ABOUT_KINDS[kind]}"
            if wants
            else "use a model that reads them"
        )
        raise InputError(
            f"conditions: the model ({kind}) reads {wants} channels beside the noisy latents, given {has}; {cure}"
        )

    def network(x: Tensor, t: Tensor) -> Tensor:
        if channels is not None:
            beside = channels.to(x.dtype).repeat(x.shape[0] // channels.shape[0], 1, 1, 1, 1)
            x = torch.cat([x, beside], dim=1)
        return model.transformer(x.to(model.dtype), text, t)

    return network

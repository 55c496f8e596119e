"""Noise and conditions in, latents out: the networks, the schedule and a sampler put together for one run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import noise
from cogvideox.conditioning import Conditioning
from cogvideox.diffusion import (
    GUIDANCE,
    SAMPLERS,
    Branch,
    ClassifierFree,
    Guider,
    Network,
    Projected,
    SamplerStep,
    Windows,
    ZeroStar,
    denoiser,
    guided,
    is_guided,
    pinned,
    sequential,
)
from cogvideox.diffusion.denoiser import Denoise
from cogvideox.diffusion.guidance import RELEASED_GUIDANCE
from cogvideox.diffusion.samplers import After, Noise
from cogvideox.diffusion.windows import Window
from cogvideox.errors import ConfigError, InputError
from cogvideox.generation.options import GenerateOptions
from cogvideox.model import CogVideoX
from cogvideox.spec import ABOUT_KINDS, ModelSpec
from cogvideox.transformer.calls import answering, at_step, in_window, sampler_call


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

    def order(self) -> torch.Generator:
        """For the order of noise frames that windows share."""
        return self._source("window noise")

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


def guidance_of(options: GenerateOptions) -> Guider:
    """The guidance that the options name; of a model that is not known yet, the released models' scale."""
    scale = RELEASED_GUIDANCE if options.guidance is None else options.guidance
    rules = {
        "cfg": ClassifierFree(),
        "zero-star": ZeroStar(zero_steps=options.zero_steps),
        "apg": Projected(eta=options.apg_eta, norm=options.apg_norm, momentum=options.apg_momentum),
    }
    return Guider(
        guidance=GUIDANCE[options.guidance_schedule](scale=scale),
        rule=rules[options.guidance_rule],
        rescale=options.guidance_rescale,
        start=options.guidance_start,
        stop=options.guidance_stop,
        stg=options.stg_scale,
    )


def stg_layers(spec: ModelSpec, options: GenerateOptions) -> tuple[int, ...]:
    """The blocks that spatio-temporal guidance leaves out: as asked, or block 11 of 42 and its like."""
    return options.stg_layers or (spec.transformer.num_layers * 11 // 42,)


def check_guidance(spec: ModelSpec, options: GenerateOptions, steps: int) -> None:
    """Refuse guidance that a run of so many steps cannot have, and warn of settings without effect.

    Raises ConfigError.
    """
    guider, layers = guidance_of(options), spec.transformer.num_layers
    if wrong := [index for index in options.stg_layers if not 0 <= index < layers]:
        raise ConfigError(f"stg_layers {wrong[0]}: the model has {layers} blocks; choose 0 to {layers - 1}")
    if guider.zero_steps >= steps:
        raise ConfigError(
            f"zero_steps {guider.zero_steps} of {steps} steps: the network is never asked; lower zero_steps"
        )
    if len(guider.branches) > 1 and not any(guider.is_on(index, steps) for index in range(steps)):
        raise ConfigError(
            f"guidance_start {guider.start:g}, guidance_stop {guider.stop:g}: no one of {steps} steps lies between; "
            "move them apart, or turn guidance off with guidance 1"
        )
    active, rule = is_guided(guider), options.guidance_rule
    needs = {
        "guidance_rule": ("guidance above 1", active),
        "zero_steps": ("guidance_rule 'zero-star'", rule == "zero-star"),
        **dict.fromkeys(("apg_eta", "apg_norm", "apg_momentum"), ("guidance_rule 'apg'", rule == "apg")),
        "stg_layers": ("stg_scale", options.stg_scale > 0),
        **dict.fromkeys(
            ("guidance_rescale", "guidance_start", "guidance_stop"), ("guidance", len(guider.branches) > 1)
        ),
    }
    for name, (need, met) in needs.items():
        value = getattr(options, name)
        if not met and value != GenerateOptions.model_fields[name].default:
            warnings.warn(f"{name} {value!r} has no effect without {need}", stacklevel=3)


def sample_latents(
    model: CogVideoX,
    prompt: Float[Tensor, "b l d"],
    negative: Float[Tensor, "b l d"] | None,
    initial: Float[Tensor, "b c t h w"],
    options: GenerateOptions,
    condition: Conditioning | None = None,
    step_noise: Noise | None = None,
    after: After | None = None,
    windows: Windows | None = None,
) -> Float[Tensor, "b c t h w"]:
    """Denoise ``initial`` (standard normal noise) into scaled latents, in its dtype.

    ``negative`` is needed when guidance is above 1. ``windows``: how the network is asked about a long video; each row
    of ``prompt`` is then one of ``Windows.prompts``. Raises ConfigError for settings that leave nothing to do
    and InputError when an image-to-video model is given no image.
    """
    condition = condition or Conditioning()
    path = model.schedule.path(options.steps, options.previous, condition.strength, options.times)
    if not path:
        raise ConfigError(
            f"strength {condition.strength:g} of {options.steps} steps: no step is left; raise one of them"
        )
    if windows is not None and len(prompt) != len(windows.prompts):
        raise ConfigError(
            f"prompt embeddings: {len(prompt)}, for {len(windows.prompts)} prompts with times; pass one for each"
        )
    denoise = _denoiser(model, prompt, negative, options, condition, windows)
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
    options: GenerateOptions,
    condition: Conditioning,
    windows: Windows | None,
) -> Denoise:
    """The clean estimate at each step: the network, guidance as the options ask, and what is known already."""
    guider = guidance_of(options)
    branches = guider.branches
    if "negative" in branches and negative is None:
        raise ConfigError(
            f"guidance {guider.guidance.scale:g}: needs a negative prompt embedding; pass one, or guidance 1"
        )

    prompts = [prompt] if windows is None else list(prompt.split(1))

    def answers(branches: tuple[Branch, ...]) -> Network:
        texts = [
            torch.cat([negative if each == "negative" and negative is not None else one for each in branches])
            for one in prompts
        ]
        texts = [text.to(model.device, model.dtype) for text in texts]
        return _network(model, texts, condition, branches, windows)

    in_turn = options.guidance_pair == "sequence" and len(branches) > 1
    network = sequential([answers((each,)) for each in branches]) if in_turn else answers(branches)
    kind = model.schedule.config.prediction_type
    if len(branches) > 1:
        denoise = guided(network, guider, kind, alone=answers(("prompt",)))
    else:
        denoise = denoiser(network, kind)
    return _announced(pinned(denoise, condition.known) if condition.known is not None else denoise)


def _announced(denoise: Denoise) -> Denoise:
    """The same denoiser; what is put in place of blocks reads at which step it is."""

    def at(x: Tensor, step: SamplerStep) -> Tensor:
        with at_step(step.index, step.count):
            return denoise(x, step)

    return at


def _network(
    model: CogVideoX,
    texts: Sequence[Tensor],
    condition: Conditioning,
    branches: Sequence[Branch],
    windows: Windows | None,
) -> Network:
    _check_channels(model, condition.channels)

    def answer(x: Tensor, t: Tensor, text: Tensor, channels: Tensor | None) -> Tensor:
        noisy = x
        if channels is not None:
            beside = channels.to(x.dtype).repeat(x.shape[0] // channels.shape[0], 1, 1, 1, 1)
            x = torch.cat([x, beside], dim=1)
        with answering(branches, noisy, text, t):
            return model.transformer(x.to(model.dtype), text, t)

    def network(x: Tensor, t: Tensor) -> Tensor:
        if windows is None:
            return answer(x, t, texts[0], condition.channels)

        def ask(window: Window, x: Tensor) -> Tensor:
            with in_window(window):
                return answer(x, t, texts[windows.prompt_of(window)], condition.channels_of(window))

        return windows.blended(sampler_call().step, x, ask)

    return network


def _check_channels(model: CogVideoX, channels: Tensor | None) -> None:
    """Raises InputError unless the conditions have the channels that the model reads."""
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

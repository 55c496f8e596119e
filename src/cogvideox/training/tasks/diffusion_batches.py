"""What the transformer is given for a clip: clean latents, text, and the image for image-to-video.

Every draw is a function of (seed, number of the sample in the run), so an example does not depend on the row, the
batch or the rank it stands in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.data.latents import EncodedClips
from cogvideox.data.world import to_model
from cogvideox.diffusion import Schedule
from cogvideox.noise import generator, normal
from cogvideox.vae import VAE

Texts = Callable[[Sequence[str]], Sequence[Float[Tensor, "l e"]]]


@dataclass(frozen=True)
class DiffusionSample:
    """One clip, scaled, with as many latent frames as the patches want; ``image`` is for the input's later channels."""

    clean: Float[Tensor, "c t h w"]
    noise: Float[Tensor, "c t h w"]
    text: Float[Tensor, "l e"]
    image: Float[Tensor, "c t h w"] | None = None


@dataclass
class DiffusionBatcher:
    """Makes examples of the clips of a data set."""

    clips: EncodedClips
    texts: Texts
    vae: VAE
    seed: int
    patch_t: int = 1
    image: bool = False
    text_dropout: float = 0.1
    image_dropout: float = 0.05

    def training(self, members: Sequence[int], samples: range) -> list[DiffusionSample]:
        """The clips ``members`` as the samples with these numbers: drawn, noised, sometimes without text or image."""
        coins = [torch.rand(2, generator=generator(self.seed, "dropout", n)) for n in samples]
        prompts = [
            "" if coin[0] < self.text_dropout else self.clips.caption(one, number)
            for one, number, coin in zip(members, samples, coins, strict=True)
        ]
        clean = []
        for one, number in zip(members, samples, strict=True):
            mean, deviation = self.clips.latents(one)
            clean.append(mean + deviation * normal(mean.shape, self.seed, "latent noise", number))
        noise = [(self.seed, "noise", number) for number in samples]
        images = self._images(members, samples) if self.image else []
        kept = [
            image * float(coin[1] >= self.image_dropout) for image, coin in zip(images, coins, strict=False)
        ]
        return self._examples(clean, noise, prompts, kept)

    def fixed(self, members: Sequence[int]) -> list[DiffusionSample]:
        """The same clips every time: means instead of draws, the same noise, the caption and the image as they are."""
        clean = [self.clips.latents(one)[0] for one in members]
        noise = [(0, "held-out noise", one) for one in members]
        prompts = [self.clips.caption(one, 0) for one in members]
        return self._examples(clean, noise, prompts, self._images(members, None) if self.image else [])

    def _examples(
        self, clean: list[Tensor], noise: list, prompts: list[str], images: list[Tensor]
    ) -> list[DiffusionSample]:
        texts = self.texts(prompts)
        scaled = [self._padded(each * self.vae.config.scaling_factor) for each in clean]
        made = []
        for place, latents in enumerate(scaled):
            image = _ahead(images[place], latents.shape[1]) if images else None
            made.append(DiffusionSample(latents, normal(latents.shape, *noise[place]), texts[place], image))
        return made

    def _padded(self, latents: Float[Tensor, "c t h w"]) -> Float[Tensor, "c t h w"]:
        """Copies of the first latent in front, until patches in time fit: the rule of 1.5, for images too."""
        missing = -latents.shape[1] % self.patch_t
        return torch.cat([latents[:, :1]] * missing + [latents], dim=1)

    @torch.no_grad()
    def _images(self, members: Sequence[int], samples: range | None) -> list[Float[Tensor, "c 1 h w"]]:
        """First frames as latents; noised with a log-normal strength and drawn when ``samples`` says for which."""
        made: list[Tensor] = []
        for place, one in enumerate(members):
            pixels = to_model(self.clips.first(one)[None, None])
            g = None
            if samples is not None:
                g = generator(self.seed, "image", samples[place])
                sigma = torch.exp(
                    torch.randn(1, generator=g) * 0.5 - 3.0
                )  # section 2.5; exp(N(-3, 0.5²)) as released
                pixels = pixels + sigma * torch.randn(pixels.shape, generator=g)
            weight = next(self.vae.parameters())
            found = self.vae.encode(pixels.to(weight.device, weight.dtype))
            made.append(
                (found.mode() if g is None else found.sample(g))[0].float().cpu() * self._image_scale()
            )
        return made

    def _image_scale(self) -> float:
        """As this package's own inference reads it: 1.5-I2V divides by the factor."""
        factor = self.vae.config.scaling_factor
        return 1 / factor if self.vae.config.invert_scale_latents else factor


def velocity_errors(
    network: nn.Module, schedule: Schedule, examples: Sequence[DiffusionSample], times: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Mean squared error of the velocity, clip by clip (section 2.2; equals the released weighting of clean estimates).

    Clips of one shape take the dense path, others are packed into one row; the numbers are those of each clip alone.
    """
    device = next(network.parameters()).device
    times = times.to(device)
    clean, noise = ([getattr(one, name).to(device) for one in examples] for name in ("clean", "noise"))
    text = [one.text.to(device, torch.float32) for one in examples]
    noisy = [
        schedule.add_noise(x[None], e[None], t[None])[0] for x, e, t in zip(clean, noise, times, strict=True)
    ]
    target = [
        schedule.velocity(x[None], e[None], t[None])[0] for x, e, t in zip(clean, noise, times, strict=True)
    ]
    images = [one.image for one in examples]
    given = [x if i is None else torch.cat([x, i.to(device)]) for x, i in zip(noisy, images, strict=True)]
    if len({(x.shape, len(words)) for x, words in zip(given, text, strict=True)}) == 1:
        out = list(network(torch.stack(given), torch.stack(text), times))
    else:
        out = network.forward_packed(given, text, times)
    return torch.stack([(v.float() - aim).square().mean() for v, aim in zip(out, target, strict=True)])


def _ahead(first: Float[Tensor, "c 1 h w"], frames: int) -> Float[Tensor, "c t h w"]:
    """Zeros everywhere but at index 0."""
    return torch.cat([first, first.new_zeros(first.shape[0], frames - 1, *first.shape[2:])], dim=1)

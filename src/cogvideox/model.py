"""CogVideoX: autoencoder, transformer, text encoder and schedule as one object.

It holds and connects; it decides nothing about a run. Latents that leave it are scaled the way the
transformer expects, latents that enter are unscaled before the decoder sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.brief import Brief
from cogvideox.diffusion import Schedule
from cogvideox.errors import ConfigError, PromptError
from cogvideox.files.stored import is_in_files
from cogvideox.gpu_kernels import using
from cogvideox.spec import ModelSpec
from cogvideox.text import TextEmbedding, TextEncoder
from cogvideox.transformer import Transformer
from cogvideox.transformer.controlnet import ControlNet
from cogvideox.transformer.layout import ClipTokens
from cogvideox.vae import VAE, Gaussian, Tiles, decode_tiled, encode_tiled
from cogvideox.vae.frames import faster_kernels
from cogvideox.vae.tiny import TinyVAE
from cogvideox.video.video import in_range

VaeCoding = Literal["chunked", "whole", "tiled", "tiny"]
ImageScale = Literal["released", "multiply", "divide", "none"]


@dataclass(repr=False)
class CogVideoX(Brief):
    """The networks and the schedule of one model, and its spec.

    ``compute_device`` is where inputs go when the weights live elsewhere (offloading); None means where the weights
    are. ``weights`` is the SHA-256 of each weights file by its name in the model folder, for records; empty
    for a model that was not loaded from one. ``shipped``: it came with the package and has seen the tiny world alone.
    ``tiny_vae``: a tiny autoencoder for its latents, which decodes where "tiny" is asked for. ``control_nets``: the
    ControlNets that were loaded for it, by the path that names them.
    """

    transformer: Transformer
    vae: VAE
    text: TextEncoder | None
    schedule: Schedule
    spec: ModelSpec
    compute_device: torch.device | None = None
    weights: dict[str, str] = field(default_factory=dict)
    shipped: bool = False
    tiny_vae: TinyVAE | None = None
    control_nets: dict[str, ControlNet] = field(default_factory=dict)

    @classmethod
    def assemble(
        cls, transformer: Transformer, vae: VAE, text: TextEncoder | None, schedule: Schedule, **facts: Any
    ) -> CogVideoX:
        """A model of networks that are in memory; ``facts`` are fields of its spec that their configs do not say.

        See ``ModelSpec.of_configs`` for those that are left out.
        """
        facts = {"dtype": str(_float_dtype(transformer)).removeprefix("torch."), **facts}
        spec = ModelSpec.of_configs(
            transformer=transformer.config,
            vae=vae.config,
            schedule=schedule.config,
            text_settings=text.model.config.model_dump(mode="json") if text is not None else None,
            **facts,
        )
        return cls(transformer, vae, text, schedule, spec)

    @property
    def device(self) -> torch.device:
        """Where inputs must be. Raises ConfigError while the weights are in their files and nothing reads them."""
        if self.compute_device is None and self.in_files:
            raise ConfigError(
                "the weights are still in their files: memory.offload(model, device, 'disk') reads them when they are "
                "needed, 'resident' reads them now"
            )
        return self.compute_device or next(self.transformer.parameters()).device

    @property
    def in_files(self) -> bool:
        """Whether the weights stay in their files until they are needed (``load`` with ``read_weights`` false)."""
        return is_in_files(self.transformer)

    @property
    def dtype(self) -> torch.dtype:
        """The precision the transformer reads: that of its first floating-point weight."""
        return _float_dtype(self.transformer)

    @property
    def adapters(self) -> list[dict[str, Any]]:
        """What each adapter on the transformer is, merged ones included; noted when it is put on."""
        return [dict(note) for note in vars(self.transformer).get("adapters", [])]

    def __deepcopy__(self, memo: dict[int, Any]) -> CogVideoX:
        """A second model like this one. Raises ConfigError where weights come from elsewhere when they are needed."""
        if self.compute_device is not None or self.in_files:
            raise ConfigError(
                "a model whose weights come from files or from another device cannot be copied; load it once more"
            )
        return replace(
            self, **{field.name: deepcopy(getattr(self, field.name), memo) for field in fields(self)}
        )

    def networks(self) -> dict[str, nn.Module]:
        """The networks by folder name, and the ControlNets by their paths."""
        networks: dict[str, nn.Module] = {"transformer": self.transformer, "vae": self.vae}
        if self.text is not None:
            networks["text_encoder"] = self.text.model
        return networks | {f"control_net {path}": network for path, network in self.control_nets.items()}

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        vae_dtype: torch.dtype | None = None,
    ) -> CogVideoX:
        """Move every part; ``vae_dtype`` lets the autoencoder keep a precision of its own. Returns itself.

        Raises ConfigError for weights that stay in their files.
        """
        networks = self.networks()
        if any(map(is_in_files, networks.values())):
            raise ConfigError(
                "the weights are in their files and cannot be moved: memory.offload says where they go"
            )
        for name, network in networks.items():
            wanted = vae_dtype if name == "vae" and vae_dtype is not None else dtype
            if device is not None:
                network.to(device=device)
            if wanted is not None:
                network.to(dtype=wanted)
        return self

    def clip_of(self, latents: Sequence[int], text_len: int) -> ClipTokens:
        """The tokens of latents of this shape (b c t h w) and so many of text. Raises SizeError, FrameError."""
        return ClipTokens(text_len, self.transformer.grid(torch.empty(tuple(latents), device="meta")))

    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """Prompts to what the transformer reads. Raises PromptError without a text encoder."""
        if self.text is None:
            raise PromptError(
                f"prompt {prompts[0][:40]!r}: the model was loaded without a text encoder; "
                "load it with one, or pass prompt_embedding"
            )
        embedding = self.text.encode(prompts)
        return replace(embedding, values=embedding.values.to(self.device))

    @torch.no_grad()
    def encode_video(
        self,
        pixels: Float[Tensor, "b 3 f h w"],
        generator: torch.Generator | None = None,
        sample: bool = True,
        coding: VaeCoding = "chunked",
        tiles: Tiles | None = None,
    ) -> Float[Tensor, "b c t h w"]:
        """Pixels in [-1, 1], or bytes, to scaled latents in the autoencoder's precision; the mean if not ``sample``.

        Chunks of frames go to the device one after the other.
        """
        return (
            self._shifted_latents(pixels, generator, sample, coding, tiles) * self.vae.config.scaling_factor
        )

    @torch.no_grad()
    def encode_image(
        self,
        pixels: Float[Tensor, "b 3 1 h w"],
        generator: torch.Generator | None = None,
        sample: bool = True,
        coding: VaeCoding = "chunked",
        tiles: Tiles | None = None,
        scale: ImageScale = "released",
    ) -> Float[Tensor, "b c 1 h w"]:
        """A picture to the latents that an image-to-video model reads.

        "released" divides by the scaling factor where the checkpoint says so (``invert_scale_latents``,
        1.5-I2V) and multiplies elsewhere. The trainers of 1.5-I2V disagree about it, hence the others.
        """
        latents = self._shifted_latents(pixels, generator, sample, coding, tiles)
        if scale == "released":
            scale = "divide" if self.vae.config.invert_scale_latents else "multiply"
        factor = self.vae.config.scaling_factor
        return latents * {"multiply": factor, "divide": 1.0 / factor, "none": 1.0}[scale]

    @torch.no_grad()
    def decode_latents(
        self,
        latents: Float[Tensor, "b c t h w"],
        coding: VaeCoding = "chunked",
        tiles: Tiles | None = None,
    ) -> Float[Tensor, "b 3 f h w"]:
        """Scaled latents to pixels, about in [-1, 1]. Raises ConfigError for "tiny" without a tiny autoencoder."""
        config = self.vae.config
        if coding == "tiny":
            if self.tiny_vae is None:
                raise ConfigError(
                    "vae_coding 'tiny': the model has no tiny autoencoder; load one (checkpoints.load_tiny_vae, "
                    "--tiny-vae)"
                )
            weight = next(self.tiny_vae.parameters())
            raw = latents / config.scaling_factor + (config.shift_factor or 0.0)
            return self.tiny_vae.decode(raw.to(weight.device, weight.dtype), lean=True).to(latents.device)
        raw = self._unscaled(latents)
        with self._fast_frames(raw.dtype):
            if coding == "tiled":
                return decode_tiled(self.vae, raw, tiles)
            return self.vae.decode(raw, coding)

    @torch.no_grad()
    def stream_decode(
        self,
        latents: Float[Tensor, "b c t h w"],
        coding: VaeCoding = "chunked",
        tiles: Tiles | None = None,
    ) -> Iterator[Float[Tensor, "b 3 f h w"]]:
        """``decode_latents`` a few frames at a time, in memory that does not grow with length; the same numbers.

        What is not coded in chunks comes at once. Raises ConfigError as ``decode_latents``.
        """
        if coding != "chunked":
            yield self.decode_latents(latents, coding, tiles)
            return
        raw = self._unscaled(latents)
        with self._fast_frames(raw.dtype):
            yield from self.vae.stream_decode(raw.split(self.vae.config.chunk_latents, dim=2), raw.shape[2])

    def _unscaled(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        return (latents / config.scaling_factor + (config.shift_factor or 0.0)).to(_float_dtype(self.vae))

    def _shifted_latents(
        self,
        pixels: Tensor,
        generator: torch.Generator | None,
        sample: bool,
        coding: VaeCoding,
        tiles: Tiles | None,
    ) -> Tensor:
        vae, dtype, shift = self.vae, _float_dtype(self.vae), self.vae.config.shift_factor or 0.0
        with self._fast_frames(dtype):
            if coding == "tiled":
                latents = encode_tiled(vae, in_range(pixels.to(self.device)).to(dtype), tiles)
            elif coding == "whole":
                latents = vae.encode(in_range(pixels.to(self.device)).to(dtype), coding)
            else:  # also for "tiny": what is given is encoded by the autoencoder itself
                slices = (
                    in_range(each.to(self.device)).to(dtype)
                    for each in pixels.split(vae.config.chunk_frames, dim=2)
                )
                chunks = list(vae.stream_encode(slices, pixels.shape[2]))
                mean, logvar = (
                    torch.cat([getattr(each, name) for each in chunks], dim=2) for name in ("mean", "logvar")
                )
                latents = Gaussian(mean, logvar)
        return (latents.sample(generator) if sample else latents.mode()) - shift

    def _fast_frames(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Inside, the autoencoder reads frames by the kernels that are faster on this device."""
        return using(faster_kernels(self.device, dtype))


def _float_dtype(network: nn.Module) -> torch.dtype:
    """The first floating-point precision among the weights; low-bit weights are not floating point."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)

"""What is asked to fit: a model by its settings, the size of one video, and the device it is made on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from cogvideox.diffusion import Branch, Guider, Schedule, Windows
from cogvideox.errors import SizeError
from cogvideox.spec import ModelSpec
from cogvideox.transformer import Transformer
from cogvideox.transformer.controlnet import ControlNet, ControlNetConfig
from cogvideox.vae import VAE, Tiles
from cogvideox.vae.conv import CausalConv3d
from cogvideox.vae.frames import CPU_ELEMENTS

TextPlace = Literal["resident", "files", "elsewhere"]
"""How the text encoder takes memory: under the policy, read layer by layer from files, or so on another device."""


@dataclass(frozen=True)
class AdapterBytes:
    """Bytes that LoRA adapters add to a transformer: ``around`` its blocks, and to the largest ``block``."""

    around: int = 0
    block: int = 0

    @classmethod
    def of(cls, layers: Iterable[Mapping[str, int]]) -> AdapterBytes:
        """Of adapters that add bytes to layers by name."""
        blocks: dict[str, int] = {}
        for name, size in (pair for each in layers for pair in each.items()):
            block = name.split(".")[1] if name.startswith("transformer_blocks.") else ""
            blocks[block] = blocks.get(block, 0) + size
        return cls(blocks.pop("", 0), max(blocks.values(), default=0))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One video of ``frames`` made pixel frames of ``height`` x ``width``, in ``dtype`` on ``device``.

    ``latents`` counts latent frames for the transformer, padding included. ``given`` frames of an image or a
    video are encoded first. ``guided`` is false when guidance is off, ``guider`` says what it is otherwise.
    ``windows``: how a long video is divided. ``adapters``: what LoRA adapters add to the weights.
    """

    spec: ModelSpec
    frames: int
    latents: int
    height: int
    width: int
    dtype: torch.dtype
    device: str = "cpu"
    given: int = 0
    guided: bool = True
    guider: Guider = field(default_factory=Guider)
    sampler: str = "ddim"
    steps: int = 50
    float32_latents: bool = False
    tables: bool = True  # modulations made once for all steps
    reuse: bool = False  # residuals of the blocks kept for other steps
    text: TextPlace = "resident"
    first_block: bool = False  # those of the first block and of the others apart
    control_nets: tuple[ControlNetConfig, ...] = ()  # networks that work beside the transformer
    windows: Windows | None = None
    adapters: AdapterBytes = field(default_factory=lambda: AdapterBytes())

    @property
    def on_cpu(self) -> bool:
        """Whether the device's memory is the computer's own."""
        return self.device.split(":")[0] == "cpu"

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What the transformer answers at a guided step."""
        return self.guider.branches if self.guided else ("prompt",)

    def evaluations(self, steps: int) -> int:
        """How many answers so many steps ask for."""
        return self.guider.evaluations(steps) if self.guided else steps

    @property
    def seen(self) -> int:
        """The latent frames that the transformer sees at once."""
        return self.windows.size if self.windows is not None else self.latents

    @property
    def volume(self) -> int:
        """What activations are proportional to: latent frames seen at once times pixels of a frame."""
        return self.seen * self.height * self.width

    @property
    def tiles(self) -> bool:
        """Whether the picture is larger than a usual tile of the autoencoder, and such tiles fit together."""
        tiles = Tiles.usual(self.spec.vae)
        try:
            tiles.grid(self.spec.vae)
        except SizeError:
            return False
        return self.height > tiles.height or self.width > tiles.width

    def resized(self, frames: int, latents: int, height: int, width: int) -> Request:
        """The same at another size; what is given keeps its share of the frames."""
        given = self.given if self.given <= 1 else min(self.given, frames)
        windows = self.windows
        if windows is not None:
            windows = replace(windows, frames=latents) if latents > windows.size else None
        return replace(
            self, frames=frames, latents=latents, height=height, width=width, given=given, windows=windows
        )

    def transformer(self, layers: int) -> Transformer:
        """The real network without memory, with this many blocks."""
        config = self.spec.transformer.model_copy(update={"num_layers": layers})
        with torch.device("meta"):
            return Transformer(config).eval().to(self.dtype)

    def controlnet(self, config: ControlNetConfig, layers: int) -> ControlNet:
        """A real ControlNet without memory, with this many blocks."""
        with torch.device("meta"):
            return ControlNet(config.model_copy(update={"num_layers": layers})).eval().to(self.dtype)

    @property
    def times(self) -> list[int]:
        """The times of the steps."""
        return [step.t for step in Schedule(self.spec.schedule).path(self.steps)]

    def vae(self) -> VAE:
        """The real autoencoder without memory, reading as few frames at a time as the device of the request."""
        with torch.device("meta"):
            vae = VAE(self.spec.vae).eval().to(self.dtype)
        for module in vae.modules():
            if self.on_cpu and isinstance(module, CausalConv3d):
                module.window = min(module.window, CPU_ELEMENTS)
        return vae

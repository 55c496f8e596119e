"""The whole model that a trained transformer belongs to: to make sample videos with, and to write."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from cogvideox.diffusion import Schedule
from cogvideox.model import CogVideoX
from cogvideox.presets import PRESETS
from cogvideox.text import T5Encoder, TextEncoder
from cogvideox.transformer import Transformer
from cogvideox.vae import VAE
from cogvideox.video import Video


@dataclass(frozen=True)
class TrainedModel:
    """What stands around the transformer: the frozen networks, the schedule, the size of what it makes by default.

    ``native``: (frames, height, width, fps). ``start``: the model folder the run started from. ``preset``: the
    preset that is named in the result; None: that of ``start``.
    """

    vae: VAE
    text: TextEncoder
    schedule: Schedule
    native: tuple[int, int, int, float]
    image: bool
    start: Path | None
    preset: str | None

    def sample(
        self, transformer: nn.Module, prompt: str, *, seed: int, steps: int, image: torch.Tensor | None
    ) -> Video:
        """A video of ``prompt``; ``image``: its first frame, uint8 [h, w, 3], for image-to-video."""
        from cogvideox.generation import GenerateOptions, generate

        options = GenerateOptions(prompt=prompt, seed=seed, steps=steps, attention="torch")
        first = image.numpy() if image is not None else None
        return generate(self._assembled(transformer, self.vae, self.text.model), options, image=first)

    def write(self, transformer: nn.Module, folder: Path) -> None:
        """A whole model folder, stored and computed as the model that was started from; a new one is stored in float16
        and computed in float32."""
        from cogvideox.checkpoints import save_model
        from cogvideox.checkpoints.specs import read_record, stored_dtype

        stored: torch.dtype = torch.float16
        computed: str | None = "float32"
        if self.start is not None:
            stored, computed = stored_dtype(self.start), read_record(self.start).dtype
        networks = (transformer, self.vae, self.text.model)
        copies = (copy.deepcopy(network).to(stored).cpu() for network in networks)
        save_model(self._assembled(*copies), folder, overwrite=True, dtype=computed)

    def _assembled(self, transformer: nn.Module, vae: nn.Module, encoder: nn.Module) -> CogVideoX:
        from cogvideox.checkpoints.specs import read_record

        frames, height, width, fps = self.native
        name = self.preset or (read_record(self.start).preset if self.start is not None else "")
        return CogVideoX.assemble(
            transformer=cast(Transformer, transformer),
            vae=cast(VAE, vae),
            text=TextEncoder(cast(T5Encoder, encoder), self.text.tokenizer, self.text.max_tokens),
            schedule=self.schedule,
            kind="i2v" if self.image else "t2v",
            name=name,
            height=height,
            width=width,
            frames=frames,
            fps=fps,
            guidance=PRESETS[name].guidance if name in PRESETS else None,
        )

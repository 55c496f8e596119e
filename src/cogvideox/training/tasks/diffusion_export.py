"""The whole model that a trained transformer belongs to: to make sample videos with, and to write."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cogvideox.diffusion import Schedule
from cogvideox.model import CogVideoX
from cogvideox.presets import PRESETS
from cogvideox.spec import Kind
from cogvideox.text import T5Encoder, TextEncoder
from cogvideox.transformer import Transformer
from cogvideox.vae import VAE
from cogvideox.video import Video


@dataclass(frozen=True)
class TrainedModel:
    """What stands around the transformer: the frozen networks, the schedule, the size of what it makes by default.

    ``native``: (frames, height, width, fps). ``kind``: what the model makes a video from. ``start``: the model folder
    the run started from. ``preset``: the preset that is named in the result, where it is of this kind; None: that of
    ``start``. ``sampling``: guidance, times and sampler that the result is made for, where it is made for some.
    """

    vae: VAE
    text: TextEncoder
    schedule: Schedule
    native: tuple[int, int, int, float]
    kind: Kind
    start: Path | None
    preset: str | None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def sample(
        self, transformer: nn.Module, prompt: str, *, seed: int, steps: int, given: Mapping[str, Any]
    ) -> Video:
        """A video of ``prompt``; ``given``: what its kind of model is given besides, as keywords of ``generate``."""
        from cogvideox.generation import GenerateOptions, generate

        options = GenerateOptions(prompt=prompt, seed=seed, attention="torch")
        if "times" not in self.sampling:
            options = options.changed(steps=steps)
        return generate(self._assembled(transformer, self.vae, self.text.model), options, **given)

    def write(self, transformer: nn.Module, folder: Path) -> None:
        """A whole model folder, stored and computed as the model that was started from; a new one is stored in float16
        and computed in float32."""
        from cogvideox.checkpoints import save_model
        from cogvideox.checkpoints.record import read_record
        from cogvideox.checkpoints.specs import stored_dtype

        stored: torch.dtype = torch.float16
        computed: str | None = "float32"
        if self.start is not None:
            stored, computed = stored_dtype(self.start), read_record(self.start).dtype
        networks = (transformer, self.vae, self.text.model)
        copies = (copy.deepcopy(network).to(stored).cpu() for network in networks)
        save_model(self._assembled(*copies), folder, overwrite=True, dtype=computed)

    def _assembled(self, transformer: nn.Module, vae: nn.Module, encoder: nn.Module) -> CogVideoX:
        from cogvideox.checkpoints.record import read_record

        frames, height, width, fps = self.native
        own = read_record(self.start) if self.start is not None and self.preset is None else None
        name = self.preset or (own.preset if own is not None else "")
        known = PRESETS.get(name)
        sampling: dict[str, Any] = {"guidance": known.guidance if known is not None else None}
        if own is not None:  # what the start is made for, its result is too
            kept = {"guidance": own.guidance, "times": own.times, "sampler": own.sampler}
            sampling |= {key: value for key, value in kept.items() if value is not None}
        return CogVideoX.assemble(
            transformer=cast(Transformer, transformer),
            vae=cast(VAE, vae),
            text=TextEncoder(cast(T5Encoder, encoder), self.text.tokenizer, self.text.max_tokens),
            schedule=self.schedule,
            kind=self.kind,
            name=name if known is None or known.kind == self.kind else "",
            licence=known.licence if known is not None else "",
            height=height,
            width=width,
            frames=frames,
            fps=fps,
            **{**sampling, **self.sampling},
        )

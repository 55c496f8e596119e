"""Distillation from prompts alone: nothing is encoded but texts, and every sample begins at noise.

Trajectory distribution matching reads nothing of a clip but its caption, so a file of prompts is all it needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cogvideox.config import Config
from cogvideox.data.cache import TensorCache
from cogvideox.data.clips import ClipDataset
from cogvideox.data.latents import EncodedClips, digest_of, embedded
from cogvideox.errors import ConfigError, MediaError
from cogvideox.files.text import MOST_TABLE_BYTES, read_small_text
from cogvideox.spec import ModelSpec
from cogvideox.training.tasks.diffusion_batches import DiffusionBatcher
from cogvideox.training.tasks.diffusion_data import DiffusionData


class PromptFile(Config):
    """Prompts to distil with, and the size of the videos that student and teacher make of them."""

    file: str = Field(description="a text file, a prompt on each line")
    frames: int | None = Field(None, gt=0, description="frames of a video; null: the model's")
    height: int | None = Field(None, gt=0, description="pixels; null: the model's")
    width: int | None = Field(None, gt=0, description="pixels; null: the model's")
    held_out: int = Field(
        4, ge=1, description="prompts, the last of the file, that are compared and not trained on"
    )

    def read(self) -> list[str]:
        """The prompts in order, without empty lines. Raises ConfigError for too few of them."""
        try:
            text = read_small_text(self.file, most=MOST_TABLE_BYTES, error=ConfigError)
        except ConfigError as error:
            raise ConfigError(f"task.prompts.file {error}") from None
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
        if len(prompts) <= self.held_out:
            raise ConfigError(
                f"task.prompts.file {self.file}: {len(prompts)} prompts, of which {self.held_out} are held out; give "
                "more, or lower task.prompts.held_out"
            )
        return prompts

    def check_size(self, model: ModelSpec) -> None:
        """Raise ConfigError for a size or a count of frames that the model does not make as it is."""
        frames, height, width, _ = self.native_size(model)
        ratio = model.vae.spatial_compression_ratio * model.transformer.patch_size
        for name, size in (("height", height), ("width", width)):
            if size % ratio:
                above = -(-size // ratio) * ratio
                raise ConfigError(
                    f"task.prompts.{name} {size}: the model needs a multiple of {ratio}; try {above}"
                )
        back = model.vae.pixel_frames(model.vae.latent_frames(frames))
        if back != frames:
            raise ConfigError(
                f"task.prompts.frames {frames}: does not fill the model's latents; set one such as {model.frames}"
            )

    def native_size(self, model: ModelSpec) -> tuple[int, int, int, float]:
        """(frames, height, width, fps) of the videos."""
        return self.frames or model.frames, self.height or model.height, self.width or model.width, model.fps


class PromptSource(ClipDataset):
    """Prompts by number, as clips that have a caption and no pixels."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def name(self, index: int) -> str:
        return f"prompt {index + 1}"

    def content(self, index: int) -> str:
        return "prompt/" + hashlib.sha256(self.prompts[index].encode("utf-8", "replace")).hexdigest()

    def caption(self, index: int, variant: int) -> str:
        return self.prompts[index]

    def pixels(self, index: int) -> np.ndarray:
        raise MediaError(f"{self.name(index)}: a prompt has no frames")

    def to_plain(self) -> dict[str, Any]:
        return {"kind": "prompts", "prompts": self.prompts}

    def clip_to_plain(self, index: int) -> int:
        return index


@dataclass
class PromptClips(EncodedClips):
    """Prompts in the place of encoded clips: captions and the shape of the latents, all zeros."""

    latent: tuple[int, ...] = field(default=())

    def shape(self, index: int) -> tuple[int, ...]:
        return self.latent

    def latents(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(self.latent), torch.zeros(self.latent)


class PromptData(DiffusionData):
    """The prompts of a file, dealt out to micro-steps as clips are; the last ones are held out."""

    def __init__(self, prompts: PromptFile, model: ModelSpec, *args: Any, **more: Any) -> None:
        self.prompts, self.size = prompts, prompts.native_size(model)
        super().__init__(*args, **more)

    def native_size(self) -> tuple[int, int, int, float]:
        return self.size

    def _world(self, micro_steps: int | None) -> tuple[DiffusionBatcher, DiffusionBatcher]:
        if self.kind != "t2v":
            raise ConfigError(
                f"task.prompts: a model of kind {self.kind} makes videos from more than a prompt; give clips instead, "
                "task.data.folder"
            )
        prompts = self.prompts.read()
        weights = f"{digest_of(self.text.model)}/{self.text.max_tokens}"
        cached = embedded(["", *prompts], self._embed, weights, self.config.cache)

        def embed(texts: Sequence[str]) -> list[Tensor]:
            return [cached(text) for text in texts]

        last = len(prompts) - self.prompts.held_out
        train, held_out = (self._clips(part) for part in (prompts[:last], prompts[last:]))
        return self._batcher(train, embed), self._batcher(held_out, embed)

    def _clips(self, prompts: Sequence[str]) -> PromptClips:
        frames, height, width, _ = self.size
        vae, source = self.vae.config, PromptSource(prompts)
        ratio = vae.spatial_compression_ratio
        latent = (vae.latent_channels, vae.latent_frames(frames), height // ratio, width // ratio)
        keys = [source.content(index) for index in range(len(prompts))]
        cache = TensorCache(Path(self.config.cache))
        return PromptClips(source, cache, list(range(len(prompts))), keys, latent=latent)

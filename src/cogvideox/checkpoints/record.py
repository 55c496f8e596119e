"""``cogvideox.json``: what the diffusers layout cannot say about a model, in one file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvideox.checkpoints.tensors import read_json
from cogvideox.config import Config
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS
from cogvideox.spec import GUIDANCE, ModelSpec
from cogvideox.transformer import TransformerConfig
from cogvideox.vae import VAEConfig

NAME = "cogvideox.json"

OWN_TRANSFORMER = ("use_positional_embeddings", "position_mode", "attention", "experts")
RELEASED_TRANSFORMER = tuple(name for name in TransformerConfig.model_fields if name not in OWN_TRANSFORMER)
OWN_VAE = ("time_kernel", "chunk_frames", "chunk_latents")


class ModelRecord(Config):
    """The fields of the file. Each may be absent, since folders of others have no such file."""

    format: Literal[1] = Field(1, description="version of this file")
    preset: str = Field("", description="the row of the preset table this model is")
    kind: Literal["t2v", "i2v", ""] = Field("", description="text to video, or image and text to video")
    height: int | None = Field(None, gt=0, le=65_536, description="native height in pixels")
    width: int | None = Field(None, gt=0, le=65_536, description="native width in pixels")
    frames: int | None = Field(None, gt=0, le=65_536, description="native number of frames")
    fps: float | None = Field(None, gt=0, le=1000, description="native frames per second")
    guidance: float | None = Field(
        None, ge=0, le=1000, description="guidance when none is asked for, if it is not 6"
    )
    dtype: str | None = Field(None, description="precision to compute in, when it is not the one stored")
    licence: str = Field("", description="under which the weights may be used")
    transformer: dict[str, Any] = Field(
        {}, description="settings that diffusers' transformer/config.json has no name for"
    )
    vae: dict[str, Any] = Field({}, description="settings that diffusers' vae/config.json has no name for")
    provenance: dict[str, Any] = Field({}, description="what made the weights: run, data, step, versions")
    files: dict[str, str] = Field({}, description="SHA-256 of each weights file")

    @classmethod
    def of(cls, spec: ModelSpec, **more: Any) -> ModelRecord:
        """The record of a model of this spec; ``more``: fields that its spec does not hold, or other values."""
        known = PRESETS.get(spec.name)
        native: dict[str, Any] = dict(
            preset=spec.name,
            kind=spec.kind,
            height=spec.height,
            width=spec.width,
            frames=spec.frames,
            fps=spec.fps,
            guidance=None if spec.guidance == GUIDANCE else spec.guidance,
            licence=spec.licence or (known.licence if known else ""),
        )
        return cls.model_construct(**(native | more))

    def write(self, folder: Path) -> None:
        """Write the file into a model folder."""
        values = self.model_dump(mode="json", exclude_none=True)
        (folder / NAME).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_record(folder: Path) -> ModelRecord:
    """The record of a model folder, empty when there is none; raises ConfigError or CheckpointError."""
    file = folder / NAME
    if not file.is_file():
        return ModelRecord()
    values = read_json(file)
    if values.get("format", 1) != 1:
        raise CheckpointError(f"{file}: format {values['format']!r}, this version reads 1; upgrade cogvideox")
    return ModelRecord.parse(values, str(file))


def own_settings(transformer: TransformerConfig | None, vae: VAEConfig | None) -> dict[str, dict[str, Any]]:
    """The settings that differ from what a reader of the diffusers files alone would assume."""
    found: dict[str, dict[str, Any]] = {"transformer": {}, "vae": {}}
    if transformer is not None:
        values = transformer.model_dump(mode="json")
        plain = TransformerConfig.parse({key: values[key] for key in RELEASED_TRANSFORMER}).model_dump(
            mode="json"
        )
        found["transformer"] = {key: value for key, value in values.items() if plain[key] != value}
    if vae is not None:
        values, plain = vae.model_dump(mode="json"), VAEConfig().model_dump(mode="json")
        found["vae"] = {key: values[key] for key in OWN_VAE if values[key] != plain[key]}
    return found

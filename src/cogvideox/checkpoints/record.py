"""``cogvideox.json`` of a model folder: what the diffusers layout cannot say about a model, in one file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvideox.checkpoints.hub import exists
from cogvideox.checkpoints.tensors import read_json
from cogvideox.config import Config
from cogvideox.diffusion.samplers import SamplerName
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS
from cogvideox.spec import GUIDANCE, Kind, ModelSpec

RECORD = "cogvideox.json"
"""The name of the file."""


class ModelRecord(Config):
    """The fields of the file. Each may be absent, since folders of others have no such file."""

    format: Literal[1] = Field(1, description="version of this file")
    preset: str = Field("", description="the row of the preset table this model is")
    kind: Kind | Literal[""] = Field("", description="what the model makes a video from")
    condition_noise: float = Field(
        0.0, ge=0, le=10, description="noise on the pixels of a condition before they are encoded"
    )
    height: int | None = Field(None, gt=0, le=65_536, description="native height in pixels")
    width: int | None = Field(None, gt=0, le=65_536, description="native width in pixels")
    frames: int | None = Field(None, gt=0, le=65_536, description="native number of frames")
    fps: float | None = Field(None, gt=0, le=1000, description="native frames per second")
    guidance: float | None = Field(
        None, ge=0, le=1000, description="guidance when none is asked for, if it is not 6"
    )
    times: tuple[int, ...] | None = Field(None, description="the times that a model of few steps visits")
    sampler: SamplerName | None = Field(None, description="how a model of few steps makes one")
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
            condition_noise=max((each.noise for each in spec.conditions), default=0.0),
            height=spec.height,
            width=spec.width,
            frames=spec.frames,
            fps=spec.fps,
            guidance=None if spec.guidance == GUIDANCE else spec.guidance,
            times=spec.times or None,
            sampler=spec.sampler if spec.times else None,
            licence=spec.licence or (known.licence if known else ""),
        )
        return cls.model_construct(**(native | more))

    def write(self, folder: Path) -> None:
        """Write the file into a model folder."""
        values = self.model_dump(mode="json", exclude_none=True)
        (folder / RECORD).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_record(folder: Path) -> ModelRecord:
    """The record of a model folder, empty when there is none; raises ConfigError or CheckpointError."""
    file = folder / RECORD
    if not exists(file):
        return ModelRecord()
    values = read_json(file)
    if values.get("format", 1) != 1:
        raise CheckpointError(f"{file}: format {values['format']!r}, this version reads 1; upgrade cogvideox")
    return ModelRecord.parse(values, str(file))

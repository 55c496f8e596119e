"""What goes from node to node, and pixels as ComfyUI and the package have them.

ComfyUI's IMAGE is float [b, h, w, c] in 0..1, its MASK [b, h, w]; the package has uint8 frames [t, h, w, 3] and masks
[t, h, w]. What the package made comes back bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io

from cogvideox.errors import InputError
from cogvideox.generation.given import read_given
from cogvideox.generation.job import Job, Prepared, load, parse_options, prepare, settled
from cogvideox.generation.pipeline import Sampled
from cogvideox.studio.loaded_models import LoadedModel, LoadedModels

ModelType = io.Custom("COGVIDEOX_MODEL")
TextType = io.Custom("COGVIDEOX_TEXT")
ConditionsType = io.Custom("COGVIDEOX_CONDITIONS")
LatentsType = io.Custom("COGVIDEOX_LATENTS")
VideoType = io.Custom("COGVIDEOX_VIDEO")


@dataclass(frozen=True)
class Conditions:
    """What a video is made from besides its text: ``brought`` as ``read_given`` takes it, and further options."""

    brought: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChosenModel:
    """A model and how it is run. Its weights are loaded when a video is planned, and stay while ComfyUI keeps this."""

    job: Job
    models: LoadedModels

    @classmethod
    def of(cls, job: Job) -> ChosenModel:
        """A model of which nothing is loaded yet."""
        return cls(job, LoadedModels(job.target_device, _load))

    def with_adapter(self, path: str, strength: float) -> ChosenModel:
        """The same model with one adapter more; what is loaded is shared."""
        return replace(self, job=replace(self.job, adapters=(*self.job.adapters, (path, strength))))

    def prepare(self, options: Mapping[str, Any], conditions: Conditions) -> Prepared:
        """The request checked and planned, before a weight is read. Raises the package's errors."""
        job, values = settled(self.job, {**options, **conditions.options})
        parsed = parse_options(values)
        given = read_given(parsed, **conditions.brought)
        return prepare(job, parsed, given=given, limit=self.models.limit(job.memory_limit))

    def load(self, prepared: Prepared) -> LoadedModel:
        """The weights of a planned request: those that are loaded already, or read now."""
        return self.models.get(prepared.job, prepared)


def _load(job: Job, prepared: Prepared) -> Any:
    options = prepared.plan.options
    return load(job, prepared.folder, policy=prepared.policy, control_nets=options.control_nets)


@dataclass(frozen=True)
class Latents:
    """Clean latents of a planned video, the plan, and the model that decodes them."""

    sampled: Sampled
    prepared: Prepared
    model: ChosenModel


def device_of_comfyui() -> str:
    """Where ComfyUI computes, such as cuda:0 or cpu."""
    return str(comfy.model_management.get_torch_device())


def free_device(device: str) -> None:
    """Let ComfyUI take its own models off a device; it loads them again when it needs them."""
    if torch.device(device).type != "cpu":
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


def found_in(kind: str, name: str) -> str:
    """The path of a file or folder of ComfyUI's models by its name; any other name as it is."""
    for folder in folder_paths.get_folder_paths(kind):
        inside = Path(folder) / name
        if name.strip() and not Path(name).is_absolute() and ".." not in Path(name).parts and inside.exists():
            return str(inside)
    return name


def stamp_of(path: str) -> float:
    """When anything at a path was last changed; 0 for a name that is no path."""
    place = Path(path)
    if not place.exists():
        return 0.0
    return max(each.stat().st_mtime for each in (place, *(place.rglob("*") if place.is_dir() else ())))


def frames_of(images: torch.Tensor) -> np.ndarray:
    """IMAGE to frames, uint8 [t, h, w, 3]; an alpha channel is left out."""
    pixels = images.detach().float().cpu()[..., :3].clamp(0, 1)
    return (pixels * 255).round().byte().contiguous().numpy()


def picture_of(name: str, images: torch.Tensor) -> np.ndarray:
    """An IMAGE of one picture, uint8 [h, w, 3]. Raises InputError for a batch of several."""
    if len(images) != 1:
        raise InputError(f"{name}: a batch of {len(images)} images; connect one, or the batch to video")
    return frames_of(images)[0]


def mask_of(mask: torch.Tensor) -> np.ndarray:
    """MASK to a mask of the package, uint8 [t, h, w], 255 where it is 1."""
    values = mask.detach().float().cpu().clamp(0, 1)
    return (values * 255).round().byte().reshape(-1, *values.shape[-2:]).numpy()


def images_of(frames: np.ndarray) -> torch.Tensor:
    """Frames, uint8 [t, h, w, 3], to IMAGE."""
    return torch.from_numpy(frames).float() / 255

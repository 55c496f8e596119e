"""What a fine-tuning takes from the model it starts from where settings are left open: networks, sizes, precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from cogvideox.checkpoints.hub import HUB_ID, find_folder
from cogvideox.checkpoints.specs import read_spec
from cogvideox.cpu_ops import half_is_native
from cogvideox.device import best_device
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS
from cogvideox.spec import ModelSpec
from cogvideox.training.tasks.diffusion_settings import WORLD_TEXT, WORLD_VAE, DiffusionSettings
from cogvideox.training.tasks.sizes import SizeSetting, default_budget

LARGE = 1e9
"""Weights from which on blocks are recomputed and a frozen base is bfloat16, where the settings leave it open."""

Settings = TypeVar("Settings", bound=DiffusionSettings)


def completed(task: Settings, fetch: bool = False) -> Settings:
    """The settings with everything filled in that ``task.start`` decides; no weight is loaded.

    ``fetch``: a hub model that is neither a preset nor on this machine is downloaded; otherwise what it decides
    stays open.
    """
    base = base_of(task, fetch)
    vae, text = (named or task.start for named in (task.vae, task.text))
    changes: dict[str, Any] = {"vae": vae or WORLD_VAE, "text": text or WORLD_TEXT}
    large = base is not None and approximate_weights(base) > LARGE
    if task.recompute is None:
        changes["recompute"] = large
    if task.lora is not None and task.lora.base is None:
        changes["lora"] = task.lora.changed(base="bfloat16" if large else "float32")
    if task.data is not None:
        size = task.data.size.resolved(base)
        budget = task.data.budget or (default_budget(size, base) if base is not None else 25_000)
        changes["data"] = task.data.changed(size=SizeSetting.of(size), budget=budget)
    return task.changed(**changes)


def default_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the device that trains has units for it: on a CPU without them a step takes many times as long."""
    return "bf16" if best_device() != "cpu" or half_is_native(torch.bfloat16) else "fp32"


def base_of(task: DiffusionSettings, fetch: bool = False) -> ModelSpec | None:
    """The model that is trained: that of ``start`` or ``preset``, with the task's own network; None: not known."""
    base = local_settings(task.start, fetch) if task.start is not None else None
    if base is None and task.preset in PRESETS:
        base = PRESETS[task.preset]
    if base is None or task.transformer is None:
        return base
    return replace(base, transformer_settings=task.transformer.model_dump(mode="json"))


def local_settings(name: str, fetch: bool = False) -> ModelSpec | None:
    """The settings of a preset, a folder or a download; None where they are not on this machine."""
    if name in PRESETS and not Path(name).exists():
        return PRESETS[name]
    known = next((preset for preset in PRESETS.values() if preset.hub == name), None)
    if known is not None and not Path(name).exists():
        return known
    folder = local_folder(name)
    if folder is None and fetch and HUB_ID.fullmatch(name):
        folder = find_folder(name)
    return read_spec(folder) if folder is not None and (folder / "model_index.json").is_file() else None


def local_folder(name: str) -> Path | None:
    """The folder of a model that is on this machine: a path, a shipped one, or a complete earlier download."""
    if Path(name).expanduser().exists():
        return Path(name).expanduser()
    hub = PRESETS[name].hub if name in PRESETS else name
    if hub is None or not HUB_ID.fullmatch(hub):
        try:
            return find_folder(name)  # shipped: no id, so nothing is downloaded
        except CheckpointError:
            return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def approximate_weights(model: ModelSpec) -> float:
    """Number of weights of a transformer, about: those of its blocks' matrices."""
    config = model.transformer
    return 12.0 * config.num_layers * config.width**2

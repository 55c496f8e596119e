"""What a fine-tuning takes from the model it starts from when it is not told: networks, sizes, rows, precision.

And which of its settings have no effect as the others stand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from cogvideox.checkpoints.hub import HUB_ID, find_folder
from cogvideox.checkpoints.specs import read_spec
from cogvideox.cpu_ops import half_is_native
from cogvideox.device import best_device
from cogvideox.errors import CheckpointError
from cogvideox.presets import PRESETS
from cogvideox.spec import ModelSpec
from cogvideox.training.tasks.sizes import SizeSetting, usual_budget

if TYPE_CHECKING:
    from cogvideox.training.tasks.diffusion import DiffusionTraining
    from cogvideox.training.tasks.lora import LoraTuning

WORLD_VAE, WORLD_TEXT = "runs/world-vae/model", "runs/world-text/model"
LARGE = 1e9
"""Weights above which blocks are run again on the way back and a frozen base is bfloat16, if nobody says otherwise."""


def completed(task: DiffusionTraining, fetch: bool = False) -> DiffusionTraining:
    """The settings with everything filled in that ``task.start`` decides; no weight is loaded.

    ``fetch``: a hub model that is neither in the table nor on this machine is downloaded; otherwise what it decides
    stays open.
    """
    row = row_of(task, fetch)
    changes: dict[str, Any] = {
        "vae": task.vae or task.start or WORLD_VAE,
        "text": task.text or task.start or WORLD_TEXT,
    }
    large = row is not None and weights_of(row) > LARGE
    if task.recompute is None:
        changes["recompute"] = large
    if task.lora is not None and task.lora.base is None:
        changes["lora"] = task.lora.model_copy(update={"base": "bfloat16" if large else "float32"})
    if task.data is not None:
        size = task.data.size.resolved(row)
        budget = task.data.budget or (usual_budget(size, row) if row is not None else 25_000)
        changes["data"] = task.data.model_copy(update={"size": SizeSetting.of(size), "budget": budget})
    return task.model_copy(update=changes)


def usual_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the device that trains has units for it: on a CPU without them a step takes many times as long."""
    return "bf16" if best_device() != "cpu" or half_is_native(torch.bfloat16) else "fp32"


def row_of(task: DiffusionTraining, fetch: bool = False) -> ModelSpec | None:
    """The settings of the model that is trained: those of ``start``, with the task's own network; None: not known."""
    row = settings_here(task.start, fetch) if task.start is not None else None
    if row is None and task.preset in PRESETS:
        row = PRESETS[task.preset]
    if row is None or task.transformer is None:
        return row
    return replace(row, transformer_settings=task.transformer.model_dump(mode="json"))


def settings_here(place: str, fetch: bool = False) -> ModelSpec | None:
    """The settings of a preset, a folder or a download; None where they are not on this machine."""
    if place in PRESETS and not Path(place).exists():
        return PRESETS[place]
    known = next((row for row in PRESETS.values() if row.hub == place and not Path(place).exists()), None)
    if known is not None:
        return known
    folder = here(place)
    if folder is None and fetch and HUB_ID.fullmatch(place):
        folder = find_folder(place)
    return read_spec(folder) if folder is not None and (folder / "model_index.json").is_file() else None


def here(place: str) -> Path | None:
    """The folder of a model that is on this machine: a path, a shipped one, or a complete earlier download."""
    if Path(place).expanduser().exists():
        return Path(place).expanduser()
    hub = PRESETS[place].hub if place in PRESETS else place
    if hub is None or not HUB_ID.fullmatch(hub):
        try:
            return find_folder(place)  # shipped: no id, so nothing is downloaded
        except CheckpointError:
            return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def weights_of(row: ModelSpec) -> float:
    """Weights of a transformer, about: those of its blocks' matrices."""
    config = row.transformer
    return 12.0 * config.num_layers * config.width**2


OF_THE_WORLD = {
    "frames": "task.data.size.frames",
    "size": "task.data.size.short_side, or .height and .width",
    "clips": "task.data.best, or fewer files in the folder",
    "stories": "task.data.folder",
    "clips_seed": "seed",
}
"""Settings of the rendered clips, and what does the same for a folder."""


def without_effect(task: DiffusionTraining) -> dict[str, str]:
    """Name (dotted, within ``task``) -> why it has no effect, and what to set instead."""
    data, reasons = task.data, dict[str, str]()
    if data is None:
        return reasons
    folder = data.folder or "a folder"
    for name, instead in OF_THE_WORLD.items():
        reasons[name] = f"speaks of the tiny world and has no effect for {folder}; set {instead}"
    if data.rows != "batch":
        reasons["batch"] = (
            f"has no effect with task.data.rows={data.rows}; set task.data.budget (tokens of a row) and "
            "task.accumulation (rows of a step), or task.data.rows=batch"
        )
    else:
        reasons["data.budget"] = "has no effect with task.data.rows=batch; set task.batch (clips of a row)"
    if data.films is None:
        reasons["data.recipe"] = "says how raw films are curated, and there are none; set task.data.films"
    return reasons | _of_sizes(data.size) | _of_an_adapter(task.lora)


def _of_sizes(size: SizeSetting) -> dict[str, str]:
    if size.height is None:
        return {}
    why = "has no effect beside task.data.size.height and .width; set those to null to use it"
    return {"data.size.short_side": why, "data.size.longest": why}


def _of_an_adapter(lora: LoraTuning | None) -> dict[str, str]:
    if lora is None or lora.start is None:
        return {}
    why = "the layers and ranks of task.lora.start are kept; leave it out, or begin a fresh adapter"
    return {"lora.rank": why, "lora.targets": why}

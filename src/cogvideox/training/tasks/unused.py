"""Settings of the transformer's training that change nothing as the others stand, and what to set instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cogvideox.training.tasks.diffusion import DiffusionTraining
    from cogvideox.training.tasks.lora import LoraTuning
    from cogvideox.training.tasks.sizes import SizeSetting

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

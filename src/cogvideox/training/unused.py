"""Settings that would change nothing are refused, naming the one that does what was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cogvideox.errors import ConfigError

if TYPE_CHECKING:
    from cogvideox.training.tasks.diffusion import DiffusionTraining

OF_THE_WORLD = {
    "frames": "task.data.size.frames",
    "size": "task.data.size.short_side, or .height and .width",
    "clips": "task.data.best, or fewer files in the folder",
    "stories": "task.data.folder",
    "clips_seed": "seed",
}
"""Settings of the rendered clips, and what does the same for a folder."""


def check_used(task: DiffusionTraining) -> None:
    """Refuse settings of a task that differ from their defaults and have no effect. Raises ConfigError."""
    fields = type(task).model_fields
    named = [name for name, field in fields.items() if getattr(task, name) != field.default]
    _refuse(task, named)


def check_used_names(task: DiffusionTraining, settings: Iterable[str]) -> None:
    """The same for ``key.path=value`` settings somebody wrote, whatever their value. Raises ConfigError."""
    names = (setting.partition("=")[0].removeprefix("base.") for setting in settings)
    _refuse(task, [name.removeprefix("task.") for name in names if name.startswith("task.")])


def _refuse(task: DiffusionTraining, named: Iterable[str]) -> None:
    reasons = without_effect(task)
    for name in named:
        found = next((why for key, why in reasons.items() if name == key or name.startswith(f"{key}.")), None)
        if found is not None:
            raise ConfigError(f"task.{name}: {found}")


def without_effect(task: DiffusionTraining) -> dict[str, str]:
    """Names within ``task`` that change nothing as the others stand, with what to do."""
    data, reasons = task.data, dict[str, str]()
    if data is None:
        return reasons
    place = data.folder or "a folder"
    for name, instead in OF_THE_WORLD.items():
        reasons[name] = f"speaks of the tiny world and has no effect for {place}; set {instead}"
    if data.rows != "batch":
        reasons["batch"] = (
            f"has no effect with task.data.rows={data.rows}; set task.data.budget (tokens of a row) and task.parts "
            "(rows of a step), or task.data.rows=batch"
        )
    else:
        reasons["data.budget"] = "has no effect with task.data.rows=batch; set task.batch (clips of a row)"
    if data.films is None:
        reasons["data.recipe"] = "says how raw films are curated, and there are none; set task.data.films"
    return reasons | _of_sizes(data.size) | _of_an_adapter(task.lora)


def _of_sizes(size: Any) -> dict[str, str]:
    if size.height is None:
        return {}
    why = "has no effect beside task.data.size.height and .width; set those to null to use it"
    return {"data.size.short_side": why, "data.size.longest": why}


def _of_an_adapter(lora: Any) -> dict[str, str]:
    if lora is None or lora.start is None:
        return {}
    why = "the layers and ranks of task.lora.start are kept; leave it out, or begin a fresh adapter"
    return {"lora.rank": why, "lora.targets": why}

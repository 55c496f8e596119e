"""Text, images and videos to video: an open CogVideoX.

    import cogvideox

    model = cogvideox.load("tiny")
    video = cogvideox.generate(model, "a red circle moves to the right", steps=20)
    video.save("red.mp4")

Everything public is listed here and loaded when it is first used, so importing the package is instant.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from cogvideox import errors
    from cogvideox.api import caption, curate, train
    from cogvideox.checkpoints import convert, inspect, load_lora
    from cogvideox.checkpoints import load_model as load
    from cogvideox.checkpoints import save_model as save
    from cogvideox.errors import (
        CheckpointError,
        CogVideoXError,
        ConfigError,
        DependencyError,
        InputError,
        NumericsError,
        OutputError,
    )
    from cogvideox.evaluate_model.options import EvaluateOptions
    from cogvideox.evaluate_model.run import Evaluation, evaluate
    from cogvideox.generation import GenerateOptions, Progress, generate
    from cogvideox.generation.preflight import plan_memory as plan
    from cogvideox.memory import MemoryPlan
    from cogvideox.model import CogVideoX
    from cogvideox.presets import PRESETS, Preset, get_preset
    from cogvideox.spec import ModelSpec
    from cogvideox.video import Video, contact_sheet, read_image, read_video

_HOMES = {
    "api": "caption curate train",
    "checkpoints": "convert inspect load_lora load=load_model save=save_model",
    "errors": "CheckpointError CogVideoXError ConfigError DependencyError InputError NumericsError OutputError",
    "evaluate_model.options": "EvaluateOptions",
    "evaluate_model.run": "Evaluation evaluate",
    "generation": "GenerateOptions Progress generate",
    "generation.preflight": "plan=plan_memory",
    "memory": "MemoryPlan",
    "model": "CogVideoX",
    "presets": "PRESETS Preset get_preset",
    "spec": "ModelSpec",
    "video": "Video contact_sheet read_image read_video",
}
"""Module -> its public names; ``load=load_model``: public under another name than there."""

__all__ = [
    "PRESETS",
    "CheckpointError",
    "CogVideoX",
    "CogVideoXError",
    "ConfigError",
    "DependencyError",
    "EvaluateOptions",
    "Evaluation",
    "GenerateOptions",
    "InputError",
    "MemoryPlan",
    "ModelSpec",
    "NumericsError",
    "OutputError",
    "Preset",
    "Progress",
    "Video",
    "__version__",
    "caption",
    "contact_sheet",
    "convert",
    "curate",
    "errors",
    "evaluate",
    "generate",
    "get_preset",
    "inspect",
    "load",
    "load_lora",
    "plan",
    "read_image",
    "read_video",
    "save",
    "train",
]


def __getattr__(name: str) -> _Any:
    if name == "errors":
        return _import_module("cogvideox.errors")
    for home, names in _HOMES.items():
        for public in names.split():
            alias, _, attribute = public.partition("=")
            if alias == name:
                return getattr(_import_module(f"cogvideox.{home}"), attribute or name)
    raise AttributeError(f"module 'cogvideox' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

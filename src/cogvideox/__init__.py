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
    "load": "checkpoints:load_model",
    "save": "checkpoints:save_model",
    "load_lora": "checkpoints",
    "convert": "checkpoints",
    "inspect": "checkpoints",
    "generate": "generation",
    "GenerateOptions": "generation",
    "Progress": "generation",
    "plan": "generation.preflight:plan_memory",
    "MemoryPlan": "memory",
    "train": "api",
    "curate": "api",
    "caption": "api",
    "evaluate": "evaluate_model.run",
    "EvaluateOptions": "evaluate_model.options",
    "Evaluation": "evaluate_model.run",
    "CogVideoX": "model",
    "Video": "video",
    "read_video": "video",
    "read_image": "video",
    "contact_sheet": "video",
    "PRESETS": "presets",
    "ModelSpec": "spec",
    "Preset": "presets",
    "get_preset": "presets",
    "errors": "errors:",
    "CogVideoXError": "errors",
    "InputError": "errors",
    "ConfigError": "errors",
    "CheckpointError": "errors",
    "OutputError": "errors",
    "NumericsError": "errors",
    "DependencyError": "errors",
}

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
    if name not in _HOMES:
        raise AttributeError(f"module 'cogvideox' has no attribute {name!r}")
    home, colon, attribute = _HOMES[name].partition(":")
    module = _import_module(f"cogvideox.{home}")
    return module if colon and not attribute else getattr(module, attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)

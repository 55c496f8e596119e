"""Prompt to video.

options.py    what can be asked for; loads no torch
frames.py     any number of frames, any size, made from what the network can make; loads no torch
enhance.py    prompts made like the captions of training
planning.py   sizes, frames and shapes of a run, before any network runs
calibration.py  which steps may reuse what an earlier one computed
engine.py     how the transformer runs: modulation tables, attention kernel, reuse
sampling.py   noise and conditions in, latents out
numerics.py   NaN and Inf traced to the layer that made them; the peak of memory
run.py        generate: everything from the prompt to the Video
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvideox.generate.frames import FramePlan, plan_frames, plan_size
    from cogvideox.generate.options import GenerateOptions
    from cogvideox.generate.planning import Given, Plan, plan_run
    from cogvideox.generate.run import Progress, generate
    from cogvideox.generate.sampling import Noises, sample_latents

_HOMES = {
    "frames": ("FramePlan", "plan_frames", "plan_size"),
    "options": ("GenerateOptions",),
    "planning": ("Given", "Plan", "plan_run"),
    "run": ("Progress", "generate"),
    "sampling": ("Noises", "sample_latents"),
}

__all__ = [
    "FramePlan",
    "GenerateOptions",
    "Given",
    "Noises",
    "Plan",
    "Progress",
    "generate",
    "plan_frames",
    "plan_run",
    "plan_size",
    "sample_latents",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableRoom(ModuleType):
    """``cogvideox.generate`` is this room and the function at once, whichever was imported first."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See run.generate."""
        return import_module(f"{__name__}.run").generate(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom

"""Prompt to video.

| file | what it does |
|---|---|
| ``options`` | what can be asked for; loads no torch |
| ``frame_plan`` | any number of frames, any size, made from what the network can make; loads no torch |
| ``prompt_enhance`` | prompts written like the captions of training |
| ``plan`` | sizes, frames and shapes of a run, before any network runs |
| ``preflight`` | what a run will take in time and memory, and whether that can be meant |
| ``beyond`` | words and pictures that the shipped model does not know |
| ``residual_reuse`` | which steps may reuse what an earlier one computed |
| ``calibrate_reuse`` | measures that for a model |
| ``fast_paths`` | how the transformer runs: modulation tables, attention kernel, reuse |
| ``sampling`` | noise and conditions in, latents out |
| ``finite_check`` | NaN and Inf traced to the layer that made them; the peak of memory |
| ``pipeline`` | ``generate``: everything from the prompt to the Video |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvideox.generation.frame_plan import FramePlan, plan_frames, plan_size
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.generation.pipeline import Progress, generate
    from cogvideox.generation.plan import Given, Plan, plan_run
    from cogvideox.generation.sampling import Noises, sample_latents

_HOMES = {
    "frame_plan": ("FramePlan", "plan_frames", "plan_size"),
    "options": ("GenerateOptions",),
    "plan": ("Given", "Plan", "plan_run"),
    "pipeline": ("Progress", "generate"),
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

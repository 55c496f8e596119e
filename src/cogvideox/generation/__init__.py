"""Prompt to video.

| file | what it does |
|---|---|
| ``options`` | ``GenerateOptions``: everything that decides one video; loads no torch |
| ``frame_plan`` | any number of frames and any size, from what the network can make; loads no torch |
| ``control_net_entry`` | a ControlNet of a run as it is typed; loads no torch |
| ``control_nets`` | ControlNets: checked against the model, loaded |
| ``given`` | what a run is given besides its prompt, read and checked |
| ``prompt_times`` | several prompts in one text, with their times; loads no torch |
| ``segments`` | a long video as segments one after the other, blended in pixels |
| ``windows`` | whether a run is made in context windows, and in which |
| ``plan`` | sizes, frames and shapes of a run, before any network runs |
| ``preflight`` | what a request needs in time and memory, and whether it can be made |
| ``recommended`` | settings that adapters and published recipes of few steps ask for |
| ``distilled`` | models and adapters of few steps: warnings of a run that leaves what they learned |
| ``prompt_enhance`` | prompts written out like the captions of training |
| ``moving_noise`` | the noise of a removal's second pass, which moves like the first pass's video |
| ``conditions`` | what was given, as the conditions that the model reads |
| ``sampling`` | noise and conditions in, latents out |
| ``residual_reuse`` | which steps may reuse what an earlier one computed |
| ``fast_paths`` | how the transformer runs: modulation tables, attention kernel, reuse |
| ``finite_check`` | NaN and Inf traced to the layer that made them; the peak of memory |
| ``record`` | what a run was and how it went; the manifest is its dump |
| ``text_cache`` | text embeddings on disk, so that a second run loads no text encoder |
| ``turn`` | one run of a model at a time: its turn, its clock, its progress |
| ``pipeline`` | ``generate``: from the prompt to the video, in one go or in two halves |
| ``watch`` | the video so far, while it is made |
| ``job`` | one video from a request to its pixels: prepare, load, make |
| ``video_files`` | the video of a request, its record and previews on disk |
| ``two_passes`` | both passes of a removal in one request |
| ``several`` | the same request with several seeds, and a contact sheet of all |
| ``batch_file`` | the file of a batch: lines of prompts, JSON or CSV |
| ``batch`` | many prompts from a file, resumable |
| ``calibrate_reuse`` | measures ``residual_reuse`` for a model |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvideox.generation.frame_plan import FramePlan, plan_frames, plan_size
    from cogvideox.generation.given import Given
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.generation.pipeline import generate
    from cogvideox.generation.plan import Plan, plan_run
    from cogvideox.generation.record import Generation, RunRecord
    from cogvideox.generation.sampling import Noises, sample_latents
    from cogvideox.generation.turn import Progress

_HOMES = {
    "frame_plan": ("FramePlan", "plan_frames", "plan_size"),
    "options": ("GenerateOptions",),
    "given": ("Given",),
    "plan": ("Plan", "plan_run"),
    "pipeline": ("generate",),
    "record": ("Generation", "RunRecord"),
    "sampling": ("Noises", "sample_latents"),
    "turn": ("Progress",),
}

__all__ = [
    "FramePlan",
    "GenerateOptions",
    "Generation",
    "Given",
    "Noises",
    "Plan",
    "Progress",
    "RunRecord",
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

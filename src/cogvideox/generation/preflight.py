"""Before the first step: what a run will take in time and memory, and whether that can be meant."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from cogvideox.diffusion import is_guided
from cogvideox.errors import InputError
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.plan import Given, Plan
from cogvideox.generation.sampling import guidance_of
from cogvideox.memory import available
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.memory.request import Request
from cogvideox.memory.seconds import efforts, estimate, measured
from cogvideox.model import CogVideoX
from cogvideox.spec import ModelSpec

TOLD = 600.0
"""Seconds above which a Python program is told how long a run will take; the command line always says it."""
LONGEST = 86_400.0
"""Seconds above which a run is refused unless ``anyway`` is set."""
SMALL = (
    3e11  # FLOPs that need no estimate: minutes on the slowest machine; a GPU does a thousand times as many
)


@dataclass(frozen=True)
class Forecast:
    """Estimated seconds of each stage, and what the estimate stands on."""

    stages: dict[str, float]
    basis: str

    @property
    def seconds(self) -> float:
        """The whole run, loading and writing left out."""
        return sum(self.stages.values())


def request_of(spec: ModelSpec, plan: Plan, *, encoded: int, dtype: torch.dtype, device: str) -> Request:
    """What a run asks the planners of memory and time for; ``encoded`` given frames are encoded first."""
    options = plan.options
    return Request(
        spec=spec,
        frames=plan.frames.made,
        latents=plan.frames.latents,
        height=plan.height,
        width=plan.width,
        dtype=dtype,
        device=device,
        given=encoded,
        guided=is_guided(guidance_of(options)),
        sampler=options.sampler,
        steps=options.steps,
        float32_latents=options.latents == "float32",
        tables=options.modulation == "tables",
        reuse=options.reuse > 0,
    )


def encoded_frames(plan: Plan, given: Given) -> int:
    """How many given frames are encoded first."""
    if given.video is not None:
        return plan.context or plan.frames.made
    return 1 if given.image is not None else 0


def steps_of(options: GenerateOptions, given: Given) -> int:
    """Denoising steps that are made: a video that is changed goes through the last part of them."""
    changed = given.video is not None and options.video_use == "change"
    return max(1, int(options.steps * options.strength)) if changed else options.steps


def forecast(request: Request, steps: int) -> Forecast:
    """The time of a run on the device of the request, which must be here."""
    rates = measured(request)
    return Forecast(estimate(request, steps, rates), rates.text())


def refuse_hours(asked: str, found: Forecast, anyway: bool, flag: str) -> None:
    """Raises InputError for a run of more than a day; ``flag`` is what makes it all the same."""
    if found.seconds > LONGEST and not anyway:
        stage = max(found.stages, key=lambda name: found.stages[name])
        raise InputError(
            f"{asked}: about {found.seconds / 3600:,.0f} hours are estimated, most of them to {stage} ({found.basis}); "
            f"ask for a smaller or shorter video or fewer steps; {flag} makes it all the same"
        )


def check(model: CogVideoX, plan: Plan, given: Given) -> None:
    """Refuse what this device cannot hold or would take more than a day for; warn of what takes long.

    Weights that are loaded are not counted again. Raises InputError unless the options say ``anyway``.
    """
    options = plan.options
    encoded = encoded_frames(plan, given)
    request = request_of(model.spec, plan, encoded=encoded, dtype=model.dtype, device=str(model.device))
    asked = f"{plan.frames.asked} frames of {plan.height}x{plan.width} in {options.steps} steps"
    flag = "GenerateOptions(anyway=True)"
    steps = steps_of(options, given)
    work = [each.products + each.attention + each.convolutions for each in efforts(request, steps).values()]
    if sum(work) > (SMALL if request.on_cpu else 1000 * SMALL):
        found = forecast(request, steps)
        refuse_hours(asked, found, options.anyway, flag)
        if found.seconds > TOLD:
            minutes = found.seconds / 60
            warnings.warn(
                f"estimated time: about {minutes:,.0f} minutes for {asked} ({found.basis})", stacklevel=3
            )
    if not options.anyway:  # last: large pictures are counted tile by tile
        _check_memory(request, options, asked, flag)


def _check_memory(request: Request, options: GenerateOptions, asked: str, flag: str) -> None:
    limit = available(request.device)
    if limit is None:
        return
    prediction = MemoryPrediction(request)
    bound = prediction.bound
    if max(bound.text, bound.encode, bound.denoise, bound.decode) < limit / 2:
        return
    way: Any = "tiled" if options.vae_coding == "tiled" else "chunked"
    work = prediction.work("sequence" if options.guidance_pair == "sequence" else "batched", way)
    stages = {"encode": work.encode, "denoise": work.denoise, "decode": work.decode}
    stage = max(stages, key=lambda name: stages[name])
    if stages[stage] > limit:
        raise InputError(
            f"{asked}: {stages[stage] / 1e9:.3g} GB are needed to {stage}, {limit / 1e9:.3g} GB are free; "
            f"ask for a smaller or shorter video, or vae_coding 'tiled'; {flag} makes it all the same"
        )

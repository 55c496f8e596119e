"""Calibrate the reuse of residuals on real runs, and say what a threshold costs in likeness and saves in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cogvideox.evaluation.fidelity import psnr_of_clip
from cogvideox.evaluation.lpips import DistanceNetwork
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.pipeline import generate
from cogvideox.generation.residual_reuse import REACH, Calibration
from cogvideox.model import CogVideoX
from cogvideox.transformer.reuse import measuring
from cogvideox.video import Video


@dataclass(frozen=True)
class Exact:
    """A run that computed every step: its options, its video, and what its residuals showed."""

    options: GenerateOptions
    video: Video
    calibration: Calibration

    @property
    def seconds(self) -> float:
        """How long its steps took, decoding and text left out."""
        return self.video.manifest["run"]["stages"]["denoise"]


@dataclass(frozen=True)
class Trial:
    """What a threshold did to the runs: steps computed of steps, time of the exact steps over its own, and the
    likeness of its frames to the exact ones, as means over runs: peak signal-to-noise ratio in dB (100: equal),
    and LPIPS (0: equal), by the shipped stand-in whose numbers are not published LPIPS.
    """

    threshold: float
    computed: int
    steps: int
    speedup: float
    psnr: float
    lpips_stand_in: float


def observe(model: CogVideoX, options: GenerateOptions, **given: Tensor) -> Exact:
    """Run once with every step computed and its residuals compared; ``given`` as for ``generate``."""
    plain = options.model_copy(update={"reuse": 0.0, "reuse_table": None, "guidance_pair": "batched"})
    with measuring(model.transformer, REACH) as found:
        generate(model, plain, **given)
    video = generate(model, plain, **given)  # timed without the measuring
    run = video.manifest["run"]
    calibration = Calibration(
        model=model.spec.name,
        times=run["times"],
        factors=tuple(map(tuple, found.factors)),
        errors=tuple(map(tuple, found.errors)),
        sampler=options.sampler,
        guidance=video.manifest["config"]["guidance"],
        size=(run["frames"]["made"], run["height"], run["width"]),
    )
    return Exact(plain, video, calibration)


def attempt(model: CogVideoX, exact: Sequence[Exact], threshold: float, table: str, **given: Tensor) -> Trial:
    """The same runs with a threshold, ``table`` being the path of the calibration."""
    seconds, ratios, distances, reused, steps = 0.0, [], [], 0, 1
    looks = DistanceNetwork.load()
    for run in exact:
        options = run.options.model_copy(update={"reuse": threshold, "reuse_table": table})
        video = generate(model, options, **given)
        seconds += video.manifest["run"]["stages"]["denoise"]
        ratios.append(psnr_of_clip(video.frames, run.video.frames))
        distances.append(np.mean(looks(video.frames, run.video.frames)) if looks else np.nan)
        steps = len(video.manifest["run"]["times"])
        reused = len(video.manifest["run"]["engine"].get("reuse", {}).get("reused_steps", ()))
    speedup = sum(run.seconds for run in exact) / seconds
    return Trial(threshold, steps - reused, steps, speedup, float(np.mean(ratios)), float(np.mean(distances)))

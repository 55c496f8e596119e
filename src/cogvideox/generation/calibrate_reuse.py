"""Calibrate the reuse of residuals on real runs, and say what a threshold costs in likeness and saves in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.errors import ConfigError
from cogvideox.evaluation.fidelity import LPIPSDistance, psnr_of_clip
from cogvideox.files.atomic import atomic_file
from cogvideox.generation.given import Given
from cogvideox.generation.job import Job, load, prepare
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.pipeline import Explicit, run
from cogvideox.generation.plan import plan_run
from cogvideox.generation.record import Generation
from cogvideox.generation.residual_reuse import REACH, Calibration, calibration_path
from cogvideox.model import CogVideoX
from cogvideox.progress import SILENT, Reporter
from cogvideox.transformer.reuse import measuring
from cogvideox.video import check_output


@dataclass(frozen=True)
class Exact:
    """A run that computed every step: its options, what it made, and what its residuals showed."""

    options: GenerateOptions
    generation: Generation
    calibration: Calibration

    @property
    def seconds(self) -> float:
        """How long its steps took, decoding and text left out."""
        return self.generation.record.stages["denoise"]


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


def calibrate(
    job: Job,
    runs: Sequence[GenerateOptions],
    *,
    out: Path | None = None,
    thresholds: Sequence[float] = (),
    reporter: Reporter = SILENT,
) -> tuple[Path, list[Trial]]:
    """Measure the residuals of a model on ``runs`` of equal steps, and try thresholds on the same runs.

    Writes the mean calibration to ``out`` (default: beside the model, where generate looks for it) and returns where.
    Raises ConfigError, CheckpointError, OutputError.
    """
    if not all(0 <= value <= 1 for value in thresholds):
        raise ConfigError(f"thresholds {list(thresholds)}: each lies between 0 and 1; write 0.05,0.1")
    prepared = [prepare(job, options, reporter=reporter) for options in runs][0]
    if prepared.plan.windows is not None:
        raise ConfigError(
            f"calibrate: {prepared.plan.frames.asked} frames are made in windows; calibrate with a video of "
            f"{prepared.spec.frames}, whose calibration serves every window"
        )
    path = out or calibration_path(prepared.folder, runs[0].steps)
    check_output(path, job.overwrite)
    model = load(job, prepared.folder, policy=prepared.policy, reporter=reporter)
    exact = []
    for options in runs:
        reporter.note(f"every step: {options.prompt[:60]}")
        exact.append(observe(model, options))
    with atomic_file(path, job.overwrite) as file:
        file.write_text(Calibration.average([each.calibration for each in exact]).to_json(), encoding="utf-8")
    return path, [attempt(model, exact, threshold, str(path)) for threshold in thresholds]


def observe(model: CogVideoX, options: GenerateOptions, **embeddings: Any) -> Exact:
    """Run once with every step computed and its residuals compared; ``embeddings`` as for ``generate``."""
    plain = options.changed(reuse=0.0, reuse_table=None, guidance_pair="batched")
    with measuring(model.transformer, REACH) as found:
        _generate(model, plain, **embeddings)
    made = _generate(model, plain, **embeddings)  # timed without the measuring
    record = made.record
    guidance = record.options.guidance
    assert guidance is not None  # the plan has set it
    calibration = Calibration(
        model=model.spec.name,
        times=tuple(record.times),
        factors=tuple(map(tuple, found.factors)),
        errors=tuple(map(tuple, found.errors)),
        sampler=options.sampler,
        guidance=guidance,
        size=(record.frames.generated, record.height, record.width),
    )
    return Exact(plain, made, calibration)


def attempt(
    model: CogVideoX, exact: Sequence[Exact], threshold: float, table: str, **embeddings: Any
) -> Trial:
    """The same runs with a threshold, ``table`` being the path of the calibration."""
    seconds, ratios, distances, reused, steps = 0.0, [], [], 0, 1
    network = LPIPSDistance.load()
    for each in exact:
        made = _generate(model, each.options.changed(reuse=threshold, reuse_table=table), **embeddings)
        seconds += made.record.stages["denoise"]
        frames, before = made.video.frames, each.generation.video.frames
        ratios.append(psnr_of_clip(frames, before))
        distances.append(np.mean(network(frames, before)) if network else np.nan)
        steps, reused = len(made.record.times), len(made.record.engine.reused_steps)
    speedup = sum(each.seconds for each in exact) / seconds
    return Trial(threshold, steps - reused, steps, speedup, float(np.mean(ratios)), float(np.mean(distances)))


def _generate(model: CogVideoX, options: GenerateOptions, **embeddings: Any) -> Generation:
    return run(model, plan_run(model.spec, options), Given(), explicit=Explicit(**embeddings))

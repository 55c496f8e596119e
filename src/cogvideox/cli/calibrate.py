"""The verb calibrate: which steps of a model may be reused, and what that costs and saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.flags import Debug, Device, Dtype, Json, flag, with_flags
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError
from cogvideox.generation.options import GenerateOptions
from cogvideox.progress import TERMINAL

if TYPE_CHECKING:
    from cogvideox.generation.calibrate_reuse import Trial

PROMPTS = 2
OPTIONS = {"Size and length": "frames height width", "Sampling": "steps sampler"}
PROMPT = "what to make; repeatable; default: prompts of the tiny world"
TRY = "thresholds to report, such as 0.05,0.1; empty: only calibrate"


@verb
@with_flags(GenerateOptions, OPTIONS)
def calibrate(
    options: dict[str, Any],
    model: Annotated[str, typer.Argument(help="a folder, a hub id or a preset")] = "tiny",
    prompt: Annotated[list[str] | None, flag(PROMPT)] = None,
    guidance: Annotated[float, flag("as the runs will have", "Sampling")] = 6.0,
    try_: Annotated[str, flag(TRY, None, "--try")] = "0.05,0.1,0.2",
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[str | None, flag("file; default: beside the model")] = None,
    overwrite: Annotated[bool, flag("replace a calibration that exists", None, "--overwrite")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure for generate --reuse, and report speed-up beside likeness to the exact video."""
    thresholds = read_thresholds(try_)
    from cogvideox.generation.calibrate_reuse import calibrate as run
    from cogvideox.generation.job import Job, parse_options

    settings = {"guidance": guidance, **options}
    prompts = enumerate(prompt or _world_prompts())
    runs = [parse_options({**settings, "prompt": text, "seed": seed}) for seed, text in prompts]
    job = Job(model=model, dtype=dtype, device=device, metadata=False, overwrite=overwrite)
    path, trials = run(job, runs, out=Path(out) if out else None, thresholds=thresholds, reporter=TERMINAL)
    result(str(path))
    if as_json:
        for trial in trials:
            result_json(vars(trial))
    elif trials:
        result(as_text(trials))


def read_thresholds(text: str) -> list[float]:
    """Numbers with commas between. Raises ConfigError."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"try {text!r}: not numbers; write 0.05,0.1") from None
    if not all(0 <= value <= 1 for value in found):
        raise ConfigError(f"try {text!r}: a threshold lies between 0 and 1; write 0.05,0.1")
    return found


def as_text(trials: list[Trial]) -> str:
    """The report for people."""
    lines = ["threshold  steps computed  speed-up  PSNR to the exact video (dB)  LPIPS (stand-in)"]
    for trial in trials:
        share = f"{trial.computed} of {trial.steps}"
        likeness = f"{trial.psnr:28.2f}  {trial.lpips_stand_in:16.4f}"
        lines.append(f"{trial.threshold:9g}  {share:>14}  {trial.speedup:7.2f}x  {likeness}")
    return "\n".join(lines)


def _world_prompts() -> list[str]:
    from cogvideox.world import held_out_prompts

    return [each.prompt for each in held_out_prompts()[:PROMPTS]]

"""The verb calibrate: which steps of a model may be reused, and what that costs and saves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError
from cogvideox.progress import TERMINAL

if TYPE_CHECKING:
    from cogvideox.generation.calibrate_reuse import Trial

PROMPTS = 2


@verb
def calibrate(
    model: Annotated[str, typer.Argument(help="a folder, a hub id or a preset")] = "tiny",
    prompt: Annotated[
        list[str] | None, typer.Option(help="what to make; repeatable; default: prompts of the tiny world")
    ] = None,
    steps: Annotated[int, typer.Option(help="denoising steps, as the runs will have")] = 50,
    sampler: Annotated[str, typer.Option(help="ddim, dpm or dpm-ode")] = "ddim",
    guidance: Annotated[float, typer.Option(help="as the runs will have")] = 6.0,
    frames: Annotated[int | None, typer.Option(help="number of frames")] = None,
    height: Annotated[int | None, typer.Option(help="pixels")] = None,
    width: Annotated[int | None, typer.Option(help="pixels")] = None,
    try_: Annotated[
        str, typer.Option("--try", help="thresholds to report, such as 0.05,0.1; empty: only calibrate")
    ] = "0.05,0.1,0.2",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: the best there is")] = None,
    out: Annotated[str | None, typer.Option(help="file; default: beside the model")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a calibration that exists")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the report as JSON")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Measure for generate --reuse, and report speed-up beside likeness to the exact video."""
    thresholds = read_thresholds(try_)
    settings: dict[str, Any] = {"steps": steps, "sampler": sampler, "guidance": guidance}
    settings |= {"frames": frames, "height": height, "width": width}
    settings = {name: value for name, value in settings.items() if value is not None}
    from cogvideox.generation.calibrate_reuse import calibrate as run
    from cogvideox.generation.job import Job, parse_options

    runs = [
        parse_options({**settings, "prompt": text, "seed": seed})
        for seed, text in enumerate(_prompts(prompt))
    ]
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


def _prompts(given: list[str] | None) -> list[str]:
    if given:
        return given
    from cogvideox.world import held_out_prompts

    return [each.prompt for each in held_out_prompts()[:PROMPTS]]

"""The verb plan: what fits, before anything is loaded; and how generate follows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.generate import LIMIT_HELP, MEMORY_HELP
from cogvideox.cli.terminal import USAGE, result, result_json, verb
from cogvideox.device import best_device
from cogvideox.errors import ConfigError, InputError
from cogvideox.progress import say

if TYPE_CHECKING:
    import torch

    from cogvideox.memory import MemoryPlan


@verb
def plan(
    model: Annotated[
        str, typer.Argument(help="a preset, a folder or a hub id; presets are not downloaded")
    ] = "tiny",
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="with --train: as of train")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="plan a training instead: lora or finetune, with the settings of train")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="with --train: processes, one on each card")] = 1,
    card: Annotated[
        str | None, typer.Option(help="with --train: the card whose speed is assumed, such as H100 or A100")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="number of frames")] = None,
    height: Annotated[int | None, typer.Option(help="pixels")] = None,
    width: Annotated[int | None, typer.Option(help="pixels")] = None,
    video: Annotated[
        bool, typer.Option("--video", help="begin with a video, which is encoded first")
    ] = False,
    sampler: Annotated[str, typer.Option(help="ddim, dpm or dpm-ode")] = "ddim",
    no_guidance: Annotated[bool, typer.Option("--no-guidance", help="as with --guidance 1")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, ...; any name with --memory-limit; default: the best there is"),
    ] = None,
    memory: Annotated[str, typer.Option(help=MEMORY_HELP)] = "auto",
    memory_limit: Annotated[str | None, typer.Option(help=LIMIT_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="results as JSON")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Predict the memory of a run under every policy, and choose; loads no weights (exit code 2: nothing fits)."""
    from cogvideox.generation.preflight import free_memory, plan_memory, read_limit
    from cogvideox.memory import require

    if train is not None:
        from cogvideox.cli.plan_train import plan_training

        place, limit = device or best_device(), read_limit(memory_limit)
        sizes = {"height": height, "width": width, "frames": frames}
        changes = [f"task.data.size.{name}={value}" for name, value in sizes.items() if value is not None]
        plan_training(
            model,
            train,
            [*changes, *(settings or [])],
            gpus,
            place,
            card,
            limit or free_memory(place),
            as_json,
        )
        return
    if settings or gpus > 1 or card:
        raise ConfigError(f"{' '.join(settings or ['--gpus, --card'])}: for a training; add --train lora")
    options: dict[str, Any] = {"frames": frames, "height": height, "width": width, "sampler": sampler}
    options |= {"guidance": 1.0} if no_guidance else {}
    found = plan_memory(
        model,
        device=device,
        dtype=dtype,
        memory_policy=memory,
        memory_limit=memory_limit,
        encode_video=video,
        **{name: value for name, value in options.items() if value is not None},
    )
    result_json(as_values(found, model)) if as_json else result(as_text(found, model))
    if found.choice is None:
        try:
            require(found)
        except InputError as error:
            say(f"error: {error}")
        raise typer.Exit(USAGE)


def as_values(found: MemoryPlan, model: str = "") -> dict[str, Any]:
    """The whole plan for programs; ``model``: what was asked for, whose folder names a model of no preset."""
    request = found.request
    asked = {
        "model": request.spec.name or Path(model).name,
        "frames": request.frames,
        "height": request.height,
    }
    asked |= {"width": request.width, "dtype": name_of(request.dtype), "device": request.device}
    options = [
        {
            "policy": option.policy.record(),
            "name": option.policy.name,
            "price": option.policy.price,
            "exact": option.policy.exact,
            "peak_bytes": option.peak,
            "stages": {s.name: {"weights": s.weights, "work": s.work} for s in option.stages},
            "fits": option.fits,
            "needs": option.needs or None,
        }
        for option in found.options
    ]
    return {"request": asked, **found.record(), "options": options}


def as_text(found: MemoryPlan, model: str = "") -> str:
    """The whole plan for people: one row per policy, GB; ``model`` as in ``as_values``."""
    request = found.request
    size = f"{request.frames} frames of {request.height}x{request.width} in {name_of(request.dtype)}"
    limit = f"{found.limit / 1e9:.3g} GB" if found.limit else "unknown"
    names = [stage.name for stage in found.options[0].stages]
    lines = [f"{request.spec.name or Path(model).name}: {size} on {request.device}; memory: {limit}", ""]
    lines.append(f"{'policy':58}" + "".join(f"{name:>9}" for name in names) + f"{'peak':>9}  fits  costs")
    for option in found.options:
        peaks = "".join(f"{_gb(stage.peak):>9}" for stage in option.stages)
        mark = "->" if option is found.choice else "  "
        fits = "yes" if option.fits else "no"
        price = option.policy.price + (f"; needs pip install '{option.needs}'" if option.needs else "")
        lines.append(f"{mark} {option.policy.name:55}{peaks}{_gb(option.peak):>9}  {fits:4}  {price}")
    return "\n".join([*lines, "", found.why])


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e8 else f"{size / 1e9:.3f}"


def name_of(dtype: torch.dtype) -> str:
    """float32, bfloat16, ..."""
    return str(dtype).removeprefix("torch.")

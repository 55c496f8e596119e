"""The verb plan: what fits, before anything is loaded; and how generate follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli import checks
from cogvideox.cli.terminal import USAGE, result, result_json, verb
from cogvideox.device import best_device
from cogvideox.errors import CheckpointError, ConfigError, InputError
from cogvideox.generation.options import SAMPLER_NAMES
from cogvideox.progress import say

if TYPE_CHECKING:
    import torch

    from cogvideox.generation.options import GenerateOptions
    from cogvideox.memory import MemoryPlan, Option, Request
    from cogvideox.spec import ModelSpec

MEMORY_HELP = (
    "auto, resident (all weights on the device), phases (one stage at a time), stream (block by block from "
    "host memory)"
)
LIMIT_HELP = "memory to stay within, such as 12GB; default: what the device has free"


@verb
def plan(
    model: Annotated[
        str, typer.Argument(help="a preset, a folder or a hub id; presets are not downloaded")
    ] = checks.SHIPPED,
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
    precision = checks.choose("dtype", dtype, checks.DTYPES) if dtype else None
    method = checks.choose("sampler", sampler, SAMPLER_NAMES)
    limit = read_limit(memory_limit)
    from cogvideox.checkpoints import find_spec
    from cogvideox.generation.options import GenerateOptions
    from cogvideox.generation.plan import plan_run
    from cogvideox.generation.preflight import request_of
    from cogvideox.memory import has_torchao, require
    from cogvideox.memory import plan as run

    place = device or best_device()
    if train is not None:
        from cogvideox.cli.plan_train import plan_training

        sizes = {"height": height, "width": width, "frames": frames}
        changes = [f"task.data.size.{name}={value}" for name, value in sizes.items() if value is not None]
        plan_training(
            model, train, [*changes, *(settings or [])], gpus, place, card, limit or room(place), as_json
        )
        return
    if settings or gpus > 1 or card:
        raise ConfigError(f"{' '.join(settings or ['--gpus, --card'])}: for a training; add --train lora")
    spec = find_spec(model)
    options = GenerateOptions(
        frames=frames, height=height, width=width, sampler=method, guidance=1 if no_guidance else None
    )
    made = plan_run(spec, options)
    encoded = made.frames.made if video else int(spec.kind == "i2v")
    precision = dtype_of(spec, precision, place)
    request = request_of(spec, made, encoded=encoded, dtype=precision, device=place)
    found = run(request, limit or room(place), memory, low_bit=has_torchao())
    result_json(as_values(found)) if as_json else result(as_text(found))
    if found.choice is None:
        try:
            require(found)
        except InputError as error:
            say(f"error: {error}")
        raise typer.Exit(USAGE)


def dtype_of(spec: ModelSpec, dtype: str | None, device: str) -> torch.dtype:
    """The precision of a run: as asked, or as stored, except that a CPU gets float32 for float16."""
    import torch

    stored = "float32" if spec.dtype == "float16" and device.split(":")[0] == "cpu" else spec.dtype
    return getattr(torch, dtype or stored)


def of_ready(ready: checks.Ready, options: GenerateOptions, dtype: str | None, device: str) -> Request:
    """The request of a run that was checked."""
    from cogvideox.generation.preflight import encoded_frames, request_of

    plan = replace(ready.plan, options=options)
    encoded = encoded_frames(plan, ready.given)
    return request_of(
        ready.spec, plan, encoded=encoded, dtype=dtype_of(ready.spec, dtype, device), device=device
    )


def fit(
    ready: checks.Ready,
    options: GenerateOptions,
    dtype: str | None,
    device: str,
    memory: str,
    limit: int | None,
) -> MemoryPlan:
    """What a run will do with its memory. Raises InputError when nothing fits, with what would."""
    from cogvideox.memory import MemoryPlan, has_torchao, require, settle

    request = of_ready(ready, options, dtype, device)
    found = settle(request, limit, memory, low_bit=has_torchao())
    if found.choice is None and options.anyway:
        return MemoryPlan(request, None, [replace(found.least, limit=None)])
    try:
        require(found)
    except InputError as error:
        raise InputError(f"{error}; --anyway makes it all the same") from None
    return found


def follow(options: GenerateOptions, choice: Option) -> GenerateOptions:
    """The options with what the chosen policy decides."""
    policy = choice.policy
    changes: dict[str, Any] = {"guidance_pair": policy.pair} if policy.pair != "batched" else {}
    if policy.vae == "tiled":
        changes["vae_coding"] = "tiled"
    return options.model_copy(update=changes)


def room(device: str) -> int | None:
    """Bytes free on a device; None for one that is not here."""
    from cogvideox.memory import available

    try:
        return available(device)
    except (RuntimeError, AssertionError):  # planning for a machine that is elsewhere
        return None


def read_limit(text: str | None) -> int | None:
    """Bytes from text such as 12GB. Raises ConfigError."""
    if text is None:
        return None
    from cogvideox.checkpoints.tensors import to_bytes

    try:
        found = to_bytes(text)
    except CheckpointError:  # it speaks of shards
        found = 0
    if found <= 0:
        raise ConfigError(f"memory-limit {text!r}: not a size; write 12GB or 900MB")
    return found


def as_values(found: MemoryPlan) -> dict[str, Any]:
    """The whole plan for programs."""
    request = found.request
    asked = {"model": request.spec.name, "frames": request.frames, "height": request.height}
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


def as_text(found: MemoryPlan) -> str:
    """The whole plan for people: one row per policy, GB."""
    request = found.request
    size = f"{request.frames} frames of {request.height}x{request.width} in {name_of(request.dtype)}"
    limit = f"{found.limit / 1e9:.3g} GB" if found.limit else "unknown"
    names = [stage.name for stage in found.options[0].stages]
    lines = [f"{request.spec.name}: {size} on {request.device}; memory: {limit}", ""]
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

"""The verb plan: what fits, before anything is loaded; and how generate follows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.flags import (
    Debug,
    Device,
    Dtype,
    Json,
    Kind,
    Memory,
    MemoryLimit,
    Products,
    Settings,
    Storage,
    TextDevice,
    TextEncoderFile,
    TransformerFile,
    VaeFile,
    flag,
    with_flags,
)
from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError
from cogvideox.generation.options import GenerateOptions
from cogvideox.progress import duration

if TYPE_CHECKING:
    from cogvideox.generation.preflight import Forecast
    from cogvideox.memory import MemoryPlan, Request


SIZES = {"Size and length": "frames seconds height width", "Sampling": "sampler steps"}
SIZES |= {"Long videos": "window window_overlap window_schedule window_stride riflex"}
SIZES |= {"Guidance": "guidance_start guidance_stop stg_scale", "Speed and memory": "cache control_net"}
OF_A_TRAINING = ("frames", "height", "width", "steps")
"""The sizes that a training has too."""
TRAINING = "Training"
MODEL = "a preset, a folder or a hub id; presets are not downloaded"
TRAIN = "plan a training instead: lora, finetune, inpaint, keyframes, control or world-inpaint, with settings of train"
LORA = "adapter that is put on: a file, a folder or owner/name:file, also with a strength; repeatable"
CARD = "the card whose speed is assumed, such as H100 or A100; default: the device here, else H100"


@verb
@with_flags(GenerateOptions, SIZES)
def plan(
    options: dict[str, Any],
    model: Annotated[str, typer.Argument(help=MODEL)] = "tiny",
    settings: Settings = None,
    train: Annotated[str | None, flag(TRAIN, TRAINING)] = None,
    gpus: Annotated[int, flag("with --train: processes, one on each card", TRAINING, min=1)] = 1,
    card: Annotated[str | None, flag(CARD, TRAINING)] = None,
    video: Annotated[
        bool, flag("begin with a video, which is encoded first", "Size and length", "--video")
    ] = False,
    kind: Kind = None,
    transformer: TransformerFile = None,
    vae: VaeFile = None,
    text_encoder: TextEncoderFile = None,
    lora: Annotated[list[str] | None, flag(LORA, "Model")] = None,
    no_guidance: Annotated[bool, flag("as with --guidance 1", "Sampling", "--no-guidance")] = False,
    dtype: Dtype = None,
    device: Device = None,
    memory: Memory = "auto",
    memory_limit: MemoryLimit = None,
    storage: Storage = "auto",
    products: Products = "full",
    text_device: TextDevice = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict the memory of a run under every policy, and choose; loads no weights (exit code 2: nothing fits)."""
    if train is not None:
        from cogvideox.cli.training import plan_training

        if lora:
            raise ConfigError("--lora: for generate; with --train, task.lora says which adapter is trained")
        if storage != "auto" or products != "full":
            raise ConfigError("--storage, --products: for generate; with --train set task.lora.base=int8")
        options.pop("sampler", None)  # noise is removed by no step of a training
        if more := [name for name in options if name not in OF_A_TRAINING]:
            raise ConfigError(f"--{more[0].replace('_', '-')}: for generate; leave it out with --train")
        plan_training(
            model, train, settings or [], sizes=options, processes=gpus, device=device, card=card,
            memory_limit=memory_limit, as_json=as_json,
        )  # fmt: skip
        return
    if settings or gpus > 1:
        raise ConfigError(f"{' '.join(settings or ['--gpus'])}: for a training; add --train lora")
    from cogvideox.checkpoints.kinds import check_kind
    from cogvideox.device import best_device, memory_of
    from cogvideox.generation.preflight import check_card, forecast_anywhere, plan_memory
    from cogvideox.generation.recommended import read_adapter_flag
    from cogvideox.memory import require

    options |= {"guidance": 1.0} if no_guidance else {}
    if card is not None:  # a card that is named is planned for, also where another one is here
        check_card(card, device or best_device())  # counting takes seconds
        memory_limit = memory_limit or memory_of(card)
    found = plan_memory(
        model, device=device, dtype=dtype, memory_policy=memory, memory_limit=memory_limit,
        storage=storage, products=products, encode_video=video, kind=check_kind(kind) if kind else None,
        text_device=text_device, transformer=transformer, vae=vae, text_encoder=text_encoder,
        adapters=[read_adapter_flag(text, False)[0] for text in lora or []], **options,
    )  # fmt: skip
    time = forecast_anywhere(found.request, card)
    result_json(plan_values(found, model, time)) if as_json else result(plan_text(found, model, time))
    require(found)


def plan_values(plan: MemoryPlan, model: str = "", time: Forecast | None = None) -> dict[str, Any]:
    """The whole plan for programs; ``model``: what was asked for, whose folder names a model of no preset."""
    request = plan.request
    asked = {
        "model": request.spec.name or Path(model).name,
        "frames": request.frames,
        "height": request.height,
    }
    asked |= {"width": request.width, "dtype": _dtype_name(request), "device": request.device}
    asked |= {"windows": len(request.windows.at(0))} if request.windows is not None else {}
    options = [
        {
            "policy": option.policy.record(),
            "name": option.policy.name,
            "price": option.price,
            "exact": option.policy.exact,
            "peak_bytes": option.peak,
            "pinned_host_bytes": option.pinned,
            "stages": {s.name: {"weights": s.weights, "work": s.work} for s in option.stages},
            "fits": option.fits,
            "needs": option.needs or None,
        }
        for option in plan.options
    ]
    seconds = {"seconds": time.stages, "seconds_stand_on": time.basis} if time else {}
    return {"request": asked, **plan.record(), **seconds, "options": options}


def plan_text(plan: MemoryPlan, model: str = "", time: Forecast | None = None) -> str:
    """The whole plan for people: one row per policy, GB; ``model`` as in ``plan_values``.

    The host column, page-locked memory of the computer, stands there only where a policy needs some.
    """
    request = plan.request
    size = f"{request.frames} frames of {request.height}x{request.width} in {_dtype_name(request)}"
    if request.windows is not None:
        from cogvideox.generation.windows import window_frames

        shared = request.windows.overlap * request.spec.vae.temporal_compression_ratio
        frames = window_frames(request.spec, request.windows)
        size += f" in {len(request.windows.at(0))} windows of {frames} frames that share {shared}"
    limit = f"{plan.limit / 1e9:.3g} GB" if plan.limit else "unknown"
    names = [stage.name for stage in plan.options[0].stages]
    lines = [f"{request.spec.name or Path(model).name}: {size} on {request.device}; memory: {limit}", ""]
    host = f"{'host':>9}" if any(option.pinned for option in plan.options) else ""
    columns = "".join(f"{name:>9}" for name in names) + f"{'peak':>9}{host}"
    width = max(len(option.policy.name) for option in plan.options) + 2
    lines.append(f"{'policy':{width + 3}}{columns}  fits  costs")
    for option in plan.options:
        peaks = "".join(f"{_gb(stage.peak):>9}" for stage in option.stages)
        mark = "->" if option is plan.choice else "  "
        fits = "yes" if option.fits else "no"
        price = option.price + (f"; needs pip install '{option.needs}'" if option.needs else "")
        locked = f"{_gb(option.pinned):>9}" if host else ""
        lines.append(
            f"{mark} {option.policy.name:{width}}{peaks}{_gb(option.peak):>9}{locked}  {fits:4}  {price}"
        )
    lines += ["", plan.why]
    if time is not None:
        elsewhere = request.text == "elsewhere"
        stages = ", ".join(
            f"{stage} {duration(seconds)}"
            for stage, seconds in time.stages.items()
            if stage != "text" or not elsewhere
        )
        apart = "; the text, which another device reads, is not counted" if elsewhere else ""
        lines.append(
            f"time of {request.steps} steps: about {duration(time.seconds)} ({stages}; {time.basis}{apart})"
        )
    return "\n".join(lines)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e8 else f"{size / 1e9:.3f}"


def _dtype_name(request: Request) -> str:
    return str(request.dtype).removeprefix("torch.")

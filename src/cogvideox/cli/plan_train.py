"""``plan MODEL --train lora|finetune``: memory, host memory and seconds of a training run, before there is any data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from cogvideox.cli.terminal import USAGE, result, result_json
from cogvideox.errors import ConfigError
from cogvideox.progress import say
from cogvideox.training.config import Run
from cogvideox.training.memory import TrainingPrediction, TrainRequest, variants
from cogvideox.training.preview import estimate, rate_of, request_of
from cogvideox.training.recipes import recipe
from cogvideox.training.tasks.base_model import base_of
from cogvideox.training.tasks.diffusion import DiffusionTraining

RESERVE = 0.1
"""Share of the limit that is left free, as in ``plan``: allocators round up and kernels take workspaces."""


def plan_training(
    model: str,
    name: str,
    settings: Sequence[str],
    processes: int,
    device: str,
    card: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print what a step of recipe ``name`` on ``model`` needs; exit code 2 when it does not fit ``limit``.

    Raises ConfigError for a recipe that does not fine-tune, a model that is not here, or a mesh that does not fit.
    """
    request, steps = _request(model, name, settings, processes, device)
    memory = TrainingPrediction(request).memory
    fits = limit is None or memory.peak <= limit * (1 - RESERVE)
    if as_json:
        result_json(_values(request, processes, card) | {"limit_bytes": limit, "fits": fits})
    else:
        frames, height, width = request.pixels
        result(
            f"{model}, {name}, {processes} x {device}: {len(request.samples)} clips of {frames} frames of {height}x"
            f"{width} in a row of {request.tokens:,} tokens, {request.micro_steps} rows of a step on each process"
        )
        for line in estimate(request, steps, card):
            result(line)
    if not fits:
        say(
            f"error: {memory.peak / 1e9:.3g} GB do not fit {(limit or 0) / 1e9:.3g} GB; {_advice(request, limit or 0)}"
        )
        raise typer.Exit(USAGE)


def _request(
    model: str, name: str, settings: Sequence[str], processes: int, device: str
) -> tuple[TrainRequest, int]:
    if name not in ("lora", "finetune"):
        raise ConfigError(f"train {name!r}: choose lora or finetune")
    config = recipe(name)
    assert isinstance(config, Run)
    config = config.override(
        [f"task.start={model}", "task.data.folder=clips", f"task.device={device}", *settings]
    )
    config.mesh.sizes(processes)
    if not device.startswith("cpu") and not any(setting.startswith("precision=") for setting in settings):
        config = config.model_copy(
            update={"precision": "bf16"}
        )  # what the recipe says where such a device is
    task = config.task.completed()
    assert isinstance(task, DiffusionTraining), "lora and finetune train the transformer"
    row = base_of(task)
    if row is None:
        raise ConfigError(f"{model}: not on this machine; name a preset, or a folder with model_index.json")
    return request_of(config, task, row, processes), config.steps


def _values(request: TrainRequest, processes: int, card: str | None) -> dict[str, Any]:
    prediction = TrainingPrediction(request)
    memory, (rate, stands_on) = prediction.memory, rate_of(request, card)
    return {
        "tokens": request.tokens,
        "rows": request.micro_steps,
        "processes": processes,
        "peak_bytes": memory.peak,
        "activation_bytes": memory.activations,
        "predicted": dict(vars(memory)),
        "flops": prediction.flops,
        "seconds": prediction.flops / rate,
        "seconds_stand_on": stands_on,
    }


def _advice(request: TrainRequest, limit: int) -> str:
    """The first cheaper way that fits."""
    for how, other in variants(request):
        peak = TrainingPrediction(other).memory.peak
        if peak <= limit * (1 - RESERVE):
            more = f" on {other.shard} processes" if other.shard > request.shard else ""
            return f"{peak / 1e9:.3g} GB with {how}{more}"
    return "no way of saving is enough: use fewer frames (task.data.size.frames), smaller sides, or a larger device"

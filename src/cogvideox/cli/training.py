"""What ``train --dry-run``, ``settings`` and ``plan --train`` print about a training run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideox.cli.terminal import result, result_json
from cogvideox.device import best_device
from cogvideox.errors import ConfigError, InputError
from cogvideox.generation.preflight import free_memory, read_limit
from cogvideox.generation.recommended import SETTINGS_PRESETS
from cogvideox.progress import duration, on_one_line, say
from cogvideox.spec import ModelSpec
from cogvideox.training.config import Run, TrainConfig
from cogvideox.training.memory import TrainingPrediction, TrainRequest, variants
from cogvideox.training.preview import Preview, estimate, preview, rate_of, request_of
from cogvideox.training.recipes import recipe, run_file
from cogvideox.training.recipes.settings import recipe_summaries, settings_table
from cogvideox.training.sequence import RunSequence
from cogvideox.training.tasks.base_model import base_of
from cogvideox.training.tasks.diffusion import DiffusionTraining

OF_WORLD = ("world-inpaint", "world-keyframes", "world-control")
OF_PROMPTS = ("distil-2b", "distil-5b")
FINE_TUNING = ("lora", "finetune", "inpaint", "keyframes", "control", *OF_PROMPTS, *OF_WORLD)
"""Recipes that train a model on a folder of clips, on prompts or on the tiny world: what they need is known before."""
RESERVE = 0.1
"""Share of the limit that is left free, as in ``plan``: allocators round up and kernels take workspaces."""


def show_run(config: Run | RunSequence) -> bool:
    """Print the settings as YAML and, as comments after it, what the run will read, hold and take.

    Returns whether it could run: what it would stop for is said on stderr.
    """
    stages: list[TrainConfig] = []
    if isinstance(config, RunSequence):
        stages += [run for _, run in config.named_runs()]
    else:
        stages.append(config := config.changed(task=config.task.completed()))
    result(config.to_yaml().rstrip())
    previews, left = list[Preview](), dict[str, ModelSpec]()
    for stage in stages:
        one = preview(stage, left)
        previews.append(one)
        if one.spec is not None:
            left[str(Path(stage.out) / "model")] = one.spec
        for line in one.lines:
            result(f"# {f'{stage.name}: ' if len(stages) > 1 else ''}{on_one_line(line)}")
    if len(stages) > 1:
        result(f"# {_total(stages, previews)}")
    problems = list(previews[0].problems)
    later = ("task.start", "task.vae", "task.text")  # results of the stages before, which are not there yet
    for one in previews[1:]:
        problems += [problem for problem in one.problems if not problem.startswith(later)]
    for problem in dict.fromkeys(problems):
        say(f"error: {on_one_line(problem)}")
    return not problems


def _total(stages: Sequence[TrainConfig], previews: Sequence[Preview]) -> str:
    """The time of all runs whose time is known, and which are not."""
    known = sum(one.seconds for one in previews if one.seconds is not None)
    unknown = [stage.name for stage, one in zip(stages, previews, strict=True) if one.seconds is None]
    more = f"; {', '.join(unknown)} come on top" if unknown else ""
    return f"all {len(stages)} runs: about {duration(known)} for the steps whose time is predicted{more}"


def show_settings(name: str | None, find: str | None, as_json: bool) -> None:
    """Print the settings of a recipe or a run.yaml whose path or meaning holds ``find``; without a name the recipes."""
    if name is None:
        presets = {
            name: f"generate --preset: {each.recommended.about}" for name, each in SETTINGS_PRESETS.items()
        }
        summaries = recipe_summaries() | presets
        width = max(map(len, summaries))
        lines = [f"{one:{width}}  {summary}" for one, summary in summaries.items()]
        result_json(summaries) if as_json else result("\n".join(lines))
        return
    if name in SETTINGS_PRESETS:
        _show_preset(name, as_json)
        return
    rows = settings_table(run_file(name) if name.endswith((".yaml", ".yml")) else recipe(name))
    if find:
        rows = [row for row in rows if find.lower() in f"{row.path} {row.meaning}".lower()]
    if as_json:
        result_json([row._asdict() for row in rows])
        return
    for row in rows:
        result(f"{row.path}={json.dumps(row.value, ensure_ascii=False)}  ({row.type})")
        result(textwrap.fill(row.meaning, 100, initial_indent="    ", subsequent_indent="    "))


def _show_preset(name: str, as_json: bool) -> None:
    """Print a preset of ``generate``: what it is made for, and its settings as flags."""
    preset = SETTINGS_PRESETS[name]
    if as_json:
        settings = preset.recommended.model_dump(mode="json", exclude_none=True)
        result_json({"model": preset.model, "lora": preset.adapter, **settings})
        return
    result(f"{name}: {preset.recommended.about}")
    result(f"--model {preset.model} --lora (a file of {preset.adapter})")
    for setting, value in preset.recommended.settings.items():
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        result(f"--{setting.replace('_', '-')} {shown}")


def plan_training(
    model: str,
    name: str,
    settings: Sequence[str],
    *,
    sizes: Mapping[str, int] | None = None,
    processes: int = 1,
    device: str | None = None,
    card: str | None = None,
    memory_limit: str | None = None,
    as_json: bool = False,
) -> None:
    """Print what a step of recipe ``name`` on ``model`` needs: memory, host memory and seconds, before there is data.

    ``sizes``: frames, height, width and steps, where they are not the recipe's.
    Raises InputError where it does not fit the limit, ConfigError for a recipe that does not fine-tune, a model that
    is not here, or a mesh that does not fit.
    """
    place = device or best_device()
    limit = read_limit(memory_limit) or free_memory(place)
    request, steps = _request(model, name, sizes or {}, settings, processes, place)
    memory = TrainingPrediction(request).memory
    fits = limit is None or memory.peak <= limit * (1 - RESERVE)
    if as_json:
        result_json(_values(request, processes, card) | {"limit_bytes": limit, "fits": fits})
    else:
        result("\n".join(_lines(request, f"{model}, {name}, {processes} x {place}", steps, card)))
    if limit is not None and not fits:
        raise InputError(
            f"{memory.peak / 1e9:.3g} GB do not fit {limit / 1e9:.3g} GB; {_advice(request, limit)}"
        )


def _request(
    model: str, name: str, sizes: Mapping[str, int], settings: Sequence[str], processes: int, device: str
) -> tuple[TrainRequest, int]:
    """What a step asks of memory, and the number of steps."""
    if name not in FINE_TUNING:
        raise ConfigError(f"train {name!r}: choose one of {', '.join(FINE_TUNING)}")
    config = recipe(name)
    assert isinstance(config, Run)
    given = [f"task.start={model}", f"task.device={device}", *_size_settings(name, sizes), *settings]
    config = config.override(given)
    config.mesh.sizes(processes)
    if not device.startswith("cpu") and not any(setting.startswith("precision=") for setting in settings):
        config = config.changed(precision="bf16")  # what the recipe says where such a device is
    task = config.task.completed()
    assert isinstance(task, DiffusionTraining), "these recipes train the transformer"
    spec = base_of(task)
    if spec is None:
        raise ConfigError(f"{model}: not on this machine; name a preset, or a folder with model_index.json")
    return request_of(config, task, spec, processes), config.steps


def _size_settings(name: str, sizes: Mapping[str, int]) -> list[str]:
    """The sizes as settings of a recipe, and the folder of clips where it reads one. Raises ConfigError."""
    sides = {sizes[side] for side in ("height", "width") if side in sizes}
    if name in OF_PROMPTS:
        own = {side: f"task.prompts.{side}" for side in ("frames", "height", "width")}
        return [f"{own.get(each, each)}={value}" for each, value in sizes.items()]
    if name not in OF_WORLD:
        where = {side: f"task.data.size.{side}" for side in ("frames", "height", "width")}
        return [
            "task.data.folder=clips",
            *(f"{where.get(each, each)}={value}" for each, value in sizes.items()),
        ]
    if len(sides) > 1:
        raise ConfigError(
            f"height {sizes['height']}, width {sizes['width']}: the tiny world is square; give one side"
        )
    where = {"frames": "task.frames", "height": "task.size", "width": "task.size"}
    return list(dict.fromkeys(f"{where.get(each, each)}={value}" for each, value in sizes.items()))


def _lines(request: TrainRequest, title: str, steps: int, card: str | None) -> Iterator[str]:
    """The prediction for people."""
    frames, height, width = request.pixels
    yield (
        f"{title}: {len(request.samples)} clips of {frames} frames of {height}x{width} in a row of "
        f"{request.tokens:,} tokens, {request.micro_steps} rows of a step on each process"
    )
    yield from estimate(request, steps, card)


def _values(request: TrainRequest, processes: int, card: str | None) -> dict[str, Any]:
    """The prediction for programs."""
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

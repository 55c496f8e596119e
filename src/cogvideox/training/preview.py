"""A run before it runs: whether all it needs is there, what a step reads, and the memory and time it will take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from types import MappingProxyType

import torch

from cogvideox.clip_folders.listing import list_clips
from cogvideox.device import card_here, peak_of
from cogvideox.errors import CogVideoXError, ConfigError
from cogvideox.memory.seconds import SHARE_OF_CARD
from cogvideox.presets import PRESETS
from cogvideox.progress import duration
from cogvideox.spec import ModelSpec
from cogvideox.training.config import TrainConfig
from cogvideox.training.memory import TrainingPrediction, TrainRequest
from cogvideox.training.tasks.base_model import base_of, local_folder
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import SHIPPED_MODELS, WORLD_TEXT, WORLD_VAE
from cogvideox.training.tasks.distil import DistilTraining
from cogvideox.training.tasks.folder import check_folder
from cogvideox.training.tasks.sizes import latent_shape, tokens_of

SHARE_OF_CPU = 0.4
"""Of what a product of matrices reaches on this CPU, that a step is taken to do."""


@dataclass
class Preview:
    """Lines about a run, and the problems that would stop it. ``spec``: the model it leaves, ``seconds``: the time of
    its steps; None where they are not known."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    spec: ModelSpec | None = None
    seconds: float | None = None


def preview(config: TrainConfig, earlier: Mapping[str, ModelSpec] = MappingProxyType({})) -> Preview:
    """Look at a run without loading, encoding or downloading anything.

    ``earlier``: folder -> the model that a run before this one will leave there.
    """
    result, task = Preview(), config.task
    if not isinstance(task, DiffusionTraining):
        result.lines.append(f"{config.steps} steps; the memory and time of this task are not predicted")
        return result
    task = task.completed()
    _check_models(task, result)
    clips = _clips(task, config, result)
    spec = result.spec = base_of(task) or earlier.get(task.start or "")
    if spec is None:
        result.lines.append("sizes, memory and time: not known before the model is here")
        return result
    request = request_of(config, task, spec)
    noun = "prompts" if isinstance(task, DistilTraining) and task.prompts is not None else "clips"
    each, micro_steps = len(request.samples) * task.accumulation, task.accumulation
    if clips:  # the last micro-step of an epoch is not full
        of_an_epoch = ceil(clips / len(request.samples))
        each = round(micro_steps * clips / of_an_epoch)
        epoch = of_an_epoch / micro_steps
        epochs = f"{config.steps} steps are {config.steps / epoch:.3g} epochs"
        result.lines.append(f"an epoch: {clips} {noun}, {epoch:.3g} steps; {epochs}")
    tokens = round(each * request.tokens / len(request.samples))
    result.lines.insert(
        -1 if clips else len(result.lines),
        f"a step: {each} {noun} of the largest size, {tokens:,} tokens in {micro_steps} micro-steps",
    )
    result.lines += list(estimate(request, config.steps, card=None))
    result.seconds = TrainingPrediction(request).flops / rate_of(request)[0] * config.steps
    return result


def request_of(
    config: TrainConfig, task: DiffusionTraining, spec: ModelSpec, processes: int = 1
) -> TrainRequest:
    """What is asked of ``memory`` for a step of this run, all clips of the largest size."""
    ratio = spec.vae.spatial_compression_ratio
    if task.data is not None:
        size = task.data.size.resolved(spec)
        shape = latent_shape(size, spec)
        one = tokens_of(shape, spec.text_tokens, spec.transformer.patch)
        many = task.batch if task.data.batching == "batch" else max(1, (task.data.budget or one) // one)
        pixels = (size.frames, shape[2] * ratio, shape[3] * ratio)
    elif isinstance(task, DistilTraining) and task.prompts is not None:
        length, height, width, _ = task.prompts.native_size(spec)
        shape = (spec.vae.latent_channels, spec.vae.latent_frames(length), height // ratio, width // ratio)
        many, pixels = task.batch, (length, height, width)
    else:
        frames = (task.frames - 1) // spec.vae.temporal_compression_ratio + 1
        shape = (spec.vae.latent_channels, frames, task.size // ratio, task.size // ratio)
        many, pixels = task.batch, (task.frames, task.size, task.size)
    mesh = config.mesh
    groups = max(1, processes // mesh.context)
    return TrainRequest(
        spec,
        [(shape, spec.text_tokens)] * many,
        micro_steps=ceil(task.accumulation / groups),
        lora=task.lora,
        recompute=bool(task.recompute),
        bf16=config.precision == "bf16",
        average=bool(config.optim.ema),
        muon=config.optim.name == "muon",
        shard=mesh.shard,
        context=mesh.context,
        device=task.compute_device,
        pixels=pixels,
        **(task.beside_the_student() if isinstance(task, DistilTraining) else {}),
    )


def estimate(request: TrainRequest, steps: int, card: str | None) -> Iterator[str]:
    """Lines that predict the memory and time of a run, and say what the time is based on."""
    prediction = TrainingPrediction(request)
    memory = prediction.memory
    yield (
        f"memory of a process on {request.device}: {_gb(memory.peak)} at its peak: weights {_gb(memory.weights)}, "
        f"gradients {_gb(memory.gradients)}, optimiser {_gb(memory.optimiser)}, average {_gb(memory.average)}, "
        f"activations {_gb(memory.activations)}"
        + (f", blocks put together {_gb(memory.gathered)}" if memory.gathered else "")
        + f"; while clips are encoded {_gb(memory.encode)}"
    )
    yield f"memory of the host: {_gb(memory.host)} for each process while models are read"
    rate, basis = rate_of(request, card)
    seconds = prediction.flops / rate
    yield (
        f"time: {prediction.flops:.2g} FLOPs a step and process, about {duration(seconds)} a step, "
        f"{duration(seconds * steps)} for {steps} steps ({basis}; reading, encoding and measuring come on top)"
    )


def rate_of(request: TrainRequest, card: str | None = None) -> tuple[float, str]:
    """(FLOPs a second, what that number is based on)."""
    if not request.on_cpu:
        name = card or card_here() or "H100"
        basis = f"{SHARE_OF_CARD:.0%} of an {name}'s printed {peak_of(name) / 1e12:g} TFLOPs"
        return peak_of(name) * SHARE_OF_CARD, basis
    rate = _products(torch.bfloat16 if request.bf16 else torch.float32)
    basis = f"{SHARE_OF_CPU:.0%} of the {rate / 1e9:.0f} GFLOPs of a product measured here now"
    return rate * SHARE_OF_CPU, basis


@cache
def _products(dtype: torch.dtype, size: int = 512) -> float:
    """FLOPs a second of products of matrices on this CPU, the best of five; measured once a process."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _check_models(task: DiffusionTraining, result: Preview) -> None:
    from cogvideox.training.recipes.table import RECIPES

    try:
        task.check_start()
    except ConfigError as error:
        result.problems.append(str(error))
    models = {"start": task.start, "vae": task.vae or WORLD_VAE, "text": task.text or WORLD_TEXT}
    for model in dict.fromkeys(filter(None, models.values())):
        settings = [f"task.{name}" for name, value in models.items() if value == model]
        names = " and ".join(settings)
        if local_folder(model) is not None:
            continue
        hub = PRESETS[model].hub if model in PRESETS else None
        recipe = model.removeprefix("runs/").removesuffix("/model")
        if hub is not None or model.count("/") == 1 and not model.startswith((".", "/", "runs/")):
            result.lines.append(f"{names} {model}: not on this machine; the run downloads {hub or model}")
        elif recipe in RECIPES and model == f"runs/{recipe}/model":
            shipped = " ".join(f"{name}={SHIPPED_MODELS[name.removeprefix('task.')]}" for name in settings)
            result.problems.append(
                f"{names} {model}: not trained yet; run cogvideox train {recipe} first, or take the shipped model's: "
                f"{shipped}"
            )
        else:
            result.problems.append(
                f"{names} {model}: no such model or folder; name a preset, a folder or a hub id"
            )


def _clips(task: DiffusionTraining, config: TrainConfig, result: Preview) -> int:
    """How many clips there are to train on; 0 where that is not known."""
    if isinstance(task, DistilTraining) and task.prompts is not None:
        try:
            prompts = len(task.prompts.read())
        except CogVideoXError as error:
            result.problems.append(str(error))
            return 0
        result.lines.append(f"prompts: {prompts} in {task.prompts.file}, {task.prompts.held_out} held out")
        return prompts - task.prompts.held_out
    if task.data is None:
        return task.clips
    try:
        check_folder(task.data, Path(config.out))
        if task.data.videos is not None and not Path(task.data.folder).is_dir():
            if not Path(task.data.videos).is_dir():
                raise ConfigError(f"task.data.videos {task.data.videos}: no such folder; check the path")
            result.lines.append(
                f"clips: {task.data.videos} is curated first; how many are kept is not known yet"
            )
            return 0
        listing = list_clips(task.data.folder, task.data.caption, task.data.source)
    except CogVideoXError as error:
        result.problems.append(str(error))
        return 0
    lost, whole = len(listing.dropped), len(listing.dropped) + len(listing.entries)
    result.lines.append(
        f"clips: {len(listing.entries)} in {task.data.folder} ({listing.layout}), {lost} left out"
    )
    if lost > task.data.lost * whole:
        name, why = next(iter(listing.dropped.items()))
        result.problems.append(
            f"{task.data.folder}: {lost} of {whole} clips cannot be used, such as {name}: {why}; see `cogvideox data "
            f"doctor {task.data.folder}`, or raise task.data.lost"
        )
    return round(len(listing.entries) * (1 - task.data.held_out))


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"

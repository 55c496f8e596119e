"""generate: from the prompt to the Video, in one readable line of stages.

inputs -> sizes -> text -> conditions -> noise -> steps -> pixels -> Video with its manifest
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import conditioning
from cogvideox.conditioning import Coder, Conditioning
from cogvideox.diffusion import SamplerStep, is_guided
from cogvideox.errors import ConfigError, MediaError, PromptError, SizeError
from cogvideox.generation import preflight
from cogvideox.generation.beyond import warn_of_unknown
from cogvideox.generation.fast_paths import is_spread, running
from cogvideox.generation.finite_check import PeakMemory, guarded
from cogvideox.generation.options import GenerateOptions, draw_seed
from cogvideox.generation.plan import Given, Plan, fit_video, plan_run, read_given
from cogvideox.generation.sampling import Noises, guidance_of, sample_latents
from cogvideox.manifest import manifest
from cogvideox.model import CogVideoX
from cogvideox.text import check_prompt
from cogvideox.video import Video, probe


@dataclass(frozen=True)
class Progress:
    """Where a run is. ``stage`` is text, encode, denoise or decode; ``estimate`` the clean latents so far.

    A stage begins with ``done`` 0, before its first step.
    """

    stage: str
    done: int
    total: int
    seconds: float
    estimate: Float[Tensor, "b c t h w"] | None = None


OnStep = Callable[[Progress], None]


@torch.no_grad()
def generate(
    model: CogVideoX,
    options: GenerateOptions | str,
    on_step: OnStep | None = None,
    *,
    image: np.ndarray | str | Path | None = None,
    video: Video | str | Path | None = None,
    prompt_embedding: Float[Tensor, "1 l d"] | None = None,
    negative_embedding: Float[Tensor, "1 l d"] | None = None,
    initial_latents: Float[Tensor, "1 c t h w"] | None = None,
    generator: torch.Generator | None = None,
) -> Video:
    """Make one video. Raises InputError, ConfigError or NumericsError; what ``on_step`` raises stops the run.

    ``options`` may be the prompt alone. ``image`` (a path or [h, w, 3] uint8) and ``video`` stand in for the paths
    of the options, the embeddings for the prompts, ``initial_latents`` (standard normal, with the plan's padding)
    for the seed's first noise. Without a seed one is drawn for each run; it stands in ``manifest["seed"]``. An
    explicit ``generator`` draws everything as the public pipelines do. The result holds exactly the frames asked
    for; its manifest says how they were made, how long it took and the peak of memory.
    """
    if isinstance(options, str):
        options = GenerateOptions(prompt=options)
    if not isinstance(options, GenerateOptions):
        raise ConfigError(f"options of {type(options).__name__}: give GenerateOptions or a prompt")
    report = _Clock(on_step)
    check_prompt(options.prompt)
    check_prompt(options.negative_prompt, "negative prompt")
    given = read_given(options, image, video)
    plan = plan_run(model.spec, options, given)
    options = plan.options
    if options.seed is None and generator is None:
        options = options.model_copy(update={"seed": _drawn_seed(model)})
        plan = replace(plan, options=options)
    noises = Noises(options.seed, _latent_dtype(model, options), model.device, generator)

    if model.shipped and not model.adapters:
        warn_of_unknown(model.spec.name, options.prompt if prompt_embedding is None else "", given)

    if not is_spread(model.transformer):  # together they have more of both
        preflight.check(model, plan, given)

    with PeakMemory(model.device) as memory, _evaluating(model):
        report("text", 0, 1)
        prompt, negative, facts = _text(
            model, options, given.shape is not None, prompt_embedding, negative_embedding
        )
        report("encode", 0, 1)
        condition = _condition(model, plan, given, noises)
        path = model.schedule.path(options.steps, options.previous, condition.strength)
        report("denoise", 0, len(path))
        clip = model.clip_of(plan.latent_shape, prompt.shape[1])
        with running(model, options, path, clip) as engine:
            latents = _denoise(model, plan, condition, prompt, negative, noises, initial_latents, report)
        report("decode", 0, 1)
        pixels = _decode(model, plan, latents)
        report("decode", 1, 1)

    result = Video.from_tensor(pixels, plan.fps)
    if options.join and given.video is not None and options.video_use == "continue":
        before = fit_video(given.video, plan)
        result = Video(np.concatenate([before.frames, result.frames]), plan.fps)
    record = _record(model, plan, given, condition, facts)
    record["run"] |= {
        "engine": engine.record(),
        "seconds": round(report.seconds, 3),
        "stages": report.stages(),
        "peak_memory_bytes": memory.bytes,
        "noise": "explicit generator" if generator is not None else f"seed {options.seed}",
    }
    return replace(result, manifest=record)


def _drawn_seed(model: CogVideoX) -> int:
    """A new seed; where processes share the network, the first one's for all of them."""
    seed = draw_seed()
    if not is_spread(model.transformer):
        return seed
    told = [seed]
    torch.distributed.broadcast_object_list(told, src=0, device=torch.device("cpu"))
    return told[0]


def _text(
    model: CogVideoX, options: GenerateOptions, begins: bool, prompt: Tensor | None, negative: Tensor | None
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Embeddings of the prompt and (with guidance) of the negative prompt, and what happened to the words.

    ``begins``: an image or video says how the video begins, so the prompt may be empty.
    """
    facts: dict[str, Any] = {}
    parts = {"text_encoder": model.text.model} if model.text is not None else {}

    def embed(words: str, name: str) -> Tensor:
        found = model.embed([words])
        facts[name] = {"tokens": found.tokens[0], "budget": found.budget}
        if found.cut[0]:
            facts[name]["cut"] = found.cut[0]
            warnings.warn(
                f"{name}: {found.tokens[0]} tokens, the model reads {found.budget}; cut: {found.cut[0]!r}",
                stacklevel=4,
            )
        return found.values

    if prompt is None:
        if not options.prompt.strip() and not begins:
            raise PromptError("prompt: empty; say what the video should show")
        prompt = guarded(
            lambda again: embed(options.prompt, "prompt"), parts, "text embedding", options.check_numerics
        )
    if is_guided(guidance_of(options)) and negative is None:
        if options.zero_negative:
            negative = torch.zeros_like(prompt)
        else:
            negative = embed(options.negative_prompt, "negative_prompt")
    return prompt, negative, facts


def _condition(model: CogVideoX, plan: Plan, given: Given, noises: Noises) -> Conditioning:
    options, frames = plan.options, plan.frames
    coder = Coder(
        model,
        noises.dtype,
        noises.encoding(),
        options.sample_image,
        options.vae_coding,
        plan.tiles,
        options.image_scale,
    )
    if given.image is not None:
        pixels = fit_video(Video(given.image[None], 1.0), plan).to_tensor()
        return conditioning.from_image(coder, pixels, frames.latents, frames.padding)
    if given.video is None:
        return conditioning.from_text(model.spec)
    fitted = fit_video(given.video, plan)
    if options.video_use == "continue":
        context = Video(fitted.frames[-plan.context :], plan.fps).to_tensor()
        return conditioning.continuation(coder, context, frames.latents, frames.padding)
    edges = ((frames.front, frames.back), (0, 0), (0, 0), (0, 0))
    padded = np.pad(fitted.frames[: frames.asked], edges, mode="edge")
    return conditioning.from_video(
        coder, Video(padded, plan.fps).to_tensor(), frames.padding, options.strength
    )


def _denoise(
    model: CogVideoX,
    plan: Plan,
    condition: Conditioning,
    prompt: Tensor,
    negative: Tensor | None,
    noises: Noises,
    initial: Tensor | None,
    report: _Clock,
) -> Float[Tensor, "1 c t h w"]:
    if initial is None:
        initial = noises.initial(plan.latent_shape)
    elif tuple(initial.shape) != plan.latent_shape:
        raise SizeError(f"initial_latents of {tuple(initial.shape)}: this run needs {plan.latent_shape}")
    start = initial.to(model.device, noises.dtype)

    def after(step: SamplerStep, x: Tensor, estimate: Tensor) -> None:
        report("denoise", step.index + 1, step.count, estimate)

    def produce(again: bool) -> Tensor:
        steps = noises.steps(plan.latent_shape)
        return sample_latents(
            model, prompt, negative, start, plan.options, condition, steps, None if again else after
        )

    parts = {"transformer": model.transformer}
    return guarded(produce, parts, "latents", plan.options.check_numerics)


def _decode(model: CogVideoX, plan: Plan, latents: Tensor) -> Float[Tensor, "1 3 t h w"]:
    """Pixels of exactly the frames asked for."""
    frames, options = plan.frames, plan.options
    kept = latents[:, :, frames.padding :]
    pixels = guarded(
        lambda again: model.decode_latents(kept, options.vae_coding, plan.tiles),
        {"vae": model.vae},
        "pixels",
        options.check_numerics,
    )
    return pixels[:, :, frames.front : frames.made - frames.back]


def _latent_dtype(model: CogVideoX, options: GenerateOptions) -> torch.dtype:
    return torch.float32 if options.latents == "float32" else model.dtype


class _Clock:
    """Tells progress on, and how long each stage took."""

    def __init__(self, on_step: OnStep | None) -> None:
        self.on_step, self.started = on_step, time.monotonic()
        self.begun: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, estimate: Tensor | None = None) -> None:
        now = self.seconds
        self.begun.setdefault(stage, now)
        if self.on_step is not None:
            self.on_step(Progress(stage, done, total, now, estimate))

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def stages(self) -> dict[str, float]:
        """Seconds of every stage: from its beginning to that of the next."""
        begins = [*self.begun.values(), self.seconds]
        return {name: round(begins[i + 1] - begins[i], 4) for i, name in enumerate(self.begun)}


@contextmanager
def _evaluating(model: CogVideoX) -> Iterator[None]:
    """Dropout off for the run; a model that was training goes on training afterwards."""
    training = [part for part in model.parts().values() if part.training]
    for part in training:
        part.eval()
    try:
        yield
    finally:
        for part in training:
            part.train()


def _record(
    model: CogVideoX, plan: Plan, given: Given, condition: Conditioning, facts: dict[str, Any]
) -> dict[str, Any]:
    """What made this video. Of input files only names and hashes are kept: folders tell about people."""
    options = plan.options
    given_files = ("image", "video", "reuse_table")
    paths = {name: Path(path) for name in given_files if (path := getattr(options, name)) is not None}
    settings = options.model_dump(mode="json") | {name: path.name for name, path in paths.items()}
    inputs: dict[str, Any] = {name: path for name, path in paths.items() if path.exists()}
    if given.shape is not None:
        inputs["given_size"] = list(given.shape)
    if "video" in inputs:
        with suppress(MediaError):  # it was read before; who took it away since must not cost the result
            inputs["given_colours"] = str(probe(inputs["video"]).colours)
    record = manifest("generate", settings, inputs, options.seed)
    path = model.schedule.path(options.steps, options.previous, condition.strength)
    scale = guidance_of(options).build()
    record["model"] = {
        "name": model.spec.name,
        "kind": model.spec.kind,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "transformer": model.transformer.config.model_dump(mode="json"),
        "vae": model.vae.config.model_dump(mode="json"),
        "schedule": model.schedule.config.model_dump(mode="json"),
        "weights": model.weights,
        "adapters": model.adapters,
    }
    record["run"] = {
        "way": condition.way,
        "height": plan.height,
        "width": plan.width,
        "fps": plan.fps,
        "frames": asdict(plan.frames),
        "condition": condition.facts,
        "text": facts,
        "times": [step.t for step in path],
        "guidance": [round(scale(step), 6) for step in path],
        "precision_between_steps": options.latents,
    }
    return record

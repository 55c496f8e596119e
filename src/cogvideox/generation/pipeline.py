"""From the prompt to the video: ``generate`` checks and plans, ``run`` makes what was planned.

text -> conditions -> noise -> steps -> pixels -> video and its record
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox import conditioning
from cogvideox.conditioning import Coder, Conditioning
from cogvideox.diffusion import SamplerStep, is_guided
from cogvideox.errors import ConfigError, PromptError, SizeError
from cogvideox.generation import preflight
from cogvideox.generation.fast_paths import is_spread, running
from cogvideox.generation.finite_check import PeakMemory, guarded
from cogvideox.generation.options import GenerateOptions, draw_seed
from cogvideox.generation.plan import Given, Plan, fit_video, plan_run, read_given
from cogvideox.generation.record import Generation, TextRecord, record_of
from cogvideox.generation.sampling import Noises, guidance_of, sample_latents
from cogvideox.model import CogVideoX
from cogvideox.text import check_prompt
from cogvideox.video import Video


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


def generate(
    model: CogVideoX,
    options: GenerateOptions | str | None = None,
    on_step: OnStep | None = None,
    *,
    image: np.ndarray | str | Path | None = None,
    video: Video | str | Path | None = None,
    prompt_embedding: Float[Tensor, "1 l d"] | None = None,
    negative_embedding: Float[Tensor, "1 l d"] | None = None,
    initial_latents: Float[Tensor, "1 c t h w"] | None = None,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Video:
    """Make one video: ``generate(model, "a red circle", steps=20, image="dog.png")``.

    ``options`` is a prompt or GenerateOptions; ``settings`` are fields of GenerateOptions, checked like them, and win.
    ``image`` is a path or uint8 [h, w, 3], ``video`` a path or a Video. The embeddings stand in for the prompts,
    ``initial_latents`` (standard normal, in the shape of the plan) for the first noise of the seed. Without a seed one
    is drawn; it stands in ``manifest["seed"]``. A ``generator`` draws everything, as the pipelines of diffusers do.
    ``on_step`` is called with a Progress after every step; what it raises stops the run.

    The video has exactly the frames asked for; its manifest says how it was made. Raises InputError, ConfigError or
    NumericsError.
    """
    if not isinstance(model, CogVideoX):
        raise ConfigError(f"model of {type(model).__name__}: give what cogvideox.load returns")
    images = {"image": image, "video": video}
    settings |= {name: str(path) for name, path in images.items() if isinstance(path, str | Path)}
    options = options_of(options, settings)
    check_prompt(options.prompt)
    check_prompt(options.negative_prompt, "negative prompt")
    given = read_given(
        options,
        None if isinstance(image, str | Path) else image,
        None if isinstance(video, str | Path) else video,
    )
    plan = plan_run(model.spec, options, given)
    if model.shipped and not model.adapters:
        preflight.warn_of_unknown(model.spec.name, options.prompt if prompt_embedding is None else "", given)
    if not is_spread(model.transformer):  # together the processes have more of both
        preflight.check(model, plan)
    return run(
        model,
        plan,
        given,
        on_step,
        prompt_embedding=prompt_embedding,
        negative_embedding=negative_embedding,
        initial_latents=initial_latents,
        generator=generator,
    ).video


def options_of(options: GenerateOptions | str | None, settings: Mapping[str, Any]) -> GenerateOptions:
    """Options from a prompt or options and plain keywords. Raises ConfigError, with a suggestion for unknown names."""
    if isinstance(options, str):
        options = GenerateOptions(prompt=options)
    if options is not None and not isinstance(options, GenerateOptions):
        raise ConfigError(f"options of {type(options).__name__}: give GenerateOptions or a prompt")
    return (options or GenerateOptions()).changed(**settings) if settings or not options else options


@torch.no_grad()
def run(
    model: CogVideoX,
    plan: Plan,
    given: Given,
    on_step: OnStep | None = None,
    *,
    prompt_embedding: Float[Tensor, "1 l d"] | None = None,
    negative_embedding: Float[Tensor, "1 l d"] | None = None,
    initial_latents: Float[Tensor, "1 c t h w"] | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Make what was planned; nothing is planned or checked again. The arguments are those of ``generate``."""
    report = _Clock(on_step)
    if plan.options.seed is None and generator is None:
        plan = replace(plan, options=plan.options.changed(seed=_drawn_seed(model)))
    options = plan.options
    noises = Noises(options.seed, _latent_dtype(model, options), model.device, generator)

    with PeakMemory(model.device) as memory, _evaluating(model):
        report("text", 0, 1)
        prompt, negative, text = _text(
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
    record = record_of(
        model,
        plan,
        given,
        condition,
        path,
        text=text,
        engine=engine.record(),
        seconds=round(report.seconds, 3),
        stages=report.stages(),
        peak_memory_bytes=memory.bytes,
        noise="explicit generator" if generator is not None else f"seed {options.seed}",
    )
    return Generation.of(result, record)


def _drawn_seed(model: CogVideoX) -> int:
    """A new seed; where processes share the network, the first one's for all of them."""
    seed = draw_seed()
    if not is_spread(model.transformer):
        return seed
    seeds = [seed]
    torch.distributed.broadcast_object_list(seeds, src=0, device=torch.device("cpu"))
    return seeds[0]


def _text(
    model: CogVideoX,
    options: GenerateOptions,
    has_image: bool,
    prompt: Tensor | None,
    negative: Tensor | None,
) -> tuple[Tensor, Tensor | None, dict[str, TextRecord]]:
    """Embeddings of the prompt and (with guidance) of the negative prompt, and how many of their tokens were read.

    ``has_image``: an image or video says how the video begins, so the prompt may be empty.
    """
    records: dict[str, TextRecord] = {}
    networks = {"text_encoder": model.text.model} if model.text is not None else {}

    def embed(text: str, name: str) -> Tensor:
        found = model.embed([text])
        records[name] = TextRecord(found.tokens[0], found.budget, found.cut[0])
        if found.cut[0]:
            warnings.warn(
                f"{name}: {found.tokens[0]} tokens, the model reads {found.budget}; cut: {found.cut[0]!r}",
                stacklevel=5,
            )
        return found.values

    if prompt is None:
        if not options.prompt.strip() and not has_image:
            raise PromptError("prompt: empty; say what the video should show")
        prompt = guarded(
            lambda again: embed(options.prompt, "prompt"), networks, "text embedding", options.check_numerics
        )
    if is_guided(guidance_of(options)) and negative is None:
        if options.zero_negative:
            negative = torch.zeros_like(prompt)
        else:
            negative = embed(options.negative_prompt, "negative_prompt")
    return prompt, negative, records


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

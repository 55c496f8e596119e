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

from cogvideox.conditioning import Conditioning
from cogvideox.diffusion import SamplerStep, is_guided
from cogvideox.errors import ConfigError, PromptError, SizeError
from cogvideox.generation import preflight
from cogvideox.generation.conditions import condition_of, controls_of
from cogvideox.generation.control_nets import facts_of, fetch_control_nets
from cogvideox.generation.fast_paths import is_spread, running
from cogvideox.generation.finite_check import guarded, peak_memory
from cogvideox.generation.given import Given, Picture, fit_video, read_given
from cogvideox.generation.options import GenerateOptions, draw_seed
from cogvideox.generation.plan import Plan, plan_run
from cogvideox.generation.record import Generation, TextRecord, record_of
from cogvideox.generation.sampling import Noises, guidance_of, sample_latents
from cogvideox.memory.offload import give_back
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


@dataclass(frozen=True)
class Explicit:
    """What a caller gives instead of what a run makes of its prompts and its seed.

    The embeddings stand in for the prompts, ``initial_latents`` (standard normal, in the shape of the plan) for the
    first noise of the seed. A ``generator`` draws everything, as the pipelines of diffusers do.
    """

    prompt_embedding: Float[Tensor, "1 l d"] | None = None
    negative_embedding: Float[Tensor, "1 l d"] | None = None
    initial_latents: Float[Tensor, "1 c t h w"] | None = None
    generator: torch.Generator | None = None


NOTHING = Explicit()


def generate(
    model: CogVideoX,
    options: GenerateOptions | str | None = None,
    on_step: OnStep | None = None,
    *,
    image: Picture | None = None,
    video: Video | str | Path | None = None,
    last_image: Picture | None = None,
    keyframes: Mapping[int, Picture] | None = None,
    mask: np.ndarray | Video | str | Path | None = None,
    remove: np.ndarray | Video | str | Path | None = None,
    control: Video | Picture | None = None,
    prompt_embedding: Float[Tensor, "1 l d"] | None = None,
    negative_embedding: Float[Tensor, "1 l d"] | None = None,
    initial_latents: Float[Tensor, "1 c t h w"] | None = None,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Video:
    """Make one video: ``generate(model, "a red circle", steps=20, image="dog.png")``.

    ``options`` is a prompt or GenerateOptions; ``settings`` are fields of GenerateOptions, checked like them, and win.
    ``image`` and ``last_image`` are paths or uint8 [h, w, 3], ``keyframes`` such pictures by the number of their frame,
    ``video`` a path or a Video, ``control`` any of these, ``mask`` and ``remove`` what ``video.read_mask`` reads; for
    the tensors and the generator see ``Explicit``. Without a seed one is drawn; it stands in ``manifest["seed"]``.
    ``on_step`` is called with a Progress after every step; what it raises stops the run. The video has exactly the
    frames asked for, and its manifest says how it was made. Raises InputError, ConfigError or NumericsError.
    """
    if not isinstance(model, CogVideoX):
        raise ConfigError(f"model of {type(model).__name__}: give what cogvideox.load returns")
    brought: dict[str, Any] = dict(image=image, video=video, last_image=last_image, mask=mask, remove=remove)
    brought["control"] = control
    settings |= {name: str(path) for name, path in brought.items() if isinstance(path, str | Path)}
    if (
        isinstance(keyframes, Mapping)
        and keyframes
        and all(isinstance(each, str | Path) for each in keyframes.values())
    ):
        settings["keyframe"] = tuple(f"{number}={path}" for number, path in keyframes.items())
    options = options_of(options, settings)
    check_prompt(options.prompt)
    check_prompt(options.negative_prompt, "negative prompt")
    given = read_given(options, **brought, keyframes=keyframes)
    fetch_control_nets(options.control_nets)
    plan = plan_run(model.spec, options, given)
    if model.shipped and not model.adapters:
        preflight.warn_of_unknown(model.spec.name, options.prompt if prompt_embedding is None else "", given)
    if not is_spread(model.transformer):  # together the processes have more of both
        preflight.check(model, plan)
    explicit = Explicit(prompt_embedding, negative_embedding, initial_latents, generator)
    return run(model, plan, given, on_step, explicit).video


def options_of(options: GenerateOptions | str | None, settings: Mapping[str, Any]) -> GenerateOptions:
    """Options from a prompt or options and plain keywords. Raises ConfigError, with a suggestion for unknown names."""
    if isinstance(options, str):
        options = GenerateOptions(prompt=options)
    if options is not None and not isinstance(options, GenerateOptions):
        raise ConfigError(f"options of {type(options).__name__}: give GenerateOptions or a prompt")
    return (options or GenerateOptions()).changed(**settings) if settings or not options else options


@torch.no_grad()
def run(
    model: CogVideoX, plan: Plan, given: Given, on_step: OnStep | None = None, explicit: Explicit = NOTHING
) -> Generation:
    """Make what was planned; nothing is planned or checked again."""
    report = _Clock(on_step)
    if plan.options.seed is None and explicit.generator is None:
        plan = replace(plan, options=plan.options.changed(seed=_drawn_seed(model)))
    options = plan.options
    dtype = torch.float32 if options.latents == "float32" else model.dtype
    noises = Noises(options.seed, dtype, model.device, explicit.generator)

    with peak_memory(model.device) as peak, _evaluating(model):
        report("text", 0, 1)
        prompt, negative, text = _text(model, options, bool(given.for_model), explicit)
        report("encode", 0, 1)
        condition = condition_of(model, plan, given, noises)
        controls = controls_of(model, plan, given)
        path = model.schedule.path(options.steps, options.previous, condition.strength, options.times)
        report("denoise", 0, len(path))
        clip = model.clip_of(plan.latent_shape, prompt.shape[1])
        with running(model, options, path, clip, controls) as engine:
            initial = _initial(plan, noises, explicit.initial_latents)
            latents = _denoise(model, plan, condition, prompt, negative, noises, initial, report)
        give_back(model.device)
        report("decode", 0, 1)
        pixels = _decode(model, plan, latents)
        report("decode", 1, 1)

    video = _joined(Video.from_tensor(pixels, plan.fps), plan, given)
    record = record_of(
        model, plan, given, condition, path, text=text, engine=engine,
        seconds=round(report.seconds, 3), stages=report.stages(), peak_memory_bytes=peak,
        noise="explicit generator" if explicit.generator is not None else f"seed {options.seed}",
        control_nets=facts_of(options.control_nets, controls),
    )  # fmt: skip
    return Generation.of(video, record)


def _drawn_seed(model: CogVideoX) -> int:
    """A new seed; where processes share the network, the first one's for all of them."""
    seeds = [draw_seed()]
    if is_spread(model.transformer):
        torch.distributed.broadcast_object_list(seeds, src=0, device=torch.device("cpu"))
    return seeds[0]


def _joined(video: Video, plan: Plan, given: Given) -> Video:
    """A continuation behind the video that it continues, where the options ask for it."""
    options = plan.options
    if not options.join or given.video is None or options.video_use != "continue":
        return video
    before = fit_video(given.video, plan.height, plan.width, options.fit)
    return Video(np.concatenate([before.frames, video.frames]), plan.fps)


def _text(
    model: CogVideoX, options: GenerateOptions, has_image: bool, explicit: Explicit
) -> tuple[Tensor, Tensor | None, dict[str, TextRecord]]:
    """Embeddings of the prompt and (with guidance) of the negative prompt, and how many of their tokens were read.

    ``has_image``: an image or video says how the video begins, so the prompt may be empty.
    """
    records: dict[str, TextRecord] = {}
    networks = {"text_encoder": model.text.model} if model.text is not None else {}

    def embed(text: str, name: str) -> Tensor:
        embedding = model.embed([text])
        [tokens], budget, [cut] = embedding.tokens, embedding.budget, embedding.cut
        records[name] = TextRecord(tokens, budget, cut)
        if cut:
            warnings.warn(f"{name}: {tokens} tokens, the model reads {budget}; cut: {cut!r}", stacklevel=5)
        return embedding.values

    prompt, negative = explicit.prompt_embedding, explicit.negative_embedding
    if prompt is None:
        if not options.prompt.strip() and not has_image:
            raise PromptError("prompt: empty; say what the video should show")
        prompt = guarded(
            lambda again: embed(options.prompt, "prompt"), networks, "text embedding", options.check_numerics
        )
    if is_guided(guidance_of(options)) and negative is None:
        zero = options.zero_negative
        negative = torch.zeros_like(prompt) if zero else embed(options.negative_prompt, "negative_prompt")
    return prompt, negative, records


def _initial(plan: Plan, noises: Noises, explicit: Tensor | None) -> Float[Tensor, "1 c t h w"]:
    """The noise that a run starts from. Raises SizeError for one of another shape than the plan's."""
    if explicit is None:
        return noises.initial(plan.latent_shape)
    if tuple(explicit.shape) != plan.latent_shape:
        raise SizeError(f"initial_latents of {tuple(explicit.shape)}: this run needs {plan.latent_shape}")
    return explicit.to(noises.device, noises.dtype)


def _denoise(
    model: CogVideoX,
    plan: Plan,
    condition: Conditioning,
    prompt: Tensor,
    negative: Tensor | None,
    noises: Noises,
    initial: Tensor,
    report: _Clock,
) -> Float[Tensor, "1 c t h w"]:
    def after(step: SamplerStep, x: Tensor, estimate: Tensor) -> None:
        report("denoise", step.index + 1, step.count, estimate)

    def produce(again: bool) -> Tensor:
        steps = noises.steps(plan.latent_shape)
        watch = None if again else after
        return sample_latents(model, prompt, negative, initial, plan.options, condition, steps, watch)

    networks = {name: each for name, each in model.networks().items() if name not in ("vae", "text_encoder")}
    return guarded(produce, networks, "latents", plan.options.check_numerics)


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
    return pixels[:, :, frames.front : frames.generated - frames.back]


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
    training = [network for network in model.networks().values() if network.training]
    for network in training:
        network.eval()
    try:
        yield
    finally:
        for network in training:
            network.train()

"""From the prompt to the video: ``generate`` checks and plans, ``run`` makes what was planned.

text -> conditions -> noise -> steps -> pixels -> video and its record
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.brief import Brief
from cogvideox.conditioning import Conditioning
from cogvideox.diffusion import SamplerStep, is_guided
from cogvideox.diffusion.windows import shuffled
from cogvideox.errors import ConfigError, PromptError, SizeError
from cogvideox.generation import preflight
from cogvideox.generation.conditions import condition_of, controls_of
from cogvideox.generation.control_nets import facts_of, fetch_control_nets
from cogvideox.generation.distilled import warn_of_left_settings
from cogvideox.generation.fast_paths import is_spread, running
from cogvideox.generation.finite_check import guarded, guarded_stream, peak_memory
from cogvideox.generation.given import Given, Picture, fit_video, read_given
from cogvideox.generation.moving_noise import flow_of, moving_noise
from cogvideox.generation.options import GenerateOptions, draw_seed
from cogvideox.generation.plan import Plan, plan_run
from cogvideox.generation.prompt_times import texts_of
from cogvideox.generation.recommended import filled_in, recommended_on
from cogvideox.generation.record import Generation, RunRecord, TextRecord, joined_record, record_of
from cogvideox.generation.sampling import Noises, guidance_of, sample_latents
from cogvideox.generation.segments import (
    VideoSegment,
    given_to,
    join,
    laid_segments,
    segment_options,
    shared_frames,
)
from cogvideox.generation.turn import OnStep, RunClock, evaluating, turn_of
from cogvideox.generation.windows import noise_of, window_frames
from cogvideox.memory.offload import give_back
from cogvideox.model import CogVideoX
from cogvideox.text import check_prompt
from cogvideox.video import Video
from cogvideox.video.spool import forget_pages, frames_on_disk
from cogvideox.video.video import to_frames


@dataclass(frozen=True, repr=False)
class Explicit(Brief):
    """What a caller gives instead of what a run makes of its prompts and its seed.

    The embeddings stand in for the prompts (of a prompt with times, a row for each), ``initial_latents`` (standard
    normal, in the shape of the plan) for the first noise of the seed. A ``generator`` draws everything, as the
    pipelines of diffusers do.
    """

    prompt_embedding: Float[Tensor, "prompts l d"] | None = None
    negative_embedding: Float[Tensor, "1 l d"] | None = None
    initial_latents: Float[Tensor, "1 c t h w"] | None = None
    generator: torch.Generator | None = None


NOTHING = Explicit()


@dataclass(frozen=True, kw_only=True, repr=False)
class Sampled(Brief):
    """Clean latents of a planned run, scaled, with the padding of its plan, and what its record says so far.

    ``condition`` is without its tensors; ``path`` are the steps that ran, ``seconds`` and ``stages`` the time they
    took, ``facts`` further fields of the record.
    """

    latents: Float[Tensor, "1 c t h w"]
    plan: Plan
    given: Given
    condition: Conditioning
    path: Sequence[SamplerStep]
    seconds: float
    stages: Mapping[str, float]
    peak_memory: Mapping[str, int]
    facts: Mapping[str, Any]


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
    first_pass: Video | str | Path | None = None,
    control: Video | Picture | None = None,
    prompt_embedding: Float[Tensor, "prompts l d"] | None = None,
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
    brought["first_pass"] = first_pass
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
    recommended = recommended_on(model.adapters)
    options = filled_in(options, recommended)
    given = read_given(options, **brought, keyframes=keyframes)
    fetch_control_nets(options.control_nets)
    plan = plan_run(model.spec, options, given)
    if not any(each.settings for _, each in recommended):
        warn_of_left_settings(model.spec, options, model.spec.name if model.shipped else "the model")
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


def run(
    model: CogVideoX, plan: Plan, given: Given, on_step: OnStep | None = None, explicit: Explicit = NOTHING
) -> Generation:
    """Make what was planned; nothing is planned or checked again."""
    plan = _with_seed(model, plan, explicit)
    if plan.windows is not None and plan.windows.schedule == "segments":
        return _run_in_segments(model, plan, given, on_step, explicit)
    with turn_of(model):
        return decode(model, sample(model, plan, given, on_step, explicit), on_step)


@torch.no_grad()
def sample(
    model: CogVideoX, plan: Plan, given: Given, on_step: OnStep | None = None, explicit: Explicit = NOTHING
) -> Sampled:
    """The first half of ``run``: up to the clean latents. ``decode`` is the other half, as often as it is wanted.

    Raises ConfigError for a video in segments, each of which begins with the pixels of the one before.
    """
    if plan.windows is not None and plan.windows.schedule == "segments":
        raise ConfigError(
            "window_schedule segments: each segment is decoded before the next begins, so that there are no latents "
            "of the whole; make the video with generate, or choose another schedule"
        )
    report, plan = RunClock(on_step), _with_seed(model, plan, explicit)
    options = plan.options
    dtype = torch.float32 if options.latents == "float32" else model.dtype
    noises = Noises(options.seed, dtype, model.device, explicit.generator)

    with turn_of(model), peak_memory(model.device) as peak, evaluating(model):
        report("text", 0, 1)
        prompt, negative, text = _text(model, options, bool(given.for_model), explicit)
        report("encode", 0, 1)
        condition = condition_of(model, plan, given, noises)
        controls = controls_of(model, plan, given)
        path = model.schedule.path(options.steps, options.previous, condition.strength, options.times)
        report("denoise", 0, len(path))
        clip = model.clip_of(plan.seen_shape, prompt.shape[1])
        with running(model, options, path, clip, controls) as engine:
            initial = _initial(model, plan, given, noises, explicit.initial_latents)
            latents = _denoise(model, plan, condition, prompt, negative, noises, initial, report)
        give_back(model.device)
    return Sampled(
        latents=latents, plan=plan, given=given, condition=condition.without_tensors(), path=path,
        seconds=report.seconds, stages=report.stages(), peak_memory=peak,
        facts={
            "text": text, "engine": engine, "noise": _noise_name(options, given, explicit),
            "control_nets": facts_of(options.control_nets, controls),
        },
    )  # fmt: skip


@torch.no_grad()
def decode(model: CogVideoX, sampled: Sampled, on_step: OnStep | None = None) -> Generation:
    """The second half of ``run``: the video of clean latents, with the record of the whole."""
    plan, given, report = sampled.plan, sampled.given, RunClock(on_step, sampled.seconds)
    with turn_of(model), peak_memory(model.device) as peak, evaluating(model):
        report("decode", 0, 1)
        frames = _decode(model, plan, sampled.latents)
        report("decode", 1, 1)
    video = _joined(Video(frames, plan.fps), plan, given)
    most = {name: max(sampled.peak_memory.get(name, 0), size) for name, size in peak.items()}
    record = record_of(
        model, plan, given, sampled.condition, sampled.path, **sampled.facts, peak_memory_bytes=most,
        seconds=round(report.seconds, 3), stages={**sampled.stages, **report.stages()},
    )  # fmt: skip
    return Generation.of(video, record)


def _with_seed(model: CogVideoX, plan: Plan, explicit: Explicit) -> Plan:
    """The plan with a seed: its own, or a drawn one unless a generator draws everything."""
    if plan.options.seed is not None or explicit.generator is not None:
        return plan
    return replace(plan, options=plan.options.changed(seed=_drawn_seed(model)))


def _run_in_segments(
    model: CogVideoX, plan: Plan, given: Given, on_step: OnStep | None, explicit: Explicit
) -> Generation:
    """One run after the other, each begun with the last frames of the one before; see ``segments``."""
    assert plan.windows is not None  # the caller has looked
    size, shared = window_frames(model.spec, plan.windows), shared_frames(model.spec, given)
    whole = plan.options.changed(height=plan.height, width=plan.width)
    records: list[RunRecord] = []

    def make(segment: VideoSegment, before: np.ndarray) -> np.ndarray:
        begun, options = (
            given_to(model.spec, segment, before, given),
            segment_options(whole, segment, plan.fps),
        )
        if (
            begun.video is not None
        ):  # its frames are made again, so that both versions are there to be blended
            options = options.changed(
                video_use="continue", context_frames=segment.shared, frames=segment.added
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said of the whole already
            own = plan_run(model.spec, options, begun)
        lead = segment.shared if begun.video is not None else 0
        frames = replace(own.frames, asked=own.frames.asked + lead, front=own.frames.front - lead)
        generation = run(model, replace(own, frames=frames), begun, on_step, explicit)
        records.append(generation.record)
        return generation.video.frames

    frames = frames_on_disk(plan.frames.asked, plan.height, plan.width)
    join(laid_segments(plan.frames.asked, size, shared), make, frames)
    return Generation.of(Video(frames, plan.fps), joined_record(records, plan, given))


def _noise_name(options: GenerateOptions, given: Given, explicit: Explicit) -> str:
    """Where the noise of a run came from, for its record."""
    if explicit.generator is not None:
        return "explicit generator"
    moves = given.first_pass is not None and explicit.initial_latents is None
    return f"seed {options.seed}" + (", moves like the first pass's video" if moves else "")


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
        source = "text cache" if embedding.kept else ""
        records[name] = TextRecord(tokens, budget, cut, _elsewhere(model), source)
        if cut:
            warnings.warn(f"{name}: {tokens} tokens, the model reads {budget}; cut: {cut!r}", stacklevel=5)
        return embedding.values

    prompt, negative = explicit.prompt_embedding, explicit.negative_embedding
    if prompt is None:
        if not options.prompt.strip() and not has_image:
            raise PromptError("prompt: empty; say what the video should show")
        texts = texts_of(options.prompt)
        names = [f"prompt {n + 1}" for n in range(len(texts))] if len(texts) > 1 else ["prompt"]
        prompt = guarded(
            lambda again: torch.cat([embed(*each) for each in zip(texts, names, strict=True)]),
            networks,
            "text embedding",
            options.check_numerics,
        )
    if is_guided(guidance_of(options)) and negative is None:
        zero = options.zero_negative
        negative = torch.zeros_like(prompt[:1]) if zero else embed(options.negative_prompt, "negative_prompt")
    return prompt, negative, records


def _elsewhere(model: CogVideoX) -> str:
    """The device of the text encoder, '' where it is that of the model."""
    network = model.text.model if model.text is not None else None
    comes = vars(network).get("comes") if network is not None else None
    return str(comes.device) if comes is not None and comes.device.type != model.device.type else ""


def _initial(
    model: CogVideoX, plan: Plan, given: Given, noises: Noises, explicit: Tensor | None
) -> Float[Tensor, "1 c t h w"]:
    """The noise that a run starts from. Raises SizeError for one of another shape than the plan's."""
    if explicit is None and given.first_pass is not None:
        flow, seed = flow_of(plan.options.flow, str(model.device)), plan.options.seed or 0
        first = given.first_pass[: plan.frames.asked]
        moving = moving_noise(first, model.spec, plan.latent_shape, seed, flow)
        return moving.to(noises.device, noises.dtype)
    if explicit is None:
        drawn, windows = noises.initial(plan.latent_shape), plan.windows
        if windows is None or noise_of(model.spec, plan.options) == "fresh":
            return drawn
        return shuffled(drawn, windows.size, windows.overlap, noises.order())
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
    report: RunClock,
) -> Float[Tensor, "1 c t h w"]:
    def after(step: SamplerStep, x: Tensor, estimate: Tensor) -> None:
        report("denoise", step.index + 1, step.count, estimate)

    def produce(again: bool) -> Tensor:
        steps = noises.steps(plan.latent_shape)
        watch = None if again else after
        return sample_latents(
            model, prompt, negative, initial, plan.options, condition, steps, watch, plan.windows
        )

    networks = {name: each for name, each in model.networks().items() if name not in ("vae", "text_encoder")}
    return guarded(produce, networks, "latents", plan.options.check_numerics)


def _decode(model: CogVideoX, plan: Plan, latents: Tensor) -> np.ndarray:
    """Exactly the frames asked for, uint8 [t, h, w, 3], decoded a few at a time; those of a long video are on disk."""
    frames, options = plan.frames, plan.options
    kept = latents[:, :, frames.padding :]
    size = frames.asked, plan.height, plan.width
    result = np.empty((*size, 3), np.uint8) if plan.windows is None else frames_on_disk(*size)
    stream = guarded_stream(
        lambda: model.stream_decode(kept, options.vae_coding, plan.tiles),
        {"vae": model.vae},
        "pixels",
        options.check_numerics,
    )
    first = -frames.front  # the number of the next frame in the result
    for pixels in stream:
        begin, end = max(first, 0), min(first + pixels.shape[2], frames.asked)
        if begin < end:
            result[begin:end] = to_frames(pixels[0, :, begin - first : end - first])
            forget_pages(result)
        first += pixels.shape[2]
    return result

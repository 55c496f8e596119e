"""Whether a run is made in context windows, in which ones, and which prompt each of them follows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import ceil
from typing import Literal

from cogvideox.diffusion import Windows
from cogvideox.errors import ConfigError, FrameError, PromptError
from cogvideox.generation.frame_plan import FramePlan, plan_frames
from cogvideox.generation.given import Given
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.prompt_times import TimedPrompt
from cogvideox.generation.segments import SHARED, laid_segments, shared_frames
from cogvideox.spec import ModelSpec
from cogvideox.transformer.position import repeats_after

LONG = 2
"""Times the trained length above which a video is made in windows unless it is asked for at once."""
OF_VOID = 16
"""Frames that Netflix VOID's windows share; its videos are made in windows as soon as they are longer than trained."""
OF_WINDOWS = ("window_overlap", "window_schedule", "window_stride", "window_blend", "window_noise")


def plan_windows(
    spec: ModelSpec,
    options: GenerateOptions,
    frames: FramePlan,
    timed: Sequence[TimedPrompt] = (),
    fps: float = 1.0,
    given: Given | None = None,
) -> Windows | None:
    """The windows of a video of ``frames``; None where it is made at once.

    ``timed``: prompts with times. Raises FrameError, PromptError, InputError or ConfigError for what cannot be.
    """
    size = _size(spec, options, frames, max((each.stop - each.start for each in timed), default=0.0) * fps)
    if size is None:
        _warn_of_no_effect(options, OF_WINDOWS, "on a video that is made at once; give --window")
        if timed:
            raise PromptError(
                f"prompt: {len(timed)} prompts with times, and the video of {frames.asked} frames is made at once; ask "
                "for a longer one, or for a smaller --window"
            )
        return None
    unit, removal = spec.frame_patch, spec.kind == "removal"
    schedule, blend = options.window_schedule, options.window_blend
    if schedule == "auto":  # what measured best, and what keeps windows where a cache needs them
        schedule = "multidiffusion" if removal else "static" if options.cache or options.reuse else "uniform"
    if schedule == "segments":
        overlap = -(-shared_frames(spec, given or Given()) // spec.vae.temporal_compression_ratio)
        if overlap >= size:
            shown = options.window or spec.frames
            raise FrameError(
                f"window {shown}: no longer than the {shared_frames(spec, given or Given())} frames that segments "
                "share; give a larger one"
            )
    else:
        overlap = _overlap(spec, options, size)
    windows = Windows(
        frames=frames.latents,
        size=size,
        overlap=overlap,
        schedule=schedule,
        blend=("linear" if removal else "pyramid") if blend == "auto" else blend,
        stride=options.window_stride,
        unit=unit,
        prompts=_firsts(spec, frames, timed, fps) or (0,),
    )
    _check(options, windows)
    return windows


def noise_of(spec: ModelSpec, options: GenerateOptions) -> Literal["shuffled", "fresh"]:
    """Which noise a video in windows begins from."""
    if options.window_noise == "auto":
        return "fresh" if spec.kind == "removal" else "shuffled"
    return options.window_noise


def window_frames(spec: ModelSpec, windows: Windows) -> int:
    """The pixel frames of a window; the latent that completes the first patch of the 1.5 models is none."""
    padding = 1 if spec.frame_patch > 1 and not spec.vae.first_latent_alone else 0
    return (windows.size - padding - 1) * spec.vae.temporal_compression_ratio + 1


def about_windows(spec: ModelSpec, windows: Windows, frames: FramePlan, asked: int | None = None) -> str:
    """One phrase for people: how many windows of how many frames, and why.

    ``asked``: the frames of a window that were asked for, None where the model's own length decided.
    """
    count, shared = len(windows.at(0)), windows.overlap * spec.vae.temporal_compression_ratio
    size = window_frames(spec, windows)
    why = f"in {count} windows of {size} frames that share {shared} ({windows.schedule}, {windows.blend} weights)"
    if windows.schedule == "segments":
        count = len(laid_segments(frames.asked, size, SHARED[spec.kind]))
        why = f"in {count} segments of {size} frames, each begun with the last {SHARED[spec.kind]} of the one before"
    if asked is not None and asked != size:
        why += f", the next length that the model makes to window {asked}"
    elif asked is None and frames.generated > spec.frames:
        why += f", since the model was trained on {spec.frames}"
    return why


def check_positions(
    spec: ModelSpec, options: GenerateOptions, latents: int, windows: Windows | None = None
) -> None:
    """Refuse RIFLEx for positions that do not rotate, and warn where it changes nothing. Raises ConfigError.

    ``latents``: latent frames of the video; ``windows``: those that the network sees at once, where it is not all.
    """
    if not options.riflex:
        return
    config = spec.transformer
    if config.position not in ("rotary", "rotary+learned"):
        raise ConfigError(
            f"riflex: the model {spec.name or 'given'} has {config.position} positions, and it slows a frequency of "
            "rotary ones; leave it out, or make the video in windows with --window"
        )
    period = repeats_after(config.attention_head_dim, config.native_patches_t) * spec.frame_patch
    if config.position_mode == "riflex":
        warnings.warn("riflex has no effect: the model has position_mode riflex already", stacklevel=4)
    elif (windows.size if windows is not None else latents) <= period:
        ratio = spec.vae.temporal_compression_ratio
        seen = f"{latents} latent frames"
        if windows is not None:
            seen = f"windows of {window_frames(spec, windows)} frames, {windows.size} latent ones"
        warnings.warn(
            f"riflex has no effect on {seen}: positions repeat after {period} ({(period - 1) * ratio + 1} frames)",
            stacklevel=4,
        )


def _size(spec: ModelSpec, options: GenerateOptions, frames: FramePlan, of_a_prompt: float) -> int | None:
    """Latent frames of a window; None where the whole video is made at once.

    ``of_a_prompt``: frames of the longest of several prompts with times, 0 for one prompt.
    """
    longest = 1 if spec.kind == "removal" else LONG
    at_once = frames.asked <= longest * spec.frames and not of_a_prompt
    if options.window == 0 or (options.window is None and at_once):
        return None
    config = spec.vae
    ratio, alone = config.temporal_compression_ratio, config.first_latent_alone
    wanted = options.window or spec.frames
    if options.window is None and of_a_prompt and frames.asked <= spec.frames:
        wanted = ceil(of_a_prompt)
    size = plan_frames(wanted, ratio, spec.frame_patch, "start", first_alone=alone).latents
    return size if size < frames.latents else None


def _overlap(spec: ModelSpec, options: GenerateOptions, size: int) -> int:
    """Latent frames that windows share, whole patches. Raises FrameError where no window would go on."""
    unit, ratio = spec.frame_patch, spec.vae.temporal_compression_ratio
    if options.window_overlap is None:
        overlap = OF_VOID // ratio if spec.kind == "removal" else size // 2
        overlap = min(overlap, size - unit) // unit * unit
    else:
        overlap = -(-options.window_overlap // ratio)
        overlap += -overlap % unit
    if overlap >= size:
        raise FrameError(
            f"window_overlap {options.window_overlap}: {overlap} of {size} latent frames of a window, so none would go "
            f"on; give at most {(size - unit) * ratio}"
        )
    return overlap


def _firsts(spec: ModelSpec, frames: FramePlan, timed: Sequence[TimedPrompt], fps: float) -> tuple[int, ...]:
    """The first latent frame of each prompt. Raises PromptError for times that are not those of the video."""
    if not timed:
        return ()
    ratio, seconds = spec.vae.temporal_compression_ratio, frames.asked / fps
    if abs(timed[-1].stop - seconds) > max(1.0, ratio / fps):
        raise PromptError(
            f"prompt: its times end at {timed[-1].stop:g} s, and the video of {frames.asked} frames at {fps:g} per "
            f"second lasts {seconds:g} s; change one of them"
        )
    numbers = [round(each.start * fps) + frames.front for each in timed]
    return tuple(frames.padding + -(-number // ratio) if number else 0 for number in numbers)


def _check(options: GenerateOptions, windows: Windows) -> None:
    """Refuse caches for windows that move, and warn of settings without effect. Raises ConfigError."""
    if windows.moves and (options.cache or options.reuse):
        name = "cache" if options.cache else "reuse"
        raise ConfigError(
            f"{name} and window_schedule {windows.schedule!r}: windows are others at every step, so nothing that was "
            "kept is of use; choose static windows, or leave one of them out"
        )
    idle = [] if windows.moves else ["window_stride"]
    if windows.schedule == "segments":
        idle = [name for name in OF_WINDOWS if name != "window_schedule"]
    _warn_of_no_effect(options, idle, f"with window_schedule {windows.schedule!r}")


def _warn_of_no_effect(options: GenerateOptions, names: Sequence[str], why: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value != GenerateOptions.model_fields[name].default:
            warnings.warn(f"{name} {value!r} has no effect {why}", stacklevel=5)

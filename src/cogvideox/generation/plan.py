"""What is decided about a run before the first network runs: what was given, its size and its frames."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cogvideox.diffusion import Windows, is_guided
from cogvideox.errors import ConfigError, FrameError, SizeError
from cogvideox.generation.control_nets import control_net_for
from cogvideox.generation.frame_plan import Anchor, FramePlan, plan_frames, plan_size
from cogvideox.generation.given import Given, check_takes
from cogvideox.generation.moving_noise import MOST_LATENTS
from cogvideox.generation.options import LIMITS, GenerateOptions
from cogvideox.generation.prompt_times import timed_prompts, warn_of_misspelt_times
from cogvideox.generation.sampling import check_guidance, guidance_of
from cogvideox.generation.windows import about_windows, check_positions, plan_windows
from cogvideox.memory import Policy
from cogvideox.spec import ModelSpec
from cogvideox.transformer.controlnet import ControlNetConfig
from cogvideox.vae import Tiles

SECOND_GUIDANCE = 6.0
"""Guidance of a removal's second pass; its first has none."""
SAME_SHAPE = 0.02  # difference in aspect that rounding to whole pixels makes
CROPPED = 0.05  # share of a given picture that may be cut away without a word


@dataclass(frozen=True)
class Plan:
    """Everything about a run that is decided before the first network runs.

    ``windows``: how a long video is divided; None: the network sees all of it at once.
    """

    options: GenerateOptions
    height: int
    width: int
    fps: float
    frames: FramePlan
    context: int
    latent_shape: tuple[int, int, int, int, int]
    tiles: Tiles | None = None
    encoded: int = 0  # given frames that are encoded first
    steps: int = 50  # denoising steps that are made: the last part of them where a video is changed
    control_nets: tuple[ControlNetConfig, ...] = ()  # of each ControlNet, in the order of the options
    windows: Windows | None = None

    @property
    def seen_shape(self) -> tuple[int, int, int, int, int]:
        """The shape of the noisy latents that the network sees at once."""
        b, c, t, h, w = self.latent_shape
        return b, c, self.windows.size if self.windows is not None else t, h, w


def plan_run(spec: ModelSpec, options: GenerateOptions, given: Given | None = None) -> Plan:
    """Sizes, frames and shapes of a run; runs no network. Raises SizeError, FrameError, InputError or ConfigError.

    Warns about settings that have no effect on it.
    """
    given = given or Given()
    check_takes(spec, given)
    warn_of_misspelt_times(options.prompt)
    if spec.times and not options.model_fields_set & {"steps", "times"}:  # a model of few steps
        sampler = {} if "sampler" in options.model_fields_set else {"sampler": spec.sampler}
        options = options.changed(times=spec.times, **sampler)
    if options.guidance is None:
        options = options.changed(guidance=spec.guidance if given.first_pass is None else SECOND_GUIDANCE)
    _warn_of_no_effect(options, given)
    if options.strength is None:
        options = options.changed(strength=0.8 if given.mask is None else 1.0)
    config, patch = spec.vae, spec.frame_patch
    free_aspect = spec.needs_image and patch > 1  # 1.5-I2V: short side as usual, the image's own aspect
    shape, usual = given.shape if free_aspect else None, (spec.height, spec.width)
    height, width = plan_size(options.height, options.width, usual, spec.pixel_multiple, shape)
    _check_table(spec, height, width)
    fps = _fps(spec, options, given)
    context = _context(spec, options, given)
    asked, ratio = _asked(spec, options, given, fps, context), config.temporal_compression_ratio
    anchor: Anchor = "middle" if given.for_model <= {"video"} and spec.kind != "inpaint" else "start"
    lay = partial(plan_frames, asked, ratio, patch, anchor, context, first_alone=config.first_latent_alone)
    if given.first_pass is not None and lay().latents > MOST_LATENTS:
        raise FrameError(
            f"first_pass: a second pass makes {config.pixel_frames(MOST_LATENTS)} frames at most, not {asked}; ask for "
            "fewer, or keep the first pass's video"
        )
    _check_first_pass(given, asked, height, width)
    windows = plan_windows(spec, options, lay(), timed_prompts(options.prompt), fps, given)
    slowed = options.riflex or spec.transformer.position_mode == "riflex"
    frames = lay(trained=spec.frames, riflex=slowed) if windows is None else lay()
    if windows is not None:
        frames = _in_windows(spec, frames, windows, options.window)
    check_positions(spec, options, frames.latents, windows)
    given.pictures(asked)  # raises for a key frame beyond
    steps, tiles = _steps(options, given), _tiles(spec, options)
    spec.schedule.check_times(options.times)
    check_guidance(spec, options, steps)
    _warn_of_cropping(spec, options, given, height, width)
    if given.outside and not _leaves_bars(given, (height, width)):
        warnings.warn(
            f"mask outside: the given video fills {width}x{height}, so nothing is made anew", stacklevel=2
        )
    encoded = 0
    if given.for_model:
        encoded = frames.generated
        if not spec.reads_whole_video:
            encoded = 1 if given.has_pictures else context or frames.generated
    factor = config.spatial_compression_ratio
    latents = 1, spec.latent_channels, frames.latents, height // factor, width // factor
    nets = tuple(control_net_for(spec, entry) for entry in options.control_nets)
    return Plan(options, height, width, fps, frames, context, latents, tiles, encoded, steps, nets, windows)


def with_policy(spec: ModelSpec, plan: Plan, policy: Policy) -> Plan:
    """The plan with what a memory policy decides: guidance in sequence, and tiled coding."""
    changes: dict[str, Any] = {"guidance_pair": policy.pair} if policy.pair != "batched" else {}
    if policy.vae == "tiled" and plan.options.vae_coding != "tiny":
        changes["vae_coding"] = "tiled"
    options = plan.options.changed(**changes) if changes else plan.options
    return replace(plan, options=options, tiles=_tiles(spec, options))


def _check_first_pass(given: Given, asked: int, height: int, width: int) -> None:
    """Refuse a first pass that cannot be of this video. Raises FrameError and SizeError with both values."""
    first, video = given.first_pass, given.video
    if first is None or video is None:
        return
    cure = "give the video that the first pass made of this one"
    if not asked <= len(first) <= len(video):
        raise FrameError(
            f"first_pass of {len(first)} frames: {asked} of the given video's {len(video)} are made again; {cure}"
        )
    if abs(first.width * height / (first.height * width) - 1) > SAME_SHAPE:
        raise SizeError(
            f"first_pass of {first.width}x{first.height}: {width}x{height} is made, another shape; {cure}"
        )


def _fps(spec: ModelSpec, options: GenerateOptions, given: Given) -> float:
    """Frames per second: as asked, or those of the given video, or the model's own."""
    fps, (least, most) = (
        options.fps or (given.motion.fps if given.motion is not None else spec.fps),
        LIMITS["fps"],
    )
    if not least <= fps <= most:
        raise FrameError(
            f"fps {fps:g} of the given video: must be {least:g} to {most:g}; ask for another fps"
        )
    return fps


def _asked(spec: ModelSpec, options: GenerateOptions, given: Given, fps: float, context: int) -> int:
    """The number of new frames: as asked, or those of the given video, or the number the model knows."""
    timed = timed_prompts(options.prompt)
    if options.seconds is not None:
        asked = max(1, round(options.seconds * fps))
    elif timed and options.frames is None and given.motion is None:
        asked = max(1, round(timed[-1].stop * fps))
    elif options.frames is not None:
        asked = options.frames
    elif given.motion is not None and not context:
        asked = len(given.motion)
    else:
        asked = max(1, spec.frames - context)
    if asked > LIMITS["frames"][1]:
        length = f"frames {asked}" if options.seconds is None else f"seconds {options.seconds:g}"
        raise FrameError(
            f"{length}: {asked} frames at {fps:g} per second, the most is {LIMITS['frames'][1]:g}; ask for fewer"
        )
    if given.motion is not None and not context and asked > len(given.motion):
        what = "video" if given.video is not None else "control video"
        otherwise = ", or carry on from it with video_use 'continue'" if given.video is not None else ""
        raise FrameError(
            f"frames {asked}: the given {what} has {len(given.motion)}; ask for as many or fewer{otherwise}"
        )
    short = next((len(each) for each in given.control_nets if 1 < len(each) < asked), None)
    if short is not None:
        raise FrameError(f"frames {asked}: a control video has {short}; ask for as many or fewer")
    return asked


def _in_windows(spec: ModelSpec, frames: FramePlan, windows: Windows, asked: int | None) -> FramePlan:
    """The frames, whose reason says the windows too."""
    return replace(frames, why=f"{frames.why}; {about_windows(spec, windows, frames, asked)}")


def _steps(options: GenerateOptions, given: Given) -> int:
    """Denoising steps that are made: a video is changed by the last part of them, and one must be left."""
    if given.video is None or options.video_use != "change" or given.remove is not None:
        return options.steps
    assert options.strength is not None  # plan_run fills it in
    steps = int(options.steps * options.strength)
    if steps < 1:
        raise ConfigError(
            f"strength {options.strength:g} of {options.steps} steps: no step is left; raise one of them"
        )
    return steps


def _tiles(spec: ModelSpec, options: GenerateOptions) -> Tiles | None:
    """Tiles of the size asked for, or the autoencoder's usual ones; refused now if they cannot be laid."""
    if options.vae_coding != "tiled":
        return None
    config = spec.vae
    tiles = Tiles.usual(config)
    if options.tile_height is not None and options.tile_width is not None:
        tiles = Tiles.sized(config, options.tile_height, options.tile_width)
    tiles.grid(config)
    return tiles


def _warn_of_no_effect(options: GenerateOptions, given: Given) -> None:
    """Say which settings of this run change nothing."""
    continued = given.video is not None and options.video_use == "continue"
    guided = "guidance above 1", is_guided(guidance_of(options))
    needs = {
        "strength": ("a video to change", given.video is not None and not continued and given.remove is None),
        "context_frames": ("a video to carry on from", continued),
        "flow": ("the video of a first pass", given.first_pass is not None),
        "fit": ("an image or a video", given.shape is not None),
        "control_preprocessor": ("a control video", bool(given.controls)),
        **dict.fromkeys(("negative_prompt", "guidance_schedule", "zero_negative"), guided),
    }
    for name, (need, met) in needs.items():
        value = getattr(options, name)
        if not met and value != GenerateOptions.model_fields[name].default:
            warnings.warn(f"{name} {value!r} has no effect without {need}", stacklevel=3)
    if options.times and "previous" in options.model_fields_set and options.previous == "released":
        why = "each step ends at the next of them"
        warnings.warn(f"previous 'released' has no effect with times: {why}", stacklevel=3)
    if options.zero_negative and options.negative_prompt:
        warnings.warn("negative_prompt has no effect with zero_negative", stacklevel=3)


def _warn_of_cropping(
    spec: ModelSpec, options: GenerateOptions, given: Given, height: int, width: int
) -> None:
    """Say how much of a picture of another aspect is cut away, and what keeps it."""
    if given.shape is None or options.fit != "cover":
        return
    tall, wide = given.shape
    cut = _cut_away(given.shape, (height, width))
    if cut <= CROPPED:
        return
    what = "image" if given.has_pictures else "video" if given.video is not None else "control video"
    keeps = "fit contain keeps all of it between black bars, fit stretch distorts it"
    if not spec.transformer.use_learned_positional_embeddings:
        scale, unit = (height * width / (tall * wide)) ** 0.5, spec.pixel_multiple
        below = [max(1, int(side * scale / unit)) for side in given.shape]
        near = [((below[0] + i) * unit, (below[1] + j) * unit) for i in (0, 1) for j in (0, 1)]
        high, broad = min(near, key=lambda size: _cut_away((tall, wide), size))
        keeps = f"width {broad} and height {high} keep it; {keeps}"
    warnings.warn(
        f"{what} of {wide}x{tall}: {cut:.0%} of it is cut away to fill {width}x{height}; {keeps}",
        stacklevel=3,
    )


def _leaves_bars(given: Given, size: tuple[int, int]) -> bool:
    """Whether a given video, whole in a frame of this height and width, leaves some of it black."""
    assert given.shape is not None  # a mask is over a video
    scale = min(to / of for to, of in zip(size, given.shape, strict=True))
    return any(round(of * scale) < to for to, of in zip(size, given.shape, strict=True))


def _cut_away(shape: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of a picture (height, width) that is lost when it covers ``size``."""
    tall, wide = (to / of for to, of in zip(size, shape, strict=True))
    return 1 - min(tall, wide) / max(tall, wide)


def _check_table(spec: ModelSpec, height: int, width: int) -> None:
    config, ratio = spec.transformer, spec.vae.spatial_compression_ratio
    native = config.sample_height * ratio, config.sample_width * ratio
    if config.use_learned_positional_embeddings and (height, width) != native:
        table = f"{native[0]}x{native[1]}"
        raise SizeError(
            f"size {height}x{width}: the model has learned a table of positions for {table}; use that size"
        )


def _context(spec: ModelSpec, options: GenerateOptions, given: Given) -> int:
    """How many given frames a continuation sees: 8n + 1, so that they are latents of their own; 1 for i2v models."""
    if given.video is None or options.video_use != "continue":
        return 0
    if spec.needs_image:
        return 1
    latents = 1 if spec.vae.first_latent_alone or spec.kind == "inpaint" else 2
    unit = max(1, latents * spec.vae.temporal_compression_ratio)
    return (min(options.context_frames, len(given.video)) - 1) // unit * unit + 1

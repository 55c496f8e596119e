"""A long video in segments: one after the other, each begun with the last frames of the one before, blended in pixels.

As CogVideoX-Fun joins long videos: an inpainting model is given four frames, whose two versions are faded into each
other. An image-to-video model is given the last one, a text-to-video model keeps nine as known latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cogvideox.errors import InputError
from cogvideox.generation.given import Given
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.prompt_times import timed_prompts
from cogvideox.spec import Kind, ModelSpec
from cogvideox.video import Video

SHARED: dict[Kind, int] = {"t2v": 9, "i2v": 1, "i2v-every-frame": 1, "inpaint": 4}
"""Frames of a segment that the next one begins with, by the kind of model."""


@dataclass(frozen=True)
class VideoSegment:
    """One segment: its number, its first frame in the whole video, and how many it adds after what it shares."""

    number: int
    first: int
    added: int
    shared: int


def shared_frames(spec: ModelSpec, given: Given) -> int:
    """Frames that neighbouring segments share. Raises InputError for what cannot be made in segments."""
    if spec.kind not in SHARED or given.video is not None:
        what = "a video that is given" if given.video is not None else f"a model of kind {spec.kind}"
        raise InputError(
            f"window_schedule 'segments': not for {what}, which is read whole; choose 'static' windows"
        )
    if later := sorted(given.names - {"image"}):
        raise InputError(
            f"{later[0]} and window_schedule 'segments': only the first segment is given a picture, and it begins with "
            "it; choose 'static' windows"
        )
    return SHARED[spec.kind]


def laid_segments(frames: int, size: int, shared: int) -> list[VideoSegment]:
    """The segments of a video of so many frames, each of at most ``size`` frames with those that it shares."""
    laid = [VideoSegment(0, 0, min(size, frames), 0)]
    while (first := laid[-1].first + laid[-1].shared + laid[-1].added) < frames:
        added = min(size - shared, frames - first)
        laid.append(VideoSegment(len(laid), first - shared, added, shared))
    return laid


def segment_options(options: GenerateOptions, segment: VideoSegment, fps: float) -> GenerateOptions:
    """What is asked of one segment: its length, its prompt, noise of its own."""
    seed = None if options.seed is None else options.seed + segment.number
    middle = (segment.first + (segment.shared + segment.added) / 2) / fps
    timed = timed_prompts(options.prompt)
    prompt = next(
        (each.text for each in timed if middle < each.stop), timed[-1].text if timed else options.prompt
    )
    length = segment.shared + segment.added
    return options.changed(
        frames=length, seconds=None, window=0, window_schedule="auto", seed=seed, prompt=prompt, fps=fps
    )


def given_to(spec: ModelSpec, segment: VideoSegment, before: np.ndarray, given: Given) -> Given:
    """What a segment begins with: what the run was given, or the last frames of the segment ``before``."""
    if not segment.number:
        return given
    last = before[-segment.shared :]
    if spec.kind == "inpaint":
        return Given(image=last[0], keyframes={n: last[n] for n in range(1, len(last))})
    if spec.needs_image:
        return Given(image=last[-1])
    return Given(video=Video(last, 8.0))


def faded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Frames in two versions as one: frame i of n is i / n of ``after`` and the rest of ``before``."""
    share = (np.arange(len(after), dtype=np.float32) / len(after))[:, None, None, None]
    return np.rint(before * (1 - share) + after * share).astype(np.uint8)


def join(
    segments: list[VideoSegment], make: Callable[[VideoSegment, np.ndarray], np.ndarray], into: np.ndarray
) -> None:
    """Write the frames of all segments; ``make`` gives those of one from the last frames of the one before."""
    before = into[:0]
    for segment in segments:
        frames = make(segment, before)
        first, shared = segment.first, segment.shared
        if shared:
            frames = np.concatenate([faded(before[-shared:], frames[:shared]), frames[shared:]])
        into[first : first + len(frames)] = frames
        before = frames

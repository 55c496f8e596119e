"""Does a video show its text? CLIP4Clip's similarity with mean pooling (Luo et al. 2021; the paper's Figure 8).

The paper does not say which weights it used and CLIP4Clip published none, so a score names its network. With CLIP as
it came the score is the plain mean similarity of frames (about .25 to .32). Score against the short prompt of the user:
CLIP4Clip cuts texts at 32 words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.perception.image_text import ImageText, unit
from cogvideox.video import Video

FRAMES, WORDS = 12, 32  # CLIP4Clip's settings for MSR-VTT


def clip4clip(
    videos: Iterable[Video], prompts: Sequence[str], judge: ImageText | None, frames: int = FRAMES
) -> Score:
    """Mean cosine of text and video; NaN for videos without a prompt.

    A video is the mean of the unit vectors of ``frames`` evenly spaced frames, made a unit vector again ("meanP").
    """
    name = "clip4clip_meanP"
    protocol = f"{frames} evenly spaced frames, mean of unit vectors, texts cut at {WORDS} words"
    if judge is None:
        return not_computed(name, "needs CLIP weights (--clip FOLDER)", protocol=protocol)
    each = [
        similarity(video.frames, prompt, judge, frames) if prompt.strip() else float("nan")
        for video, prompt in zip(videos, prompts, strict=True)
    ]
    return mean_score(name, each, clusters=list(prompts), protocol=protocol, settings={"network": judge.name})


def similarity(clip: np.ndarray, prompt: str, judge: ImageText, frames: int = FRAMES) -> float:
    """The cosine of one clip ``uint8 [t, h, w, 3]`` and one text."""
    places = np.linspace(0, len(clip) - 1, min(frames, len(clip))).round().astype(int)
    video = unit(unit(judge.images(clip[places])).mean(0))
    text = unit(judge.texts([" ".join(prompt.split()[:WORDS])]))[0]
    return float(video @ text)

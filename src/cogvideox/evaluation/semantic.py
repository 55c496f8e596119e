"""What a video shows, by networks that know language: CLIP score (CLIP4Clip), and GPT4o-MTScore (a VLM as judge).

CLIP score is CLIP4Clip's similarity with mean pooling (Luo et al. 2021; the paper's Figure 8). The paper does not say
which weights it used and CLIP4Clip published none, so a score names its network. With CLIP as published the score is
the plain mean similarity of frames (about .25 to .32). Score against the short prompt of the user: CLIP4Clip cuts
texts at 32 words.

MTScore grades metamorphic change (ChronoMagic-Bench, Yuan et al. 2024). With another model than the published
gpt-4o-2024-05-13 it is another score, so the model's name stands in the score's name. Questions and answers are
recorded and can be replayed without a network (``cogvideox.chat``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field

from cogvideox.chat import Chat, Image, Question, json_reader
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.perception.embedding import ImageText, unit
from cogvideox.video import Video

CLIP_FRAMES, CLIP_WORDS = 12, 32  # CLIP4Clip's settings for MSR-VTT
JUDGE_FRAMES, JUDGE_SHORT_EDGE = 8, 256
JUDGE_PURPOSE = "evaluate.mtscore/1"
JUDGE_SYSTEM = "You grade how much the things in a video change. You answer with JSON only."
JUDGE_QUESTION = (
    "These are eight frames of one video, in order. Grade how much its subject changes in form, state or appearance "
    "from the first frame to the last, as in a time-lapse. Movement of the subject or the camera alone does not count. "
    "1: hardly any change. 2: slight change. 3: moderate change. 4: large change. 5: dramatic change. "
    'Answer with {"reason": "one sentence", "score": an integer from 1 to 5}.'
)


def clip4clip(
    videos: Iterable[Video], prompts: Sequence[str], clip: ImageText | None, frames: int = CLIP_FRAMES
) -> Score:
    """CLIP score: mean cosine of text and video; NaN for videos without a prompt.

    A video is the mean of the unit vectors of ``frames`` evenly spaced frames, made a unit vector again ("meanP").
    """
    name = "clip4clip_meanP"
    protocol = f"{frames} evenly spaced frames, mean of unit vectors, texts cut at {CLIP_WORDS} words"
    if clip is None:
        return not_computed(name, "needs CLIP weights (--clip FOLDER)", protocol=protocol)
    each = [
        clip_similarity(video.frames, prompt, clip, frames) if prompt.strip() else float("nan")
        for video, prompt in zip(videos, prompts, strict=True)
    ]
    return mean_score(name, each, clusters=list(prompts), protocol=protocol, settings={"network": clip.name})


def clip_similarity(video: np.ndarray, prompt: str, clip: ImageText, frames: int = CLIP_FRAMES) -> float:
    """The cosine of one video ``uint8 [t, h, w, 3]`` and one text, by CLIP4Clip's mean pooling."""
    indices = np.linspace(0, len(video) - 1, min(frames, len(video))).round().astype(int)
    image_vector = unit(unit(clip.images(video[indices])).mean(0))
    text_vector = unit(clip.texts([" ".join(prompt.split()[:CLIP_WORDS])]))[0]
    return float(image_vector @ text_vector)


class Grade(BaseModel):
    """The judge's answer about one video."""

    model_config = ConfigDict(extra="ignore", strict=True)

    score: int = Field(ge=1, le=5)
    reason: str = ""


def mtscore(videos: Iterable[Video], judge: Chat | None) -> Score:
    """Mean grade 1 to 5 of metamorphic change; NaN, and counted, for videos too short and for missing answers.

    ``settings`` has both counts; the published code leaves such videos out without a word.
    """
    protocol = "8 frames, short edge at most 256, an integer of 1 to 5, ChronoMagic-Bench's scale"
    if judge is None:
        why = "needs a vision-language model (--judge-url URL --judge-model NAME)"
        return not_computed("mtscore", why, protocol=protocol)
    too_short = 0
    indices: list[int] = []  # of the videos that the judge is asked about

    def questions() -> Iterator[Question]:
        nonlocal too_short
        for index, video in enumerate(videos):
            if len(set(judge_frames(len(video)))) < JUDGE_FRAMES:
                too_short += 1
                continue
            indices.append(index)
            yield question_about(video)

    outcomes = list(judge.ask_all(questions(), json_reader(Grade)))
    each = np.full(len(indices) + too_short, np.nan)
    for outcome in outcomes:
        if outcome.ok:
            each[indices[outcome.index]] = float(outcome.value.score)
    settings = {
        "judge": judge.model.name,
        "prompt": JUDGE_PURPOSE,
        "too_short": too_short,
        "unanswered": dict(Counter(o.failure.kind for o in outcomes if o.failure is not None)),
    }
    name = f"mtscore_{re.sub(r'[^a-z0-9.]+', '-', judge.model.name.lower())}"
    return mean_score(name, list(each), protocol=protocol, settings=settings, why="no video got a grade")


def judge_frames(total: int) -> list[int]:
    """Indices 0, s, 2s ... 6s with s = (total - 1) // 7, and the last: as published, the last step may be longer."""
    step = (total - 1) // (JUDGE_FRAMES - 1)
    return [number * step for number in range(JUDGE_FRAMES - 1)] + [total - 1]


def question_about(video: Video) -> Question:
    """The question of MTScore about one video: eight frames, the short edge at most 256, and the scale."""
    images = []
    for index in judge_frames(len(video)):
        frame = video.frames[index]
        scale = JUDGE_SHORT_EDGE / min(video.height, video.width)
        if scale < 1:
            size = (max(1, round(video.width * scale)), max(1, round(video.height * scale)))
            frame = np.asarray(Pillow.fromarray(frame).resize(size, Pillow.Resampling.LANCZOS))
        images.append(Image.of(frame, longest=16 * JUDGE_SHORT_EDGE))
    return Question(
        (*images, JUDGE_QUESTION), JUDGE_SYSTEM, purpose=JUDGE_PURPOSE, max_tokens=200, temperature=0.0
    )

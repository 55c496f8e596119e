"""Grades from a vision-language model: GPT4o-MTScore (ChronoMagic-Bench, Yuan et al. 2024) by whichever model is asked.

The score of another model than the published gpt-4o-2024-05-13 is another score: its name stands in the score's name.
Questions and answers are recorded and can be replayed without a network (``cogvideox.chat``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field

from cogvideox.chat import AskOutcome, Chat, Image, Question, json_reader
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.video import Video

FRAMES, SHORT = 8, 256
PURPOSE = "evaluate.mtscore/1"
SYSTEM = "You grade how much the things in a video change. You answer with JSON only."
ASK = (
    "These are eight frames of one video, in order. Grade how much its subject changes in form, state or appearance "
    "from the first frame to the last, as in a time-lapse. Movement of the subject or the camera alone does not count. "
    "1: hardly any change. 2: slight change. 3: moderate change. 4: large change. 5: dramatic change. "
    'Answer with {"reason": "one sentence", "score": an integer from 1 to 5}.'
)


class Grade(BaseModel):
    """What the judge has to say."""

    model_config = ConfigDict(extra="ignore", strict=True)

    score: int = Field(ge=1, le=5)
    reason: str = ""


def mtscore(videos: Iterable[Video], judge: Chat | None) -> Score:
    """Mean grade 1 to 5 of metamorphic change; NaN, and counted, for videos too short and for missing answers.

    ``settings`` says how many of each; published code leaves them out without a word.
    """
    protocol = "8 frames, short edge at most 256, an integer of 1 to 5, ChronoMagic-Bench's scale"
    if judge is None:
        why = "needs a vision-language model (--judge-url URL --judge-model NAME)"
        return not_computed("mtscore", why, protocol=protocol)
    short = 0
    places: list[int] = []

    def questions() -> Iterator[Question]:
        nonlocal short
        for place, video in enumerate(videos):
            if len(set(frame_places(len(video)))) < FRAMES:
                short += 1
                continue
            places.append(place)
            yield question_about(video)

    outcomes = list(judge.ask_all(questions(), json_reader(Grade)))
    each = np.full(len(places) + short, np.nan)
    for outcome in outcomes:
        if outcome.ok:
            each[places[outcome.index]] = float(outcome.value.score)
    settings = {
        "judge": judge.model.name,
        "prompt": PURPOSE,
        "too_short": short,
        "unanswered": _unanswered(outcomes),
    }
    name = f"mtscore_{re.sub(r'[^a-z0-9.]+', '-', judge.model.name.lower())}"
    return mean_score(name, list(each), protocol=protocol, settings=settings, why="no video got a grade")


def frame_places(num: int) -> list[int]:
    """0, s, 2s ... 6s with s = (num - 1) // 7, and the last frame: as published, the last step may be longer."""
    step = (num - 1) // (FRAMES - 1)
    return [place * step for place in range(FRAMES - 1)] + [num - 1]


def question_about(video: Video) -> Question:
    """What the judge is asked about one video."""
    pictures = [
        Image.of(_fitted(video.frames[place]), longest=16 * SHORT) for place in frame_places(len(video))
    ]
    return Question((*pictures, ASK), SYSTEM, purpose=PURPOSE, max_tokens=200, temperature=0.0)


def _fitted(frame: np.ndarray) -> np.ndarray:
    """A short edge of at most 256."""
    height, width = frame.shape[:2]
    scale = SHORT / min(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Pillow.fromarray(frame).resize(size, Pillow.Resampling.LANCZOS))


def _unanswered(outcomes: list[AskOutcome]) -> dict[str, int]:
    """How many questions ended without a grade, by kind."""
    kinds: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.failure is not None:
            kinds[outcome.failure.kind] = kinds.get(outcome.failure.kind, 0) + 1
    return kinds

"""Does a caption describe its clip? A score between 0 and 1, and the filter that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import Field

from cogvideox.captioning.instructions import MATCH
from cogvideox.captioning.stages import ClipFrames
from cogvideox.captioning.world import FOREIGN, is_tiny_world
from cogvideox.chat import Chat, ChatFailure, Image, json_reader
from cogvideox.config import Config
from cogvideox.errors import InputError
from cogvideox.world import check_facts, read_caption


class Matcher(Protocol):
    """Any judge of (clip, caption)."""

    name: str

    def score(self, pairs: Sequence[tuple[ClipFrames, str]]) -> list[float | ChatFailure]:
        """Between 0 (something else) and 1 (all of it is there), or why it cannot be said."""


class Opinion(Config):
    """What a judge in words answers."""

    score: int = Field(ge=1, le=5)
    wrong: str = ""


class AskedMatch:
    """A vision-language model gives 1 to 5."""

    def __init__(self, chat: Chat, frames: int = 8) -> None:
        self.chat, self.frames = chat, frames
        self.name = f"{chat.model.name}:{MATCH.name}"

    def score(self, pairs: Sequence[tuple[ClipFrames, str]]) -> list[float | ChatFailure]:
        """(score - 1) / 4 of each pair."""
        shape = Opinion.model_json_schema()
        asked = (
            MATCH.question(
                (*(Image.of(clip.frames[index]) for index in clip.spread(self.frames)), text), shape
            )
            for clip, text in pairs
        )
        outcomes = self.chat.ask_all(asked, json_reader(Opinion))
        return [o.failure if o.failure is not None else (o.value.score - 1) / 4 for o in outcomes]


class WorldMatch:
    """The judge of the tiny world: the share of the facts a caption states that the pixels show."""

    name = "world judge"

    def score(self, pairs: Sequence[tuple[ClipFrames, str]]) -> list[float | ChatFailure]:
        """0 for a caption that states no fact of that world."""
        return [self._one(clip, text) for clip, text in pairs]

    def _one(self, clip: ClipFrames, text: str) -> float | ChatFailure:
        if not is_tiny_world(clip.frames):
            return ChatFailure("refused", FOREIGN)
        checks = read_caption(text)
        if not checks:
            return 0.0
        try:
            return check_facts(clip.frames, checks).share
        except InputError as error:
            return ChatFailure("rejected", str(error))

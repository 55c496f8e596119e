"""Clip: facts about a span of a video file: where it is, its scores, its captions, and why it was dropped.

A clip holds facts about pixels, never pixels, so that millions of them can be moved, stored and compared. It is
frozen: each step of curation returns a changed copy. Missing is ``None``, never NaN.
"""

from __future__ import annotations

import hashlib
from typing import Self

from pydantic import Field

from cogvideox.config import Config


class SourceFile(Config):
    """The video file a clip comes from: facts from its header and from decoding it."""

    path: str = Field(description="relative to the folder that was given, with forward slashes")
    sha256: str = Field("", description="of the whole file; empty when it could not be read")
    bytes: int = Field(0, description="size of the file")
    container: str = ""
    codec: str = ""
    pixel_format: str = ""
    width: int = Field(0, description="pixels, upright and square")
    height: int = Field(0, description="pixels, upright and square")
    aspect: float = Field(1.0, description="width / height of one stored pixel")
    turns: int = Field(0, description="quarter turns to the left that made it upright")
    fps: float = Field(0.0, description="frames per second: decoded frames / their duration")
    steady: bool = Field(True, description="whether all frames last equally long")
    frames: int = Field(0, description="frames decoded, not what the header promises")
    seconds: float = Field(0.0, description="from the first frame to the end of the last")
    bit_rate: int = Field(0, description="bits per second, as the file says")
    sound: bool = False
    mirrored: bool = Field(False, description="whether it was mirrored left to right before it was turned")
    matrix: str = Field("", description="YUV matrix of its colours: bt601, bt709, bt2020, rgb, ...")
    full_range: bool = Field(
        False, description="whether luma has full range (0 to 255), not video range (16 to 235)"
    )
    matrix_guessed: bool = Field(
        False, description="whether the matrix was guessed because the file has no tag for it"
    )


class Span(Config):
    """A part of a file: frames ``first`` to before ``stop``, which begin at ``start`` and end at ``end`` seconds."""

    first: int = Field(ge=0)
    stop: int = Field(gt=0)
    start: float = Field(ge=0)
    end: float = Field(ge=0)

    @property
    def seconds(self) -> float:
        """Length of the span in seconds."""
        return self.end - self.start


class Box(Config):
    """A part of the picture, in pixels of the upright picture with square pixels."""

    left: int = Field(ge=0)
    top: int = Field(ge=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class Label(Config):
    """One of the six negative labels: the probability that the clip has the defect, and who says so."""

    probability: float = Field(ge=0, le=1)
    threshold: float = Field(ge=0, le=1, description="at or above it the clip has the defect")
    judge: str = Field(description="the classifier or model that says so, or 'human'")

    @property
    def present(self) -> bool:
        """Whether the clip has the defect."""
        return self.probability >= self.threshold


class Caption(Config):
    """A caption of a clip, and who wrote it."""

    kind: str = Field(description="user, short, frame, dense, ...")
    text: str
    author: str = Field("", description="the model that wrote it, local ones with a digest of their weights")
    prompt: str = Field("", description="name and version of the instruction that was given")
    moments: tuple[float, ...] = Field(
        (),
        description="seconds into the clip of the frames it is about",
        exclude_if=lambda moments: not moments,  # captions without frames have no such key in records
    )


class Dropped(Config):
    """Why a clip is not kept."""

    step: str = Field(description="the step that decided")
    reason: str = Field(description="a short name, the same for all clips dropped for it")
    detail: str = Field("", description="the values that decided")


class Decision(Config):
    """Whether one training stage of ``thresholds`` keeps a clip."""

    stage: str
    kept: bool
    reasons: tuple[str, ...] = Field((), description="each rule that the clip breaks, with both values")


class Clip(Config):
    """Facts about a span of a video file: where it is, its scores, labels and captions, and why it was dropped.

    ``span`` is None for a file that never became clips. Scores that were not measured are None, never NaN.
    """

    source: SourceFile
    span: Span | None = None
    crop: Box | None = Field(None, description="None: the whole picture")
    scores: dict[str, float | None] = {}
    labels: dict[str, Label] = {}
    captions: tuple[Caption, ...] = ()
    prints: tuple[str, ...] = Field((), description="perceptual hashes of frames, 16 hex digits each")
    embedding: tuple[float, ...] = Field(
        (), description="unit vector; similar clips have nearly parallel ones"
    )
    embedder: str = Field("", description="the network that made the embedding")
    networks: dict[str, str] = Field(
        {},
        description="step -> the network from a user's file that it ran, with a digest",
        exclude_if=lambda networks: not networks,  # records of those who name none are as they always were
    )
    decisions: tuple[Decision, ...] = ()
    dropped: Dropped | None = None

    @property
    def id(self) -> str:
        """24 hex digits: a digest of the file's SHA-256 and path, the span and the crop."""
        span = (self.span.first, self.span.stop) if self.span else None
        crop = tuple(self.crop.model_dump().values()) if self.crop else None
        text = f"{self.source.sha256}|{self.source.path}|{span}|{crop}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]

    @property
    def width(self) -> int:
        """Pixels of the picture that is kept: the crop, else the whole upright picture."""
        return self.crop.width if self.crop else self.source.width

    @property
    def height(self) -> int:
        """Pixels of the picture that is kept: the crop, else the whole upright picture."""
        return self.crop.height if self.crop else self.source.height

    @property
    def caption(self) -> str:
        """The text to train with: that of the last caption; '' when there is none."""
        return self.captions[-1].text if self.captions else ""

    def with_scores(self, **scores: float | None) -> Self:
        """A copy with more scores, rounded to six digits so that they are the same written and read."""
        rounded = {name: None if value is None else float(f"{value:.6g}") for name, value in scores.items()}
        return self.model_copy(update={"scores": {**self.scores, **rounded}})

    def drop(self, step: str, reason: str, detail: str = "") -> Self:
        """A copy marked as dropped. ``step``: which step of curation decided; ``reason``: a short name, the same for
        all clips dropped for it (docs/curation.md lists them); ``detail``: value and limit."""
        return self.model_copy(update={"dropped": Dropped(step=step, reason=reason, detail=detail)})

"""Clips to caption records: stages in order, wave by wave; each clip ends as done, failed, pending or unlike.

A record is one file, written whole, named by the clip and by what describes it. A rerun reads what is there and asks
again only for what is pending; with the chat's cache beside it, even a wave that was cut short is not paid for twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cogvideox.captioning.match import Matcher
from cogvideox.captioning.stages import CaptionStage, ClipFrames
from cogvideox.chat import ChatFailure
from cogvideox.clip import Caption
from cogvideox.config import Config
from cogvideox.errors import ConfigError, MediaError
from cogvideox.files import read_json
from cogvideox.files.atomic import write_text
from cogvideox.files.text import MOST_TABLE_BYTES


class CaptionRecord(Config):
    """The outcome of captioning one clip. ``caption`` is the one to train on."""

    id: str
    ended: Literal["done", "failed", "pending", "unlike"]
    caption: str = ""
    notes: tuple[Caption, ...] = Field(
        (), description="every caption on the way, in the order they were written"
    )
    match: float | None = Field(None, description="how well the caption fits the clip, 0 to 1")
    matcher: str = Field("", description="who says so")
    stage: str = Field("", description="where it ended, unless it is done")
    reason: str = ""
    detail: str = ""

    def clip_captions(self) -> tuple[Caption, ...]:
        """The captions as a clip keeps them, without the moments of their frames."""
        return tuple(Caption(kind=n.kind, text=n.text, author=n.author, prompt=n.prompt) for n in self.notes)


@dataclass(frozen=True)
class ClipSource:
    """A clip that can be looked at: ``load`` raises MediaError. ``id`` must change when the content does."""

    id: str
    load: Callable[[], ClipFrames]


@dataclass(frozen=True)
class Describer:
    """Stages in order, and a judge of the result. ``identity`` says everything that decides what they write; ``wave``
    clips are held in memory at a time."""

    stages: Sequence[CaptionStage]
    identity: str
    matcher: Matcher | None = None
    least_match: float = 0.0
    wave: int = 16

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].kind != "dense":
            kinds = ", ".join(stage.kind for stage in self.stages) or "none"
            raise ConfigError(f"stages {kinds}: the last must write the dense caption")

    def describe(
        self,
        clips: Iterable[ClipSource],
        work: Path,
        on_record: Callable[[CaptionRecord], None] | None = None,
    ) -> Iterator[CaptionRecord]:
        """A record for each clip, in order; the folder ``work`` keeps them."""
        waiting = iter(clips)
        while some := list(islice(waiting, self.wave)):
            kept = [self.kept(work, one.id) for one in some]
            fresh = self._wave([one for one, record in zip(some, kept, strict=True) if record is None])
            for record in fresh.values():
                write_text(self._file(work, record.id), record.model_dump_json())
            for one, earlier in zip(some, kept, strict=True):
                record = earlier or fresh[one.id]
                if on_record is not None:
                    on_record(record)
                yield record

    def describe_one(self, clip: ClipFrames) -> CaptionRecord:
        """The record of a clip that is in memory already; nothing is kept."""
        return self._wave([ClipSource(clip.id, lambda: clip)])[clip.id]

    def _wave(self, sources: Sequence[ClipSource]) -> dict[str, CaptionRecord]:
        ended: dict[str, CaptionRecord] = {}
        clips: list[ClipFrames] = []
        for one in {each.id: each for each in sources}.values():
            try:
                clips.append(one.load())
            except MediaError as error:
                ended[one.id] = _failed(one.id, (), "decode", ChatFailure("rejected", str(error)))
        for stage in self.stages:
            clips, lost = _stage(stage, clips)
            ended |= lost
        return ended | self._judged(clips)

    def _judged(self, clips: Sequence[ClipFrames]) -> dict[str, CaptionRecord]:
        if self.matcher is None:
            return {clip.id: _done(clip) for clip in clips}
        pairs = [(clip, clip.captions_of("dense")[-1].text) for clip in clips]
        records = {}
        for clip, found in zip(clips, self.matcher.score(pairs), strict=True):
            if isinstance(found, ChatFailure):
                records[clip.id] = _failed(clip.id, clip.captions, "match", found)
                continue
            judged: dict[str, Any] = {"match": round(found, 4), "matcher": self.matcher.name}
            if found < self.least_match:
                judged |= {"ended": "unlike", "stage": "match", "reason": "caption does not match"}
                judged["detail"] = f"match {found:.3g} is below {self.least_match:g}"
            records[clip.id] = _done(clip).model_copy(update=judged)
        return records

    def kept(self, work: Path, name: str) -> CaptionRecord | None:
        """A finished record of an earlier run; a damaged or pending one is made anew."""
        try:
            record = CaptionRecord.parse(read_json(self._file(work, name), most=MOST_TABLE_BYTES))
        except ConfigError:
            return None
        return None if record.ended == "pending" or record.id != name else record

    def _file(self, work: Path, name: str) -> Path:
        judge = [self.matcher.name if self.matcher else "", self.least_match]
        text = json.dumps([name, self.identity, judge])
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return work / digest[:2] / f"{digest}.json"


def _stage(
    stage: CaptionStage, clips: Sequence[ClipFrames]
) -> tuple[list[ClipFrames], dict[str, CaptionRecord]]:
    """The clips that go on, with the captions of this stage, and records of those that do not."""
    going, lost = [], {}
    for clip, result in zip(clips, stage.write(clips), strict=True):
        if not isinstance(result, ChatFailure):
            going.append(ClipFrames(clip.id, clip.frames, clip.moments, (*clip.captions, *result)))
        elif stage.needed or result.pending:
            lost[clip.id] = _failed(clip.id, clip.captions, stage.kind, result)
        else:
            going.append(clip)
    return going, lost


def _done(clip: ClipFrames) -> CaptionRecord:
    return CaptionRecord(
        id=clip.id, ended="done", caption=clip.captions_of("dense")[-1].text, notes=clip.captions
    )


def _failed(clip_id: str, captions: tuple[Caption, ...], stage: str, failure: ChatFailure) -> CaptionRecord:
    ended: Literal["pending", "failed"] = "pending" if failure.pending else "failed"
    return CaptionRecord(
        id=clip_id, ended=ended, notes=captions, stage=stage, reason=failure.kind, detail=failure.detail
    )

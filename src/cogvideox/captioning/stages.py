"""The five stages of captioning, one protocol: frames of clips go in, captions or a reason for each clip come out.

Figure 7 of the paper: (1) a short caption of the clip, (2) captions of frames, (3) a language model merges them in
order of time, (4) a small model that has learned to do what (3) does, (5) a captioner that has learned to see what they
describe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cogvideox.captioning.instructions import DENSE, FRAME, MERGE, SHORT, Instruction
from cogvideox.chat import AskOutcome, Chat, ChatFailure, Image, Question
from cogvideox.chat.parse import Cleaning, clean, reader
from cogvideox.clip import Caption

if TYPE_CHECKING:
    from cogvideox.captioning.local import CaptionModel, Summariser


@dataclass(frozen=True, eq=False)
class ClipFrames:
    """A clip as stages see it: ``frames`` uint8 [t, h, w, 3] at ``moments`` [t] seconds, and its captions so far."""

    id: str
    frames: np.ndarray
    moments: tuple[float, ...]
    captions: tuple[Caption, ...] = ()

    def captions_of(self, kind: str) -> list[Caption]:
        """The captions of one kind ("short", "frame", "dense"), in the order they were written."""
        return [caption for caption in self.captions if caption.kind == kind]

    def every(self, seconds: float, most: int) -> list[int]:
        """Indices of frames ``seconds`` apart, from the first; at most ``most``, then spread over the whole clip."""
        span = self.moments[-1] - self.moments[0]
        count = min(most, int(span / seconds + 1e-6) + 1, len(self.frames))
        if count * seconds <= span or count == 1:
            wanted = np.linspace(self.moments[0], self.moments[-1], max(count, 1)).tolist()
        else:
            wanted = (self.moments[0] + seconds * np.arange(count)).tolist()
        times = np.asarray(self.moments)
        return sorted({int(np.abs(times - moment).argmin()) for moment in wanted})

    def spread(self, count: int) -> list[int]:
        """Indices of ``count`` frames, evenly from the first to the last."""
        return sorted(set(np.linspace(0, len(self.frames) - 1, count).round().astype(int).tolist()))


Result = list[Caption] | ChatFailure
"""What a stage gives for one clip: its captions, or why there are none."""


class CaptionStage(Protocol):
    """One way to write captions. ``kind`` of its captions; ``needed``: whether a clip fails when this stage does."""

    kind: str
    needed: bool

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        """Captions of each clip, or why there are none."""


class ShortCaption(CaptionStage):
    """(1) One sentence about the clip, from frames spread over it (the paper: Panda-70M's captioner)."""

    kind, needed = "short", False

    def __init__(self, chat: Chat, frames: int = 8, cleaning: Cleaning | None = None) -> None:
        self.chat, self.frames = chat, frames
        self.cleaning = cleaning or Cleaning(words=40)

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        shown = [(clip, clip.spread(self.frames)) for clip in clips]
        return _ask_about(self.chat, SHORT, self.kind, self.cleaning, shown)


class FrameCaptions(CaptionStage):
    """(2) A description of one frame every ``seconds`` (the paper: CogVLM, every 2 s)."""

    kind, needed = "frame", True

    def __init__(
        self,
        chat: Chat,
        seconds: float = 2.0,
        most: int = 16,
        least: float = 0.5,
        cleaning: Cleaning | None = None,
    ) -> None:
        self.chat, self.seconds, self.most, self.least = chat, seconds, most, least
        self.cleaning = cleaning or Cleaning(words=80)

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        """Fails for a clip when less than the share ``least`` of its frames could be described."""
        shown = [(clip, [index]) for clip in clips for index in clip.every(self.seconds, self.most)]
        written: dict[str, list[Caption]] = {clip.id: [] for clip in clips}
        failed: dict[str, list[ChatFailure]] = {clip.id: [] for clip in clips}
        results = _ask_about(self.chat, FRAME, self.kind, self.cleaning, shown)
        for result, (clip, _) in zip(results, shown, strict=True):
            if isinstance(result, ChatFailure):
                failed[clip.id].append(result)
            else:
                written[clip.id] += result
        return [self._enough(written[clip.id], failed[clip.id]) for clip in clips]

    def _enough(self, written: list[Caption], failed: list[ChatFailure]) -> Result:
        short = failed and len(written) < self.least * (len(written) + len(failed))
        waits = [failure for failure in failed if failure.pending]
        return (waits or failed)[0] if short or waits else written


class Merge(CaptionStage):
    """(3) One description in order of time, from the captions of frames and of the clip (the paper: GPT-4)."""

    kind, needed = "dense", True

    def __init__(self, chat: Chat, cleaning: Cleaning | None = None) -> None:
        self.chat, self.cleaning = chat, cleaning or Cleaning()

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        asked = [MERGE.question((merge_text(clip.captions),)) for clip in clips]
        outcomes = self.chat.ask_all(asked, reader(self.cleaning))
        return [
            _result(self.kind, MERGE, outcome, clip, [])
            for outcome, clip in zip(outcomes, clips, strict=True)
        ]


class Summarise(CaptionStage):
    """(4) What (3) does, by a small network that was trained on its results."""

    kind, needed = "dense", True

    def __init__(self, summariser: Summariser, cleaning: Cleaning | None = None) -> None:
        self.summariser, self.cleaning = summariser, cleaning or Cleaning()

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        return [
            _local(self.kind, self.summariser.name, self.cleaning, self.summariser, merge_text(clip.captions))
            for clip in clips
        ]


class LocalCaptioner(CaptionStage):
    """(5) From the clip at once, by a network that was trained on what the other stages wrote."""

    kind, needed = "dense", True

    def __init__(
        self,
        captioner: CaptionModel,
        cleaning: Cleaning | None = None,
        knows: Callable[[np.ndarray], bool] | None = None,
    ) -> None:
        """knows: whether the network was trained on anything like these frames; None: it is asked about all."""
        self.captioner, self.cleaning, self.knows = captioner, cleaning or Cleaning(), knows

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        return [
            ChatFailure("refused", f"{self.captioner.name} was not trained on anything like this clip")
            if self.knows is not None and not self.knows(clip.frames)
            else _local(self.kind, self.captioner.name, self.cleaning, self.captioner, clip.frames)
            for clip in clips
        ]


class AskDense(CaptionStage):
    """(5) behind a server: a video model that sees one frame a second, as CogVLM2-Caption does."""

    kind, needed = "dense", True

    def __init__(
        self, chat: Chat, seconds: float = 1.0, most: int = 24, cleaning: Cleaning | None = None
    ) -> None:
        self.chat, self.seconds, self.most = chat, seconds, most
        self.cleaning = cleaning or Cleaning(words=200)

    def write(self, clips: Sequence[ClipFrames]) -> list[Result]:
        shown = [(clip, clip.every(self.seconds, self.most)) for clip in clips]
        return _ask_about(self.chat, DENSE, self.kind, self.cleaning, shown)


def merge_text(captions: Sequence[Caption]) -> str:
    """The text to merge: a JSON object from seconds to captions of frames, then the short caption if there is one."""
    frames = {f"{each.moments[0]:g}": each.text for each in captions if each.kind == "frame"}
    short = "".join(f"\nWhole clip: {each.text}" for each in captions if each.kind == "short")
    return json.dumps(frames, ensure_ascii=False) + short


def _ask_about(
    chat: Chat,
    instruction: Instruction,
    kind: str,
    cleaning: Cleaning,
    shown: Sequence[tuple[ClipFrames, list[int]]],
) -> list[Result]:
    """One question about each (clip, indices of its frames), all asked at once; the captions that came back."""
    asked = (_question(instruction, clip, indices) for clip, indices in shown)
    outcomes = chat.ask_all(asked, reader(cleaning))
    return [
        _result(kind, instruction, outcome, clip, indices)
        for outcome, (clip, indices) in zip(outcomes, shown, strict=True)
    ]


def _question(instruction: Instruction, clip: ClipFrames, indices: list[int]) -> Question:
    """A question about frames of a clip, each with its second before it where there are several."""
    content: list[str | Image] = []
    for index in indices:
        if len(indices) > 1:
            content.append(f"{clip.moments[index] - clip.moments[0]:.2g} s:")
        content.append(Image.of(clip.frames[index]))
    return instruction.question(tuple(content))


def _result(
    kind: str, instruction: Instruction, outcome: AskOutcome, clip: ClipFrames, indices: list[int]
) -> Result:
    if outcome.failure is not None:
        return outcome.failure
    moments = tuple(round(clip.moments[index] - clip.moments[0], 3) for index in indices)
    assert outcome.answer is not None, "an outcome without a failure has an answer"
    author, prompt = outcome.answer.model, instruction.name
    return [Caption(kind=kind, text=outcome.value, author=author, prompt=prompt, moments=moments)]


def _local(kind: str, author: str, cleaning: Cleaning, write: Callable[[Any], str], given: Any) -> Result:
    """The caption that a local network writes about ``given``, cleaned."""
    try:
        return [Caption(kind=kind, text=clean(write(given), cleaning), author=author)]
    except ChatFailure as failure:
        return failure
    except ValueError as error:
        return ChatFailure("unusable", str(error))

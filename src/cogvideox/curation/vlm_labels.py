"""The six negative labels, judged by a vision-language model that was never trained for them.

The paper fine-tunes Video-LLaMA for each label on 20,000 clips (section 3); a large general model can be asked without.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from cogvideox.captioning.instructions import Instruction
from cogvideox.chat import Chat, ChatConfig, ChatFailure, Image, json_reader, language_model
from cogvideox.clip import Clip, Label
from cogvideox.config import Config
from cogvideox.curation.labels import MEANING
from cogvideox.curation.step import CurationStep
from cogvideox.curation.view import View
from cogvideox.errors import ChatError

DEFECTS = Instruction(
    "labels.defects/1",
    "You are given frames of one clip, in order, each with its time in seconds. Say of each defect how sure you are "
    "that the clip has it, from 0 (certainly not) to 100 (certainly).\n"
    + "\n".join(f"- {name}: {meaning}" for name, meaning in MEANING.items())
    + '\nAnswer in JSON only, with all six names: {"editing": 0, "static": 0, ...}.',
    120,
    temperature=0.0,
)


class LabelVerdict(Config):
    """What the judge answers: how sure it is of each defect, 0 to 100."""

    editing: int = Field(ge=0, le=100)
    static: int = Field(ge=0, le=100)
    low_quality: int = Field(ge=0, le=100)
    lecture: int = Field(ge=0, le=100)
    text: int = Field(ge=0, le=100)
    screenshot: int = Field(ge=0, le=100)


class VlmLabels(CurationStep):
    """The six labels by a model behind an OpenAI-compatible server, or in a folder, from a few frames.

    What it says is as it says it: nothing calibrates it. A clip of which it says nothing usable is dropped with the
    reason; when the server cannot be reached the video is left for the next run.
    """

    kind: Literal["asked_labels"] = "asked_labels"
    version: ClassVar[int] = 1
    ask: str = Field(description="address of an OpenAI-compatible server, or a model folder of transformers")
    ask_model: str | None = Field(
        None, description="the model on it, one that sees pictures; its key: OPENAI_API_KEY"
    )
    frames: int = Field(8, gt=1, le=32, description="frames it is shown, spread over the clip")
    threshold: float = Field(0.5, ge=0, le=1, description="at or above it the clip has the defect")
    chat: ChatConfig = ChatConfig()
    answers: str | None = Field(None, description="folder where answers are kept between runs")

    def gives(self) -> tuple[str, ...]:
        """Names of its scores."""
        return tuple(f"label.{name}" for name in MEANING)

    def measure(self, clip: Clip, view: View) -> Clip:
        """``clip.labels``, and how sure it is as scores ``label.<name>``. Raises ChatError when to ask again later."""
        chat = _chat(self.model_dump_json())
        try:
            found = judged(chat, view, self.frames)
        except ChatFailure as failure:
            if failure.pending:
                raise ChatError(f"{self.ask}: {failure}; run again") from None
            return clip.drop(self.kind, "not judged", str(failure)[:300])
        labels = {
            name: Label(
                probability=share, threshold=self.threshold, judge=f"{chat.model.name}:{DEFECTS.name}"
            )
            for name, share in found.items()
        }
        scores = {f"label.{name}": share for name, share in found.items()}
        return clip.model_copy(update={"labels": labels}).with_scores(**scores)


def judged(chat: Chat, view: View, frames: int = 8) -> dict[str, float]:
    """Label -> how sure the model is that the clip has the defect, 0 to 1. Raises ChatFailure."""
    start = float(view.picture_moments[0])
    content: list[str | Image] = []
    for index in view.spread(frames):
        content += [f"{float(view.picture_moments[index]) - start:.2f} s", Image.of(view.pictures[index])]
    question = DEFECTS.question(tuple(content), LabelVerdict.model_json_schema())
    return {
        name: value / 100
        for name, value in chat.ask(question, json_reader(LabelVerdict)).model_dump().items()
    }


@cache
def _chat(settings: str) -> Chat:
    """Made once a process."""
    step = VlmLabels.model_validate_json(settings)
    return Chat(
        language_model(step.ask, step.ask_model), step.chat, Path(step.answers) if step.answers else None
    )

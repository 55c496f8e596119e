"""Steps that ask models in words: the six negative labels by a vision-language model, and captions by any strategy.

The paper fine-tunes Video-LLaMA for each label on 20,000 clips (section 3); a large general model can be asked without.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cogvideox.captioning.instructions import Instruction
from cogvideox.captioning.stages import ClipFrames
from cogvideox.captioning.strategy import CaptionConfig, build
from cogvideox.chat import Chat, ChatConfig, ChatFailure, Image, json_reader, language_model
from cogvideox.clip import Clip, Label
from cogvideox.config import Config
from cogvideox.curation.labels import MEANING, labelled
from cogvideox.curation.step import CurationStep, View
from cogvideox.errors import ChatError

if TYPE_CHECKING:
    from cogvideox.captioning.describe import Describer


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
    gives = tuple(f"label.{name}" for name in MEANING)
    ask: str = Field(description="address of an OpenAI-compatible server, or a model folder of transformers")
    ask_model: str | None = Field(
        None, description="the model on it, one that sees pictures; its key: OPENAI_API_KEY"
    )
    frames: int = Field(8, gt=1, le=32, description="frames it is shown, spread over the clip")
    threshold: float = Field(0.5, ge=0, le=1, description="at or above it the clip has the defect")
    chat: ChatConfig = ChatConfig()
    answers: str | None = Field(None, description="folder where answers are kept between runs")

    def measure(self, clip: Clip, view: View) -> Clip:
        """``clip.labels``, and how sure it is as scores ``label.<name>``. Raises ChatError when to ask again later."""
        chat = _chat(self.model_dump_json())
        start = float(view.moments[0])
        content: list[str | Image] = []
        for index in view.spread(self.frames):
            content += [f"{float(view.moments[index]) - start:.2f} s", Image.of(view.pictures[index])]
        question = DEFECTS.question(tuple(content), LabelVerdict.model_json_schema())
        try:
            verdict: LabelVerdict = chat.ask(question, json_reader(LabelVerdict))
        except ChatFailure as failure:
            if failure.pending:
                raise ChatError(f"{self.ask}: {failure}; run again") from None
            return clip.drop(self.kind, "not judged", str(failure)[:300])
        judge = f"{chat.model.name}:{DEFECTS.name}"
        sure = verdict.model_dump().items()
        labels = {n: Label(probability=v / 100, threshold=self.threshold, judge=judge) for n, v in sure}
        return labelled(clip, labels)


@cache
def _chat(settings: str) -> Chat:
    """Made once a process."""
    step = VlmLabels.model_validate_json(settings)
    return Chat(language_model(step.ask, step.ask_model), step.chat, step.answers or None)


class AddCaptions(CurationStep):
    """Every caption on the way is kept with its author and instruction; the last one is the clip's.

    Put it last: what earlier steps drop is not described. A clip without a caption, or with one that does not match, is
    dropped with the reason. When a server cannot be reached the video is left for the next run.
    """

    kind: Literal["captions"] = "captions"
    gives = ("match",)
    captions: CaptionConfig = CaptionConfig()
    answers: str | None = Field(None, description="folder where answers of models are kept between runs")

    def measure(self, clip: Clip, view: View) -> Clip:
        """Raises ChatError when a later run should ask again."""
        start = float(view.moments[0]) if len(view.moments) else 0.0
        moments = tuple(round(float(moment) - start, 4) for moment in view.moments)
        record = _describer(self.model_dump_json()).describe_one(ClipFrames(clip.id, view.pictures, moments))
        if record.ended == "pending":
            raise ChatError(f"{record.stage}: {record.reason}: {record.detail}; run again")
        clip = clip.model_copy(update={"captions": (*clip.captions, *record.clip_captions())})
        if record.match is not None:
            clip = clip.with_scores(match=record.match)
        if record.ended == "done":
            return clip
        return clip.drop(self.kind, record.reason, f"{record.stage}: {record.detail}"[:300])


@cache
def _describer(settings: str) -> Describer:
    """Made once a process."""
    step = AddCaptions.model_validate_json(settings)
    return build(step.captions, Path(step.answers) if step.answers else None)

"""The step that writes captions for each clip, by any strategy of the captioning package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cogvideox.captioning.stages import ClipFrames
from cogvideox.captioning.strategy import CaptionConfig, build
from cogvideox.clip import Clip
from cogvideox.curation.step import CurationStep
from cogvideox.curation.view import View
from cogvideox.errors import ChatError

if TYPE_CHECKING:
    from cogvideox.captioning.describe import Describer


class AddCaptions(CurationStep):
    """Every caption on the way is kept with its author and instruction; the last one is the clip's.

    Put it last: what earlier steps drop is not described. A clip without a caption, or with one that does not match, is
    dropped with the reason. When a server cannot be reached the video is left for the next run.
    """

    kind: Literal["captions"] = "captions"
    captions: CaptionConfig = CaptionConfig()
    answers: str | None = Field(None, description="folder where answers of models are kept between runs")

    def gives(self) -> tuple[str, ...]:
        """See CurationStep."""
        return ("match",)

    def measure(self, clip: Clip, view: View) -> Clip:
        """Raises ChatError when a later run should ask again."""
        start = float(view.picture_moments[0]) if len(view.picture_moments) else 0.0
        moments = tuple(round(float(moment) - start, 4) for moment in view.picture_moments)
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

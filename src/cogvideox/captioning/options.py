"""What decides how clips are described, besides the pace at which questions are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.errors import ConfigError

RULES = "rules"
OPTION_GROUPS = {
    "Strategy": "strategy ask ask_model captioner summariser",
    "Frames and words": "seconds clip_frames words",
    "Match with the clip": "match least_match",
}
"""The headings of ``cogvideox caption --help``, and the options under each."""


class CaptionOptions(Config):
    """How clips are described: the flags of ``cogvideox caption``."""

    strategy: Literal["watch", "paper", "distilled", "ask"] = Field(
        "watch",
        description="watch: a local captioner; paper: short and frame captions, merged by a language model; "
        "distilled: merged by a local summariser; ask: a video model behind a server",
    )
    ask: str | None = Field(
        None,
        description="address of an OpenAI-compatible server, model folder of transformers, or rules (tiny world)",
    )
    ask_model: str | None = Field(None, description="the model on that server; its key: OPENAI_API_KEY")
    captioner: str | None = Field(None, description="folder of the local captioner; default: the shipped one")
    summariser: str | None = Field(None, description="folder of the local summariser")
    seconds: float = Field(2.0, gt=0, description="between frames that are described; the paper: 2")
    clip_frames: int = Field(17, gt=1, le=64, description="frames that the short caption and the judge see")
    words: int = Field(120, gt=0, description="longest caption")
    match: Literal["none", "rules", "ask"] = Field(
        "none", description="who judges whether a caption fits its clip"
    )
    least_match: float = Field(
        0.75, ge=0, le=1, description="a lower score drops the caption (3 of 4 points)"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        asks = self.strategy != "watch" or self.match == "ask"
        if asks and self.ask is None:
            raise ConfigError(f"strategy {self.strategy}, match {self.match}: who is asked? give ask")
        if self.ask is not None and not asks:
            raise ConfigError(
                f"ask {self.ask}: has no effect with strategy watch, the local captioner; choose strategy ask (a video "
                "model), paper or distilled"
            )
        needless = self.ask in (None, RULES) or Path(self.ask).is_dir()
        if self.ask_model is None and not needless:
            raise ConfigError(f"ask {self.ask}: which model of that server? give ask_model")
        if self.strategy == "distilled" and self.summariser is None:
            raise ConfigError("strategy distilled: which summariser? give summariser, or use strategy paper")
        return self

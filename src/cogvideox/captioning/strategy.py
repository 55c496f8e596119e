"""Strategies: which stages a caption goes through, who is asked, and who judges it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from cogvideox.captioning.describe import Describer
from cogvideox.captioning.match import AskedMatch, Matcher, WorldMatch
from cogvideox.captioning.stages import (
    AskDense,
    CaptionStage,
    FrameCaptions,
    LocalCaptioner,
    Merge,
    ShortCaption,
    Summarise,
)
from cogvideox.captioning.world import is_tiny_world, world_model
from cogvideox.chat import Chat, ChatConfig, Cleaning, LanguageModel, language_model
from cogvideox.config import Config
from cogvideox.errors import ConfigError

RULES = "rules"


class CaptionConfig(Config):
    """How clips are described."""

    strategy: Literal["watch", "paper", "distilled", "ask"] = Field(
        "watch",
        description="watch: a local captioner; paper: short and frame captions, merged by a language model; "
        "distilled: merged by a local summariser; ask: a video model behind a server",
    )
    ask: str | None = Field(
        None,
        description="address of an OpenAI-compatible server, model folder of transformers, or rules (tiny world)",
    )
    ask_model: str | None = Field(None, description="the model on that server")
    captioner: str | None = Field(None, description="folder of the local captioner; null: the shipped one")
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
    chat: ChatConfig = ChatConfig()

    @model_validator(mode="after")
    def _is_whole(self) -> CaptionConfig:
        asks = self.strategy != "watch" or self.match == "ask"
        if asks and self.ask is None:
            raise ConfigError(f"strategy {self.strategy}, match {self.match}: who is asked? give ask")
        needless = self.ask in (None, RULES) or Path(self.ask).is_dir()
        if self.ask_model is None and not needless:
            raise ConfigError(f"ask {self.ask}: which model of that server? give ask_model")
        if self.strategy == "distilled" and self.summariser is None:
            raise ConfigError("strategy distilled: which summariser? give summariser, or use strategy paper")
        return self


def build(config: CaptionConfig, cache: Path | None = None, transcript: Path | None = None) -> Describer:
    """The describer of these settings, its models loaded. ``cache``: folder of kept answers; ``transcript``: their log.

    Raises ConfigError, CheckpointError.
    """
    model = _model(config)
    chat = Chat(model, config.chat, cache, transcript) if model is not None else None
    stages = list(_stages(config, chat))
    matcher: Matcher | None = WorldMatch() if config.match == "rules" else None
    if config.match == "ask":
        matcher = AskedMatch(_needed(chat), config.clip_frames)
    # what decides the text, and nothing else: another address or pace is not another caption
    local = (getattr(stage, name, None) for stage in stages for name in ("captioner", "summariser"))
    names = [network.name for network in local if network is not None]
    identity = [
        config.strategy,
        config.seconds,
        config.clip_frames,
        config.words,
        model.name if model else "",
        names,
    ]
    return Describer(stages, json.dumps(identity), matcher, config.least_match if matcher else 0.0)


def _needed(chat: Chat | None) -> Chat:
    assert chat is not None, "the settings were checked: strategies and judges that ask have a model"
    return chat


def _model(config: CaptionConfig) -> LanguageModel | None:
    if config.ask is None:
        return None
    if config.ask == RULES:
        return world_model()
    return language_model(config.ask, config.ask_model)


def _stages(config: CaptionConfig, chat: Chat | None) -> Iterator[CaptionStage]:
    cleaning = Cleaning(words=config.words)
    if config.strategy == "watch":
        from cogvideox.captioning.local import load_captioner  # loads torch

        yield LocalCaptioner(
            load_captioner(config.captioner), cleaning, is_tiny_world if config.captioner is None else None
        )
    elif config.strategy == "ask":
        yield AskDense(_needed(chat), min(config.seconds, 1.0), cleaning=cleaning)
    else:
        yield ShortCaption(_needed(chat), config.clip_frames)
        yield FrameCaptions(_needed(chat), config.seconds)
        if config.strategy == "paper":
            yield Merge(_needed(chat), cleaning)
        else:
            from cogvideox.captioning.local import load_summariser

            yield Summarise(load_summariser(str(config.summariser)), cleaning)

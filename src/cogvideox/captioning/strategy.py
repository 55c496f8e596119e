"""Strategies: which stages a caption goes through, who is asked, and who judges it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cogvideox.captioning.describe import Describer
from cogvideox.captioning.match import AskedMatch, Matcher, WorldMatch
from cogvideox.captioning.options import RULES, CaptionOptions
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


class CaptionConfig(CaptionOptions):
    """How clips are described, and how questions are asked."""

    chat: ChatConfig = ChatConfig()


def build(config: CaptionConfig, cache: Path | None = None, transcript: Path | None = None) -> Describer:
    """The describer of these settings, its models loaded. ``cache``: folder of kept answers; ``transcript``: their log.

    Raises ConfigError, CheckpointError.
    """
    model: LanguageModel | None = None
    if config.ask is not None:
        model = world_model() if config.ask == RULES else language_model(config.ask, config.ask_model)
    chat = Chat(model, config.chat, cache, transcript) if model is not None else None
    stages = list(_stages(config, chat))
    matcher: Matcher | None = WorldMatch() if config.match == "rules" else None
    if config.match == "ask":
        matcher = AskedMatch(_needed(chat), config.clip_frames)
    # what decides the text, and nothing else: another address or pace is not another caption
    local = (getattr(stage, name, None) for stage in stages for name in ("captioner", "summariser"))
    names = [network.name for network in local if network is not None]
    settings = [config.strategy, config.seconds, config.clip_frames, config.words]
    identity = json.dumps([*settings, model.name if model else "", names])
    wave = 1 if config.strategy == "watch" else 16
    return Describer(stages, identity, matcher, config.least_match if matcher else 0.0, wave)


def _needed(chat: Chat | None) -> Chat:
    assert chat is not None, "the settings were checked: strategies and judges that ask have a model"
    return chat


def _stages(config: CaptionConfig, chat: Chat | None) -> Iterator[CaptionStage]:
    cleaning = Cleaning(words=config.words)
    if config.strategy == "watch":
        from cogvideox.captioning.local import load_captioner  # loads torch

        knows = is_tiny_world if config.captioner is None else None
        yield LocalCaptioner(load_captioner(config.captioner), cleaning, knows)
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

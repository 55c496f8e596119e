"""Captions as a step of curation."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.captioning.strategy import CaptionConfig
from cogvideox.clip import Clip, SourceFile
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.step import View
from cogvideox.curation.vlm_steps import AddCaptions
from cogvideox.errors import ChatError
from cogvideox.world import facts, read_caption
from support.world_clips import clip_of, scene_of

STEP = AddCaptions(captions=CaptionConfig(strategy="paper", ask="rules", match="rules", seconds=1.0))
CLIP = Clip(source=SourceFile(path="a.mp4"))


def view_of(frames: np.ndarray) -> View:
    moments = 3.0 + np.arange(len(frames), dtype=np.float32) / 8  # a clip from the middle of a film
    return View(frames, frames, moments, *frames.shape[1:3])


def test_a_clip_leaves_with_every_caption_on_the_way():
    clip = STEP.measure(CLIP, view_of(clip_of(0).frames))
    assert clip.dropped is None and clip.scores["match"] >= 0.75
    assert [caption.kind for caption in clip.captions] == ["short", "frame", "frame", "frame", "dense"]
    assert all(caption.author and caption.prompt for caption in clip.captions)
    assert set(facts(scene_of(0))) <= set(read_caption(clip.captions[-1].text))
    assert STEP.measure(CLIP, view_of(clip_of(0).frames)) == clip


def test_a_clip_that_cannot_be_described_is_dropped_with_the_reason():
    clip = STEP.measure(CLIP, view_of(np.full((17, 64, 64, 3), 90, np.uint8)))
    assert (clip.dropped.step, clip.dropped.reason) == ("captions", "caption does not match")


def test_a_server_that_is_not_there_leaves_the_film_for_the_next_run():
    pytest.importorskip("openai")
    config = CaptionConfig.parse(
        {"strategy": "ask", "ask": "http://127.0.0.1:9/v1", "ask_model": "m", "chat": {"tries": 1, "rest": 0}}
    )
    with pytest.raises(ChatError, match="run again"):
        AddCaptions(captions=config).measure(CLIP, view_of(clip_of(0).frames))


def test_the_step_stands_in_recipes():
    recipe = Recipe(steps=(STEP,), choices=())
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    other = recipe.model_copy(update={"steps": (STEP.model_copy(update={"answers": "x"}),)})
    assert other.measuring() != recipe.measuring()

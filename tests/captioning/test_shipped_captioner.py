"""The captioner that ships tells what happens in clips of the tiny world, and says the same every time."""

from __future__ import annotations

from cogvideox.captioning.local import load_captioner
from cogvideox.captioning.stages import LocalCaptioner
from cogvideox.world import facts, read_caption
from support.world_clips import clip_of, scene_of


def test_the_shipped_captioner_knows_the_tiny_world():
    stage = LocalCaptioner(load_captioner())
    clips = [clip_of(index) for index in range(24)]
    results = stage.write(clips)
    right = told = 0
    for index, result in enumerate(results):
        true = set(facts(scene_of(index)))
        right += len(true & set(read_caption(result[0].text)))
        told += len(true)
    assert right / told >= 0.85
    assert stage.write(clips[:2]) == results[:2]
    assert results[0][0].author.startswith("captioner:")

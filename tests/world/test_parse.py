"""Captions say their facts in words, and the words can be read back."""

from __future__ import annotations

import pytest

from cogvideox.world import Check, caption, facts, read_caption, sample_scene


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_caption_reads_back_as_its_facts(split):
    for index in range(1500):
        scene = sample_scene(7, index, split)
        text = caption(scene, 7, index)
        assert read_caption(text) == facts(scene), text


def test_captions_of_two_different_things_read_back_too():
    for index in range(600):
        scene = sample_scene(7, index, tier="pair")
        text = caption(scene, 7, index)
        assert read_caption(text) == facts(scene) and len(text.split()) <= 24, text


def test_a_sentence_that_says_more_is_read_as_about_its_first_thing():
    said = read_caption("a red circle next to a blue square while the camera pans left")
    assert Check("camera", "left") in said and Check("colour", "red") in said


def test_what_is_not_said_is_absent():
    assert read_caption("") == read_caption("a dog runs on a beach") == ()
    assert read_caption("something red") == (Check("colour", "red"),)

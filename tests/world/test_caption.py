"""Captions tell the truth about their scene."""

import pytest

from cogvideox.errors import InputError
from cogvideox.world import COLOURS, SHAPES, Check, Scene, caption, facts, sample_scene

WORDS = {
    "left": ("left", "leftwards"),
    "right": ("right", "rightwards"),
    "up": ("up", "upward", "upwards"),
    "down": ("down", "downward", "downwards"),
    "slow": ("slowly",),
    "fast": ("quickly", "fast"),
    "grow": ("grows", "growing", "bigger", "larger", "expands"),
    "shrink": ("shrinks", "shrinking", "smaller"),
    "rotate": ("rotates", "rotating", "spins", "spinning"),
    "transform": ("turns", "becomes", "changes", "transforms", "morphs"),
}
CASES = [(sample_scene(7, i, split), i) for i in range(1500) for split in ("train", "held_out")]


def _words(text: str) -> list[str]:
    return text.lower().rstrip(".").replace(",", "").split()


def _says(words: list[str], name: str) -> bool:
    return any(word in words for word in WORDS[name])


def test_captions_state_the_facts_and_no_others():
    for scene, index in CASES:
        words = _words(caption(scene, 7, index))
        assert len(words) <= 24
        assert [colour for colour in COLOURS if colour in words] == [scene.colour]
        shapes = {shape for shape in SHAPES for word in words if word in (shape, shape + "s", shape + "es")}
        assert shapes == {scene.shape, scene.into} - {None}
        stated = {check.value for check in facts(scene)}
        for name in ("left", "right", "up", "down", "slow", "fast"):
            assert _says(words, name) == (name in stated), (name, words)
        if scene.change != "none":
            assert _says(words, scene.change)
        assert ("camera" in words) == (scene.camera != "static")
        assert ("two" in words, "three" in words) == (scene.count == 2, scene.count == 3)


def test_the_example_sentences_are_in_the_grammar():
    scene = Scene("motion", "red", "circle", 0.15, ((0.5, 0.5),), "right")
    said = {caption(scene, 0, index) for index in range(2000)}
    assert {"a red circle moves to the right", "A red circle is moving right."} <= said
    assert len({text.lower().rstrip(".") for text in said}) >= 12


def test_each_fact_has_at_least_four_phrasings():
    for tier in ("size", "rotate", "transform", "count", "pan"):
        scene = sample_scene(0, 1, tier=tier)
        assert len({caption(scene, 0, i).lower().rstrip(".") for i in range(400)}) >= 4


def test_captions_are_deterministic():
    scene = sample_scene(0, 5)
    assert caption(scene, 1, 2) == caption(scene, 1, 2)


def test_articles_fit_their_nouns():
    for scene, index in CASES:
        words = _words(caption(scene, 7, index))
        for article, noun in zip(words, words[1:], strict=False):
            if article in ("a", "an"):
                assert (article == "an") == (noun[0] in "aeiou")


def test_checks_survive_json():
    for scene, _ in CASES[:200]:
        for check in facts(scene):
            assert Check.from_dict(check.to_dict()) == check
    with pytest.raises(InputError, match="kind"):
        Check.from_dict({"type": "colour"})

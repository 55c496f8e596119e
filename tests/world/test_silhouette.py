"""How well outlines agree with the ideal shapes of a scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cogvideox.world import COLOURS, SHAPES, TIERS, render, sample_scene
from cogvideox.world.silhouette import silhouette_agreement


@pytest.mark.parametrize("tier", TIERS)
def test_truth_agrees_and_another_shape_or_colour_does_not(tier):
    for index in range(4):
        scene = sample_scene(3, index, tier=tier)
        truth = render(scene)
        assert silhouette_agreement(truth, scene) > (0.93 if tier == "rotate" else 0.98)
        other = next(shape for shape in SHAPES if shape not in {scene.into, *(s for _, s in scene.things)})
        assert silhouette_agreement(truth, replace(scene, shape=other, into=None)) < 0.93
        unseen = next(colour for colour in COLOURS if colour not in {c for c, _ in scene.things})
        recoloured = replace(
            scene, colour=unseen, second=None if scene.second is None else (unseen, scene.shape)
        )
        assert silhouette_agreement(truth, recoloured) == 0


def test_a_horn_costs_and_place_and_size_do_not():
    scene = sample_scene(0, 0, tier="size")
    circle = replace(scene, shape="circle", change="none", radius=0.2, centres=((0.5, 0.5),))
    frames = render(circle)
    assert silhouette_agreement(render(replace(circle, radius=0.15, centres=((0.4, 0.55),))), circle) > 0.98
    horned = frames.copy()
    horned[:, 14:20, 31:37] = COLOURS[circle.colour]
    assert 0.85 < silhouette_agreement(horned, circle) < silhouette_agreement(frames, circle) - 0.02


def test_things_missing_or_too_many_count_nothing():
    one, three = (sample_scene(7, 1, tier="count"),) * 2
    one = replace(one, centres=((0.3, 0.5),), radius=0.12)
    three = replace(one, centres=((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)))
    for shown, asked in ((one, three), (three, one)):
        assert silhouette_agreement(render(shown), asked) == pytest.approx(1 / 3, abs=0.02)
    empty = np.full((5, 64, 64, 3), 95, np.uint8)
    assert silhouette_agreement(empty, one) == 0


def test_things_cut_by_the_edge_are_left_out():
    scene = replace(sample_scene(0, 0, tier="size"), change="none", centres=((0.0, 0.5),), radius=0.2)
    assert np.isnan(silhouette_agreement(render(scene), scene))

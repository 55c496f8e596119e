"""What a scene gives a model to go by: silhouettes, paths, dots."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.world import TIERS, dots, guide_video, paths, read_frames, render, sample_scene, silhouettes
from cogvideox.world.foreground import find_things


@pytest.mark.parametrize("tier", TIERS)
def test_silhouettes_are_the_coloured_pixels_and_paths_their_centres(tier):
    for index in range(4):
        scene = sample_scene(3, index, tier=tier)
        frames, shapes, centres = render(scene), silhouettes(scene), paths(scene)
        chroma = frames.max(-1).astype(int) - frames.min(-1)
        assert chroma[shapes].min() > 40 and (chroma[~shapes] > 90).mean() < 0.02
        for frame, things in enumerate(read_frames(frames).things):
            seen = np.array([thing.centre for thing in things])
            off = [np.linalg.norm(seen - centre, axis=1).min() for centre in centres[:, frame]]
            assert max(off) < 0.03 and len(things) == len(centres)


def test_dots_stand_where_they_are_asked_and_nowhere_else():
    path = np.array([[[0.25, 0.5], [0.5, 0.75]], [[0.75, 0.5], [0.9, 0.1]]])
    video = dots(path, 64)
    assert video.shape == (2, 64, 64, 3) and video.dtype == np.uint8
    assert video[0, 32, 16].tolist() == [255] * 3 and video[1, 48, 32].tolist() == [255] * 3
    assert 0.01 < (video > 127).mean() < 0.04 and video[0, :10].max() == 0


def test_a_guide_shows_every_thing_and_no_colour():
    scene = sample_scene(3, 0, tier="pair")
    for guide, least in (("path", 30), ("silhouette", 60)):
        video = guide_video(scene, guide)
        assert np.array_equal(video[..., 0], video[..., 2])
        assert (video[0, ..., 0] > 127).sum() > least
    assert not find_things(guide_video(scene, "path")).things  # the judge reads colour alone

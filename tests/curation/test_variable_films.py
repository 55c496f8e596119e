"""Clips cut from a film of variable rate keep the rate of their own frames."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from cogvideox.curation.cutting import cut
from cogvideox.curation.measuring import measure
from cogvideox.curation.recipe import find_recipe
from cogvideox.video import probe
from support.films import take, write


def test_each_clip_of_a_film_of_two_rates_has_the_rate_and_all_the_frames_of_its_part(tmp_path):
    """Two takes: 60 frames at 30 per second, then 30 at 10."""
    pts = [round(n * 1000 / 30) for n in range(60)] + [2000 + 100 * n for n in range(30)]
    write(tmp_path / "film.mp4", np.concatenate([take(1, 60), take(9, 30)]), 30, pts=pts)
    recipe = find_recipe("tiny")
    recipe = recipe.model_copy(update={"steps": (), "shots": recipe.shots.model_copy(update={"trim": 0})})
    clips = [clip for clip in measure(tmp_path, "film.mp4", recipe) if clip.dropped is None]
    assert len(clips) == 2 and not clips[0].source.steady
    made = cut(tmp_path, "film.mp4", clips, tmp_path / "cut", recipe)
    for clip, (frames, rate) in zip(clips, ((60, 30), (30, 10)), strict=True):
        assert (made[clip.id]["frames"], Fraction(made[clip.id]["fps"])) == (frames, rate)
        header = probe(tmp_path / "cut" / f"{clip.id}.mp4")
        assert (header.frames, header.fps) == (frames, rate)

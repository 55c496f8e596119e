"""What a scene says of each cell of a video's latents."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.world import TIERS, coverage, sample_scene
from cogvideox.world.cells import CELL_FACTS, cell_facts

SIZE, FRAMES, GRID = 64, 17, (5, 8, 8)


@pytest.mark.parametrize("tier", TIERS)
def test_cells_are_means_of_what_things_cover(tier):
    for index in range(5):
        scene = sample_scene(4, index, tier=tier)
        facts, covered = cell_facts(scene, SIZE, FRAMES, GRID), coverage(scene, SIZE, FRAMES)
        assert facts.shape == (len(CELL_FACTS), *GRID) and facts.dtype == np.float32
        assert facts.min() >= 0 and facts.max() <= 1
        for latent, frames in enumerate([slice(0, 1), *(slice(k, k + 4) for k in range(1, FRAMES, 4))]):
            cell = covered[frames, 16:24, 40:48].mean()
            assert facts[0, latent, 2, 5] == pytest.approx(cell, abs=1e-6)
        said = {
            name for name, share in zip(CELL_FACTS[1:], facts[1:].max(axis=(1, 2, 3)), strict=True) if share
        }
        shown = {name for thing in scene.things for name in thing} | ({scene.into} if scene.into else set())
        assert said == shown


def test_a_shape_that_turns_into_another_changes_its_name_over_time():
    for index in range(10):
        scene = sample_scene(6, index, tier="transform")
        facts = cell_facts(scene, SIZE, FRAMES, GRID)
        before, after = (facts[CELL_FACTS.index(name)].sum(axis=(1, 2)) for name in (scene.shape, scene.into))
        assert before[0] > 0 == after[0] and after[-1] > 0 == before[-1]
        assert list(after) == sorted(after) or after[-1] > 0.8 * after.max()  # shapes differ a little in area
        assert np.allclose(before + after, facts[0].sum(axis=(1, 2)), rtol=1e-4)


def test_one_frame_has_one_latent_and_coarser_cells_are_means():
    scene = sample_scene(1, 3, tier="pair")
    fine, coarse = (cell_facts(scene, SIZE, 1, (1, side, side)) for side in (8, 4))
    assert np.allclose(coarse, fine.reshape(len(CELL_FACTS), 1, 4, 2, 4, 2).mean(axis=(3, 5)), atol=1e-6)

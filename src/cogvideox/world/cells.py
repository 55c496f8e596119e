"""What a scene says of each cell of a video's latents: how much of it things cover, of which shape and colour.

These are dense labels, exact and for every latent frame, that a network can be taught to know of its own tokens.
"""

from __future__ import annotations

import numpy as np

from cogvideox.world.rendering import accent_coverage, clip_times, morph_progress, thing_coverage
from cogvideox.world.scene import Scene
from cogvideox.world.style import COLOURS, get_style


def cell_fact_names(style: str) -> tuple[str, ...]:
    """What is said of a cell in a style: its share that things cover, and the shares that each shape and each colour
    covers. Raises InputError for an unknown style."""
    return ("covered", *get_style(style).shapes, *COLOURS)


CELL_FACTS = cell_fact_names("plain")


def cell_facts(scene: Scene, size: int, frames: int, grid: tuple[int, int, int]) -> np.ndarray:
    """What a scene says of each cell, by ``cell_fact_names``: float32 ``[facts, t, h, w]`` in 0..1.

    The grid is that of (t, h, w) latents.

    A latent frame stands for the first frame of a clip, later ones for equal groups of the frames after it. While a
    shape turns into another both have their share.
    """
    t, h, w = grid
    names, covered = cell_fact_names(scene.style), thing_coverage(scene, size, frames)
    progress = morph_progress(clip_times(frames))[:, None, None].astype(np.float32)
    facts = np.zeros((len(names), frames, size, size), np.float32)
    facts[0] = covered.max(axis=0)
    for own, (colour, shape) in zip(covered, scene.things, strict=True):
        shares: dict[str, float | np.ndarray] = {colour: 1.0, shape: 1.0}
        if scene.into is not None:
            shares |= {shape: 1 - progress, scene.into: progress}
        for name, share in shares.items():
            index = names.index(name)
            facts[index] = np.maximum(facts[index], share * own)
    if scene.accent is not None:
        accent, body = accent_coverage(scene, size, frames).max(axis=0), names.index(scene.colour)
        facts[names.index(scene.accent)] = accent
        facts[body] = np.maximum(facts[body] - accent, 0)
    cells = facts.reshape(len(facts), frames, h, size // h, w, size // w).mean(axis=(3, 5))
    if t == 1:
        return cells[:, :1]
    later = cells[:, 1:].reshape(len(facts), t - 1, (frames - 1) // (t - 1), h, w).mean(axis=2)
    return np.concatenate([cells[:, :1], later], axis=1)

"""A small deterministic world of moving shapes whose truth is known: scenes, frames, captions, facts."""

from cogvideox.world.caption import Check, caption, facts
from cogvideox.world.render import render
from cogvideox.world.scene import COLOURS, SHAPES, Scene, is_held_out_triple, sample_scene

__all__ = [
    "COLOURS",
    "SHAPES",
    "Check",
    "Scene",
    "caption",
    "facts",
    "is_held_out_triple",
    "render",
    "sample_scene",
]

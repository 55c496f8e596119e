"""A small deterministic world of moving shapes with known truth: scenes, frames, captions, facts, a judge."""

from cogvideox.world.caption import Check, caption, facts
from cogvideox.world.held_out import Prompt, held_out_prompts, make_held_out_prompts
from cogvideox.world.judge import Finding, Reading, Verdict, judge, read_frames
from cogvideox.world.parse import read_caption
from cogvideox.world.render import render
from cogvideox.world.scene import (
    COLOURS,
    DIRECTIONS,
    HELD_OUT_PAIRS,
    SHAPES,
    TIERS,
    Scene,
    is_held_out_triple,
    sample_scene,
)
from cogvideox.world.score import FactScore, report, report_by_tier, score_table

__all__ = [
    "COLOURS",
    "DIRECTIONS",
    "HELD_OUT_PAIRS",
    "SHAPES",
    "TIERS",
    "Check",
    "Finding",
    "Prompt",
    "Reading",
    "FactScore",
    "Scene",
    "Verdict",
    "caption",
    "facts",
    "held_out_prompts",
    "is_held_out_triple",
    "judge",
    "make_held_out_prompts",
    "read_caption",
    "read_frames",
    "render",
    "report",
    "report_by_tier",
    "sample_scene",
    "score_table",
]

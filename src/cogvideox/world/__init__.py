"""A small deterministic world of moving shapes with known truth: scenes, frames, captions, facts, and a check of facts.

| file | what it does |
|---|---|
| ``style`` | ``Style``: colours, shapes, stories, sizes and what is held out, of the plain and of the rich world |
| ``scene`` | ``Scene``: what happens in one clip, and how scenes are drawn |
| ``hues`` | how far the hues of a scene may be turned before it shows what is held out |
| ``rendering`` | a scene to frames |
| ``grounds`` | what lies under the things: smooth noise, or a pattern |
| ``guides`` | a scene to silhouettes, paths and control videos |
| ``cells`` | a scene to what covers each cell of a video's latents |
| ``captions`` | a scene to a sentence and to facts; a sentence to the facts it states |
| ``held_out`` | the 200 prompts about combinations that training never shows |
| ``two_colours`` | pieces of more than one colour: things of two colours, or two things that touch |
| ``foreground`` | frames to coloured things: connected components on grey ground |
| ``templates`` | which shape a thing is, by correlation with templates |
| ``tracking`` | how far things and the camera moved |
| ``meeting`` | how each of two things of different colours moves, and how much of it is hidden |
| ``fact_check`` | ``check_facts``: which stated facts hold in frames, by rules on pixels |
| ``silhouette`` | how well outlines agree with the ideal shapes |
| ``score`` | verdicts to tables with Wilson intervals |
| ``distortions`` | damage done to clips on purpose |
| ``validate`` | how often the fact check is right, on clips whose truth is known |
| ``vocabulary`` | words and pictures that belong to this world |
"""

from cogvideox.world.captions import Check, caption, facts, read_caption
from cogvideox.world.fact_check import Finding, Reading, Verdict, check_facts, read_frames
from cogvideox.world.guides import GUIDES, Guide, dots, guide_video, paths, silhouettes
from cogvideox.world.held_out import Prompt, held_out_prompts, make_held_out_prompts
from cogvideox.world.rendering import coverage, render
from cogvideox.world.scene import DIRECTIONS, Scene, is_held_out_triple, sample_scene
from cogvideox.world.score import FactScore, report, report_by_tier, score_table
from cogvideox.world.style import COLOURS, HELD_OUT_PAIRS, SHAPES, STYLES, TIERS, Style, get_style

__all__ = [
    "COLOURS", "Check", "DIRECTIONS", "FactScore", "Finding", "GUIDES", "Guide", "HELD_OUT_PAIRS", "Prompt", "Reading",
    "SHAPES", "STYLES", "Scene", "Style", "TIERS", "Verdict", "caption", "check_facts", "coverage", "dots", "facts",
    "get_style", "guide_video", "held_out_prompts", "is_held_out_triple", "make_held_out_prompts", "paths",
    "read_caption", "read_frames", "render", "report", "report_by_tier", "sample_scene", "score_table", "silhouettes",
]  # fmt: skip

"""One function per way a clip can have a fault, and per way it can only look as if.

Each takes frames ``uint8 [t, h, w, 3]``, a random generator and ``other`` (another clip of the same shape), and returns
frames of the same shape. ``FAULTS`` names those that give a label, ``INNOCENT`` those that must not.
"""

from __future__ import annotations

from cogvideox.training.tasks.faults.edits import (
    badly_lit,
    blurred,
    broken_blocks,
    combed,
    cut,
    dim,
    dissolve,
    drifting_still,
    flash,
    framed,
    grade,
    grainy,
    inset,
    mirrored,
    noisy,
    panned,
    particles,
    pixelated,
    shaken,
    slideshow,
    slow,
    small_sign,
    split,
    squeezed,
    stepping,
    stickers,
    still,
    walker,
    whip,
    wipe,
)
from cogvideox.training.tasks.faults.painting import Effect
from cogvideox.training.tasks.faults.scenes import (
    credits,
    filmed_screen,
    paragraphs,
    phone,
    screen_capture,
    scrolling,
    slide_and_speaker,
    subtitles,
    talking_head,
    titles,
    two_talkers,
    whiteboard,
)

FAULTS: dict[str, tuple[Effect, ...]] = {
    "editing": (cut, dissolve, wipe, inset, split, stickers, grade, mirrored, framed),
    "static": (drifting_still, still, slideshow, stepping, particles),
    "low_quality": (blurred, noisy, squeezed, pixelated, badly_lit, shaken, combed, broken_blocks),
    "lecture": (talking_head, slide_and_speaker, whiteboard, two_talkers),
    "text": (paragraphs, titles, credits, subtitles),
    "screenshot": (screen_capture, scrolling, filmed_screen, phone),
}
HELD_OUT = {"wipe", "mirrored", "slideshow", "pixelated", "whiteboard", "credits", "phone"}
"""Effects that training never sees, so that the report can say what happens with new ones."""
INNOCENT: tuple[Effect, ...] = (whip, flash, slow, grainy, dim, small_sign, panned, walker)

"""Strips: a few frames of a clip side by side, small, for pages that people look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cogvideox.clip import Clip
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.work_folder import strip_file
from cogvideox.errors import MediaError
from cogvideox.files.atomic import atomic_file
from cogvideox.perception.flow import opencv
from cogvideox.video import open_decoder

FRAMES = 4
SIDE = 72  # pixels of the shorter side


def write_strips(root: Path, path: str, clips: Sequence[Clip], work: Path, recipe: Recipe) -> None:
    """One PNG of four frames per clip of one video, in one pass; a video that breaks leaves what was read."""
    wanted: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        assert clip.span is not None, "strips are made of clips, not of unread files"
        for number in np.linspace(clip.span.first, clip.span.stop - 1, FRAMES).astype(int):
            wanted.setdefault(int(number), []).append(index)
    seen: list[list[np.ndarray]] = [[] for _ in clips]
    try:
        with open_decoder(root / path, recipe.limits.of_decoding(), recipe.colour) as decoder:
            for number, (_, step) in enumerate(decoder.frames()):
                for index in wanted.get(number, ()):
                    seen[index].append(step.pixels(decoder.size.fitted(SIDE)))
                if number >= max(wanted):
                    break
    except MediaError:
        if not any(seen):
            return
    cv2 = opencv()
    for clip, frames in zip(clips, seen, strict=True):
        if frames:
            picture = np.concatenate(frames, axis=1)[:, :, ::-1]
            encoded = cv2.imencode(".png", picture)[1]
            with atomic_file(strip_file(work, clip.id), overwrite=True) as temporary:
                temporary.write_bytes(encoded.tobytes())

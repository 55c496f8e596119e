"""Which of VBench's two ways a video goes: short ones whole, long ones in pieces that are scored and averaged.

VBench-Long (Huang et al., 2024) cuts a long video into clips of 2 s, or of 10 s where its network was trained on
longer ones, scores each by the rule for short videos and averages. It names no length at which a video is long: here
that is more than its longest clip, so that the paper's videos of 6 and 10 s are scored whole, as the paper's were.
Differs: cuts between scenes are not looked for, and every video weighs the same, however many clips it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath

from cogvideox.video import Video

LONG = 10.0  # seconds; longer videos go in pieces
SECONDS = 2.0  # of a piece
LONGER_SECONDS = {"human_action": 10.0}


def is_long(video: Video) -> bool:
    """Whether a video is scored in pieces."""
    return len(video) > LONG * video.fps


def pieces(video: Video, dimension: str) -> list[Video]:
    """A short video itself; a long one as pieces of equal length, the last of which ends where the video does.

    Pieces have the names that VBench-Long gives them, ``<name>_000.mp4`` ...: recorded observations are found by those.
    """
    if not is_long(video):
        return [video]
    frames = max(1, int(video.fps) * int(LONGER_SECONDS.get(dimension, SECONDS)))
    starts = [*range(0, len(video) - frames + 1, frames)]
    if starts[-1] + frames < len(video):
        starts.append(len(video) - frames)
    name = PurePath(str(video.manifest.get("file", "")))
    return [
        replace(
            video,
            frames=video.frames[first : first + frames],
            manifest={**video.manifest, "file": str(name.with_stem(f"{name.stem}_{place:03d}"))}
            if name.stem
            else video.manifest,
        )
        for place, first in enumerate(starts)
    ]


def over_pieces(video: Video, dimension: str, measure: Callable[..., float], *asked: str) -> float:
    """The rule for short videos, ``measure(piece, *asked)``, averaged over the pieces of a long one."""
    values = [measure(piece, *asked) for piece in pieces(video, dimension)]
    return sum(values) / len(values)

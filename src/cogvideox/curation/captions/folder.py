"""A folder of videos gets captions: what is read, and what is written where."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from cogvideox.curation.captions.describe import Footage, Record
from cogvideox.curation.captions.stages import Seen
from cogvideox.curation.captions.strategy import CaptionConfig, build
from cogvideox.errors import MediaError
from cogvideox.files.atomic import write_text
from cogvideox.files.media import VIDEO_SUFFIXES
from cogvideox.manifest import sha256_of
from cogvideox.video import probe, read_video

RATE, LONGEST_SIDE = 8.0, 768  # frames per second and pixels at which clips are looked at


@dataclass(frozen=True)
class Ended:
    """What came of a folder: how many records of each kind, and where they stand."""

    counts: dict[str, int]
    metadata: Path
    records: Path


def caption_folder(
    videos: Path, out: Path, config: CaptionConfig, on_record: Callable[[Record], None] | None = None
) -> Ended:
    """Captions for every video under a folder.

    ``out`` gets ``metadata.jsonl`` (file_name, text: what training reads), ``records.jsonl`` (a record for each video,
    with the reason where there is no caption), ``asked.jsonl`` (the transcript), and what makes a rerun cheap. Raises
    ConfigError, CheckpointError and MediaError before any work.
    """
    files = find_videos(videos)
    describer = build(config, out / "cache", out / "asked.jsonl")
    footage = (Footage(sha256_of(file), partial(see, file)) for file in files)
    records = list(describer.describe(footage, out / "work", on_record=on_record))
    lines = [
        {
            "file_name": Path(os.path.relpath(file, out)).as_posix(),
            "text": record.caption,
            "match": record.match,
        }
        for file, record in zip(files, records, strict=True)
        if record.ended == "done"
    ]
    top = videos if videos.is_dir() else videos.parent
    told = [
        {"file": file.relative_to(top).as_posix(), **record.model_dump(mode="json")}
        for file, record in zip(files, records, strict=True)
    ]
    _write_lines(out / "metadata.jsonl", lines)
    _write_lines(out / "records.jsonl", told)
    counts = dict(Counter(record.ended for record in records))
    return Ended(counts, out / "metadata.jsonl", out / "records.jsonl")


def find_videos(place: Path) -> list[Path]:
    """The videos under a folder in the order of their names, or one file. Raises MediaError when there are none."""
    if place.is_file():
        return [place]
    found = sorted(
        path
        for path in place.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.is_symlink()
    )
    if not found:
        raise MediaError(f"{place}: holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}); check the path")
    return found


def see(file: Path) -> Seen:
    """Frames of a video at most 8 a second, no side over 768 pixels. Raises MediaError."""
    own = probe(file).fps
    video = read_video(file, fps=RATE if own > RATE else None)
    tall, wide = video.frames.shape[1:3]
    frames = video.frames
    if max(tall, wide) > LONGEST_SIDE:
        scale = LONGEST_SIDE / max(tall, wide)
        size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
        frames = np.stack(
            [np.asarray(Pillow.fromarray(f).resize(size, Pillow.Resampling.BOX)) for f in frames]
        )
    return Seen(sha256_of(file), frames, tuple(round(i / video.fps, 4) for i in range(len(frames))))


def _write_lines(file: Path, lines: Sequence[dict]) -> None:
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

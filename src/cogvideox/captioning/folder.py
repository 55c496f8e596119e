"""A folder of videos gets captions: what is read, and what is written where."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from cogvideox.captioning.describe import CaptionRecord, ClipSource, Describer
from cogvideox.captioning.stages import ClipFrames
from cogvideox.captioning.strategy import CaptionConfig, build
from cogvideox.clip_folders.video_files import LeftOut, list_videos, walk_videos
from cogvideox.engines import HERE, JobEngine, WorkerSpec
from cogvideox.errors import ConfigError, MediaError, OutputError
from cogvideox.files import read_small_text
from cogvideox.files.atomic import atomic_file, write_text
from cogvideox.files.digest import sha256_of
from cogvideox.files.paths import VIDEO_SUFFIXES, lies_in
from cogvideox.video import probe, read_video
from cogvideox.worker_pool import CostedJob

RATE, LONGEST_SIDE = 8.0, 768  # frames per second and pixels at which clips are looked at


@dataclass(frozen=True)
class CaptionSummary:
    """What came of a folder: how many records of each kind, and where they stand."""

    counts: dict[str, int]
    metadata: Path
    records: Path


def caption_folder(
    videos: Path,
    out: Path,
    config: CaptionConfig,
    on_record: Callable[[CaptionRecord], None] | None = None,
    engine: JobEngine = HERE,
) -> CaptionSummary:
    """Captions for every video under a folder, written by ``engine``.

    ``out`` becomes a folder that training reads: ``videos/`` (hard links to the clips that have a caption, copies where
    the file system has no links) and ``metadata.jsonl`` (file_name, text); beside them ``records.jsonl`` (a record for
    each video, with the reason where there is no caption), ``asked.jsonl`` (the transcript), and what makes a rerun
    cheap. Raises ConfigError, CheckpointError and MediaError before any work, OutputError where somebody else's file
    stands under one of these names.
    """
    files, odd = find_videos(videos), left_out(videos)
    describer = build(config, out / "cache", out / "asked.jsonl")
    ours = _Ours(out)
    ours.check()
    top = videos if videos.is_dir() else videos.parent
    if engine.is_here:
        clips = (ClipSource(sha256_of(file), partial(load_frames, file)) for file in files)
        records = list(describer.describe(clips, out / "work", on_record=on_record))
    else:
        records = _described_elsewhere(files, out, describer, config, on_record, engine)
    lines, rows = [], []
    for file, record in zip(files, records, strict=True):
        if record.ended == "done":
            name = _shared(file, top, out)
            lines.append({"file_name": name, "text": record.caption, "match": record.match})
        rows.append({"file": file.relative_to(top).as_posix(), **record.model_dump(mode="json")})
    for one in odd:
        why = CaptionRecord(id="", ended="failed", stage="listing", reason=one.reason, detail=one.detail)
        rows.append({"file": one.path, **why.model_dump(mode="json")})
    rows.sort(key=lambda line: line["file"])
    ours.write("metadata.jsonl", lines)
    ours.write("records.jsonl", rows)
    counts = dict(Counter(str(line["ended"]) for line in rows))
    return CaptionSummary(counts, out / "metadata.jsonl", out / "records.jsonl")


def _described_elsewhere(
    files: Sequence[Path],
    out: Path,
    describer: Describer,
    config: CaptionConfig,
    on_record: Callable[[CaptionRecord], None] | None,
    engine: JobEngine,
) -> list[CaptionRecord]:
    """A record for each file: those that are there, the others by workers that each load the captioner once.

    Raises ConfigError for settings that ask a server: its pace and its log belong to one process.
    """
    if config.ask is not None:
        raise ConfigError(
            f"engine {engine.kind}: a server is asked by one process; leave it out, or leave out ask"
        )
    digests = {file: sha256_of(file) for file in files}
    records = {digest: describer.kept(out / "work", digest) for digest in digests.values()}
    for known in records.values():
        if known is not None and on_record is not None:
            on_record(known)
    missing = {digests[file]: file for file in reversed(files) if records[digests[file]] is None}
    jobs = [
        CostedJob({"id": digest, "file": str(file.absolute())}, file.stat().st_size)
        for digest, file in missing.items()
    ]
    spec = WorkerSpec(
        target=f"{__name__}:CaptionWorker",
        config={"config": config.model_dump(mode="json"), "work": str((out / "work").absolute())},
        shared=out / "work",
        device="cpu",
    )
    for outcome in engine.run(jobs, spec):
        digest = outcome.job["id"]
        if outcome.error:  # nothing is kept of it: the next run tries it again
            record = CaptionRecord(
                id=digest, ended="failed", stage="worker", reason=outcome.error, detail=outcome.detail
            )
        else:
            record = CaptionRecord.parse(dict(outcome.answer))
        records[digest] = record
        if on_record is not None:
            on_record(record)
    return [one for file in files if (one := records[digests[file]]) is not None]


class CaptionWorker:
    """Describes videos in a process of its own; the captioner is loaded once."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.describer, self.work = build(CaptionConfig.parse(config["config"])), Path(config["work"])

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """The record of one video, which is kept in the work folder too."""
        clip = ClipSource(job["id"], partial(load_frames, Path(job["file"])))
        (record,) = self.describer.describe([clip], self.work)
        return record.model_dump(mode="json")


def find_videos(path: Path) -> list[Path]:
    """The videos under a folder in the order of their names, or one file; what cannot be taken is left out with a
    warning. Raises MediaError when there are none."""
    if path.is_file():
        return [path]
    found = [path / one.path for one in list_videos(path)] if path.is_dir() else []
    if not found:
        raise MediaError(f"{path}: holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}); check the path")
    return found


def left_out(path: Path) -> list[LeftOut]:
    """Videos and folders under a folder that cannot be taken."""
    return [one for one in walk_videos(path) if isinstance(one, LeftOut)] if path.is_dir() else []


def _shared(file: Path, top: Path, out: Path) -> str:
    """The name of a clip in ``out``, where a link to it or a copy stands now. Raises OutputError."""
    if lies_in(file, out):
        return Path(os.path.relpath(file.resolve(), out.resolve())).as_posix()
    name = Path("videos", file.relative_to(top))
    target = out / name
    if os.path.lexists(target):
        same = os.path.samefile(file, target) or sha256_of(file) == sha256_of(target)
        if target.is_symlink() or not same:
            raise OutputError(f"{target}: another file stands there; choose another --out, or move it away")
        return name.as_posix()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:  # another file system, or one without links
        with atomic_file(target, overwrite=True) as temporary:
            shutil.copyfile(file, temporary)
    return name.as_posix()


class _Ours:
    """The two tables in a folder of captions: one that stands there with bytes we did not write is not replaced."""

    def __init__(self, out: Path) -> None:
        self.out, self.list = out, out / "work" / "made.txt"

    def known(self) -> list[str]:
        """Digests of what was written here, the newest last."""
        return read_small_text(self.list, root=self.out).split() if self.list.exists() else []

    def check(self) -> None:
        """Raises OutputError."""
        known = self.known()
        for file in (self.out / "metadata.jsonl", self.out / "records.jsonl"):
            plain = file.is_file() and not file.is_symlink()
            if os.path.lexists(file) and not (plain and sha256_of(file) in known):
                why = "not as caption wrote it, so it is not replaced"
                raise OutputError(f"{file}: {why}; choose another --out, or move it away")

    def write(self, name: str, lines: Sequence[dict]) -> None:
        """Replace a table. Raises OutputError."""
        self.check()
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        known = self.known()
        if digest not in known:
            write_text(self.list, "\n".join([*known[-63:], digest]) + "\n")
        write_text(self.out / name, text)


def load_frames(file: Path) -> ClipFrames:
    """Frames of a video at most 8 a second, no side over 768 pixels. Raises MediaError."""
    own = probe(file).fps
    video = read_video(file, fps=RATE if own > RATE else None)
    tall, wide = video.frames.shape[1:3]
    frames = video.frames
    if max(tall, wide) > LONGEST_SIDE:
        scale = LONGEST_SIDE / max(tall, wide)
        size, box = (max(1, round(wide * scale)), max(1, round(tall * scale))), Pillow.Resampling.BOX
        frames = np.stack([np.asarray(Pillow.fromarray(f).resize(size, box)) for f in frames])
    return ClipFrames(sha256_of(file), frames, tuple(round(i / video.fps, 4) for i in range(len(frames))))

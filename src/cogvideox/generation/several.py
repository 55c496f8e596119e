"""The same request with several seeds: the model is loaded once, each video is kept as soon as it is made.

``rain.mp4`` becomes ``rain-1.mp4``, ``rain-2.mp4``, ... and ``rain-sheet.png``, one row of frames for each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cogvideox.errors import ConfigError
from cogvideox.files.atomic import atomic_file
from cogvideox.generation.job import Job, Prepared, make
from cogvideox.generation.options import draw_seed
from cogvideox.generation.record import Generation
from cogvideox.generation.video_files import SavedVideo, check_free, save, target
from cogvideox.manifest import AI_MADE, LABEL
from cogvideox.model import CogVideoX
from cogvideox.parallel.mesh import is_main_process
from cogvideox.progress import SILENT, Reporter
from cogvideox.video import check_output
from cogvideox.video.saving import write_png
from cogvideox.video.sheet import contact_sheet

COLUMNS = 8
MOST = 100
"""More videos than this are a batch, or a mistake."""


@dataclass(frozen=True)
class SeveralFiles:
    """Where the videos of one request go, and the contact sheet of all."""

    videos: tuple[Path, ...]
    sheet: Path

    @classmethod
    def of(cls, out: str | None, count: int, job: Job) -> SeveralFiles:
        """The files for so many videos, checked; ``out`` None: the first free of video-1.mp4, video-2-1.mp4, ...

        Raises ConfigError for a count that is none, OutputError for files that cannot be written.
        """
        if not 1 <= count <= MOST:
            raise ConfigError(f"count {count}: choose 1 to {MOST}")
        path, number = Path("video.mp4" if out is None else out), 1
        files = cls._named(path, count)
        while out is None and any(os.path.lexists(each) for each in (*files.videos, files.sheet)):
            number += 1
            files = cls._named(Path(f"video-{number}.mp4"), count)
        for video in files.videos:
            target(str(video), job)
        check_output(files.sheet, job.overwrite)
        if job.overwrite:
            check_free(files.sheet)
        return files

    @classmethod
    def _named(cls, path: Path, count: int) -> SeveralFiles:
        names = tuple(path.with_name(f"{path.stem}-{number + 1}{path.suffix}") for number in range(count))
        return cls(names, path.with_name(f"{path.stem}-sheet.png"))


def make_several(
    model: CogVideoX, prepared: Prepared, files: SeveralFiles, reporter: Reporter = SILENT
) -> Iterator[SavedVideo]:
    """Make and save one video after the other, with the seed of the request and those that follow it.

    Without a seed the first one is drawn. After each video the contact sheet holds all so far: a run that is
    interrupted keeps them. Raises OutputError.
    """
    options, job = prepared.plan.options, prepared.job
    first = draw_seed() if options.seed is None else options.seed
    strips: list[_Strip] = []
    for number, path in enumerate(files.videos):
        plan = replace(prepared.plan, options=options.changed(seed=first + number))
        title = f"{number + 1} of {len(files.videos)}: {options.prompt[:32] or path.name}"
        generation = make(model, replace(prepared, plan=plan), title, reporter, path)
        if is_main_process():
            saved = save(generation.video, path, job, reporter=reporter)
            strips.append(_Strip.of(generation, path))
            _write_sheet(strips, files.sheet, overwrite=job.overwrite or number > 0)
            yield SavedVideo.of(generation, saved)


@dataclass(frozen=True)
class _Strip:
    """The frames of a video that the sheet shows, and what stands under them."""

    frames: np.ndarray
    caption: str

    @classmethod
    def of(cls, generation: Generation, path: Path) -> _Strip:
        frames = generation.video.frames
        shown = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
        return cls(frames[shown], f"{path.name}, seed {generation.record.seed}")


def _write_sheet(strips: list[_Strip], path: Path, overwrite: bool) -> None:
    sheet = contact_sheet(strips, [strip.caption for strip in strips], columns=COLUMNS)
    with atomic_file(path, overwrite) as temporary:
        write_png(temporary, sheet, {"Comment": json.dumps({LABEL: AI_MADE})})

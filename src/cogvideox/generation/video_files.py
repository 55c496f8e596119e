"""The files of one request: the video, its record and previews; never over what this program did not make."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import OutputError
from cogvideox.generation.job import Job
from cogvideox.generation.record import Generation
from cogvideox.progress import SILENT, Reporter
from cogvideox.video import Video, check_output, is_ours, previews_of, sidecar_of, watched_of


@dataclass(frozen=True)
class Saved:
    """Where a video was written, its previews, and the seconds that took."""

    path: Path
    previews: tuple[Path, ...]
    seconds: float


@dataclass(frozen=True)
class SavedVideo:
    """Facts about a video that was made and saved, as plain values: ``video`` describes it, ``seconds`` it took."""

    path: str
    previews: list[str]
    video: str
    size: dict[str, float]
    seed: int | None
    seconds: float
    stages: dict[str, float]

    @classmethod
    def of(cls, generation: Generation, files: Saved) -> SavedVideo:
        """The facts of a video that was written to ``files``."""
        video, record = generation.video, generation.record
        return cls(
            path=str(files.path),
            previews=[str(each) for each in files.previews],
            video=str(video),
            size={"frames": len(video), "height": video.height, "width": video.width, "fps": video.fps},
            seed=record.seed,
            seconds=record.seconds,
            stages={**record.stages, "write": files.seconds},
        )


def save(
    video: Video, path: Path, job: Job, *, overwrite: bool = False, reporter: Reporter = SILENT
) -> Saved:
    """Write a video, its record and previews; ``overwrite``: whatever the job says. Raises OutputError."""
    overwrite, began = overwrite or job.overwrite, time.monotonic()
    with reporter.progress(f"writing {path.name}") as report:
        report(f"writing {path.name}", 0, 1)
        video.save(path, overwrite, job.metadata)
        previews = video.save_previews(path, overwrite, job.metadata) if job.preview else []
        previews += [watched_of(path)] if job.watch and watched_of(path).exists() else []
    return Saved(path, tuple(previews), time.monotonic() - began)


def target(out: str | None, job: Job) -> Path:
    """The file to write, checked; ``out`` None: the first free of video.mp4, video-2.mp4, ... Raises OutputError."""
    path, number = Path("video.mp4" if out is None else out), 1
    while out is None and any(os.path.lexists(each) for each in (path, sidecar_of(path), *previews_of(path))):
        number += 1
        path = Path(f"video-{number}.mp4")
    check_output(path, job.overwrite, sidecar=job.metadata)
    for preview in previews_of(path) if job.preview else ():
        check_output(preview, job.overwrite)
    check_beside(path, job)
    return path


def check_beside(path: Path, job: Job) -> None:
    """Raises OutputError where the record or a preview of a video would replace a file that is not ours."""
    sidecars, previews = [sidecar_of(path)] if job.metadata else [], previews_of(path) if job.preview else []
    previews += [watched_of(path)] if job.watch else []
    for file in (*sidecars, *previews):
        check_free(file)


def check_free(file: Path) -> None:
    """Raises OutputError when something stands there that this program did not make."""
    if os.path.lexists(file) and not is_ours(file):
        raise OutputError(
            f"{file}: exists already and was not made here; choose another name, or move it away"
        )

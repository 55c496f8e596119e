"""The pipeline: measure every video, choose among all clips, cut out what is kept. What is finished is not done again.

The work folder has a record per video, written whole or not at all, that says that the video is done. A run that is
killed at any moment and started again ends with the same bytes as one that was not, whatever the engine and however
many workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cogvideox.clip import Clip, SourceFile
from cogvideox.clip_folders.video_files import LeftOut, VideoFile, list_videos, walk_videos
from cogvideox.curation.engines import CurationEngine, JobOutcome
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.table import ClipTable
from cogvideox.curation.thresholds import Thresholds
from cogvideox.curation.work_folder import (
    clip_folder,
    cut_file,
    measured_file,
    read_record,
    strip_file,
    write_cut,
    write_measured,
)
from cogvideox.curation.worker import FAILED, WorkerConfig
from cogvideox.errors import OutputError
from cogvideox.files.lock import folder_lock

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The default of ``progress``: shows nothing."""


@dataclass(frozen=True)
class Pipeline:
    """One folder of videos, one folder of work, one recipe, one engine."""

    root: Path
    work: Path
    recipe: Recipe
    engine: CurationEngine
    progress: Progress = silent

    @property
    def worker_config(self) -> WorkerConfig:
        """What all jobs have in common."""
        return WorkerConfig(
            root=str(self.root.absolute()), work=str(self.work.absolute()), recipe=self.recipe
        )

    def measure(self) -> int:
        """Header gate, shots and steps of each video that is new or changed; returns how many videos that were."""
        total = sum(1 for _ in list_videos(self.root))
        waiting = (one for one in list_videos(self.root) if not self._is_measured(one))
        jobs = ({"do": "measure", **asdict(one)} for one in waiting)
        done = 0
        for outcome in self.engine.run(jobs, self.worker_config):
            if outcome.error:
                self._give_up(outcome)
            done += 1
            self.progress("measuring", done, total)
        return done

    def clips(self) -> Iterator[Clip]:
        """Every clip of every video, in order, as measured; what the listing left out is a dropped clip, too."""
        for one in walk_videos(self.root):
            if isinstance(one, LeftOut):
                yield Clip(source=SourceFile(path=one.path)).drop("listing", one.reason, one.detail)
                continue
            record = read_record(measured_file(self.work, one.path))
            if record is None:
                continue  # came while we ran: the next run's
            for values in record["clips"]:
                yield Clip.model_validate(values)

    def choose(self) -> Chosen:
        """Apply the choices in order to all clips together; memory holds numbers only."""
        vectors = any(choice.kind == "look_alikes" for choice in self.recipe.choices)
        table = ClipTable(self.clips(), vectors)
        fitted = []
        for done, choice in enumerate(self.recipe.choices, 1):
            self.progress("choosing", done - 1, len(self.recipe.choices))
            if isinstance(choice, Thresholds):
                choice = choice.fitted(table)
                fitted.append(choice)
            choice.choose(table)
        return Chosen(self, table, tuple(fitted))

    def cut(self, videos: Iterator[tuple[str, list[Clip]]], each: Callable[[str], None], total: int) -> None:
        """Cut out the clips of videos, given as (path, clips); ``each(path)`` is called when one is ready. ``total``:
        clips in all, for the progress."""
        counts: dict[str, int] = {}
        done = 0

        def ready(path: str) -> None:
            nonlocal done
            done += counts.pop(path)
            self.progress("cutting", done, total)
            each(path)

        def jobs() -> Iterator[dict[str, Any]]:
            for path, clips in videos:
                counts[path] = len(clips)
                job = {"do": "cut", "path": path, "clips": as_values(clips)}
                if self._is_cut(job):
                    ready(path)
                else:
                    yield job

        for outcome in self.engine.run(jobs(), self.worker_config):
            if outcome.error:
                why = f"{outcome.error}: {outcome.detail}"
                write_cut(self.work, outcome.job, self.recipe, {}, why)
            ready(outcome.job["path"])

    def cut_result(self, path: str) -> tuple[dict[str, dict[str, Any]], str]:
        """id -> Media as plain values for the clips of a video, and why there are none."""
        record = read_record(cut_file(self.work, path))
        return (record["made"], record["failed"]) if record else ({}, "not cut")

    def clip_file(self, clip: Clip) -> Path:
        """Where the file of a clip lies until it is packed."""
        return clip_folder(self.work, clip.source.path) / f"{clip.id}.mp4"

    def remove_cut_files(self, path: str, clips: list[Clip]) -> None:
        """Remove the cut clips of a video once they are packed, and their record."""
        for clip in clips:
            self.clip_file(clip).unlink(missing_ok=True)
        cut_file(self.work, path).unlink(missing_ok=True)

    def strips(self, clips: list[Clip]) -> None:
        """Make the strips of clips that can be seen and have none yet."""
        videos: dict[str, list[Clip]] = {}
        for clip in clips:
            if clip.span is not None and not strip_file(self.work, clip.id).exists():
                videos.setdefault(clip.source.path, []).append(clip)
        jobs = ({"do": "strip", "path": path, "clips": as_values(some)} for path, some in videos.items())
        for done, _ in enumerate(self.engine.run(jobs, self.worker_config), 1):
            self.progress("pictures for the report", done, len(videos))
        # a video that can no longer be read has no strip; the page says so

    def _is_measured(self, one: VideoFile) -> bool:
        record = read_record(measured_file(self.work, one.path))
        if record is None or any((clip["dropped"] or {}).get("reason") == FAILED for clip in record["clips"]):
            return False  # a step failed: that is our fault, not the video's, and may be mended by now
        key = (record["size"], record["changed"], record.get("beside", ""), record["recipe"])
        return key == (one.size, one.changed, one.beside, self.recipe.measuring())

    def _is_cut(self, job: dict[str, Any]) -> bool:
        record = read_record(cut_file(self.work, job["path"]))
        if record is None or record["cut"] != self.recipe.cut() or record["failed"]:
            return False
        wanted = {one["id"] for one in job["clips"]}
        folder = clip_folder(self.work, job["path"])
        return wanted <= set(record["made"]) and all((folder / f"{name}.mp4").exists() for name in wanted)

    def _give_up(self, outcome: JobOutcome) -> None:
        """A video that no worker survives becomes one dropped clip; it is not read again, not even for its hash."""
        clip = Clip(source=SourceFile(path=outcome.job["path"], bytes=outcome.job["size"]))
        clip = clip.drop("decode", outcome.error, outcome.detail)
        write_measured(self.work, outcome.job, self.recipe, [clip])


@dataclass(frozen=True)
class Chosen:
    """What was decided about every clip, in the order of the clips."""

    pipeline: Pipeline
    table: ClipTable
    thresholds: tuple[Thresholds, ...]

    def clips(self) -> Iterator[Clip]:
        """Every clip again, with its decisions, and dropped where a choice dropped it."""
        for row, clip in enumerate(self.pipeline.clips()):
            if clip.dropped is None:
                decisions = tuple(
                    stage.decide(clip.scores) for fitted in self.thresholds for stage in fitted.stages
                )
                clip = clip.model_copy(update={"decisions": decisions, "dropped": self.table.dropped(row)})
            yield clip


def as_values(clips: list[Clip]) -> list[dict[str, Any]]:
    """Clips as they travel to workers: facts only."""
    bare = [clip.model_copy(update={"embedding": (), "prints": ()}) for clip in clips]
    return [{"id": clip.id, "clip": clip.model_dump(mode="json")} for clip in bare]


only_one = partial(
    folder_lock, busy="another run works here", cure="choose another folder", error=OutputError
)
"""Hold a folder for one run, which lets go of it however it dies. Raises OutputError when another run has it."""

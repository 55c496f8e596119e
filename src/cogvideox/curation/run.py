"""From a folder of raw videos to training data: gate, shots, steps, choices, captions, shards; no clip without a fate.

``out`` holds ``shards/`` (or ``videos/`` and ``metadata.jsonl``), ``clips.parquet``, ``dropped.jsonl``,
``recipe.yaml``, ``summary.json`` (written last) and ``report.html``. ``out/work`` holds records of what is finished:
with it a rerun does only what is left; without it everything is done again, to the same bytes. ``out/.curate`` lists
what was made there (``outputs``): nothing else is ever replaced or removed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from cogvideox.clip import Clip
from cogvideox.clip_folders.video_files import list_videos
from cogvideox.curation.captions import read_captions, with_captions
from cogvideox.curation.engines import CurationEngine, LocalEngine
from cogvideox.curation.outputs import OutputList
from cogvideox.curation.pipeline import Chosen, Pipeline, Progress, only_one, silent
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.report import SAMPLES, write_report
from cogvideox.curation.shards import clip_table, folder_row, write_tar
from cogvideox.curation.thresholds import quantiles
from cogvideox.curation.work_folder import read_record, shard_file, write_record
from cogvideox.errors import ConfigError, InputError
from cogvideox.files.atomic import sweep
from cogvideox.files.jsonl import json_lines_writer
from cogvideox.files.paths import VIDEO_SUFFIXES, lies_in
from cogvideox.manifest import versions


@dataclass
class Shard:
    """Clips that are packed together: all kept clips of some videos that follow each other."""

    number: int
    clips: list[Clip] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Name of the tar file."""
        return f"clips-{self.number:05d}.tar"

    def videos(self) -> dict[str, list[Clip]]:
        """Its clips by the path of their video."""
        clips: dict[str, list[Clip]] = {}
        for clip in self.clips:
            clips.setdefault(clip.source.path, []).append(clip)
        return clips

    def digest(self, recipe: Recipe) -> str:
        """What the shard will hold, as 32 hex digits."""
        digest = hashlib.sha256(f"{recipe.cut()} {recipe.layout}".encode())
        for clip in self.clips:
            digest.update(clip.model_dump_json().encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:32]


def curate(
    folder: str | Path,
    out: str | Path,
    recipe: Recipe,
    engine: CurationEngine | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Curate ``folder`` into ``out``; returns the summary. Running it again does only what is left or has changed.

    Raises InputError for a folder that is missing or holds no video (a disk that is not mounted?), ConfigError when
    one of the folders lies inside the other, CheckpointError for weights that cannot be used, OutputError when the
    disk is full, another run holds ``out``, or files of others stand where ours belong.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of videos")
    check_apart(folder, out)
    if next(list_videos(folder), None) is None:
        raise InputError(f"{folder}: holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}); check the path")
    recipe.check()
    OutputList(out).check()
    with only_one(out):
        return _Curation(Pipeline(folder, out / "work", recipe, engine or LocalEngine(), progress), out).run()


def check_apart(folder: str | Path, out: str | Path) -> None:
    """Raises ConfigError when raw videos and the folder of the result lie in each other, by whatever names."""
    if lies_in(out, folder):
        why = "so its clips would be curated next time; choose another"
        raise ConfigError(f"out {out}: lies inside {folder}, {why}")
    if lies_in(folder, out):
        why = "where curate writes and removes files; choose another out"
        raise ConfigError(f"{folder}: lies inside out {out}, {why}")


@dataclass
class _Curation:
    """One run of ``curate``: a pipeline over the videos, and the folder its results go to."""

    pipeline: Pipeline
    out: Path

    def __post_init__(self) -> None:
        self.outputs = OutputList(self.out)
        self.captions = read_captions(self.out)

    def run(self) -> dict[str, Any]:
        recipe = self.pipeline.recipe
        self.out.mkdir(parents=True, exist_ok=True)
        sweep(self.out, below=True)
        self.outputs.check()
        self.write("recipe.yaml", recipe.to_yaml())
        self.pipeline.measure()  # gate, shots, steps: a record for each video
        chosen = self.pipeline.choose()
        count = self.pack(chosen)  # cut out, with the captions written since, into shards
        self.remove_stale(count)
        summary = self.write_tables(chosen)
        write_report(self.out, self.outputs)
        self.outputs.compact()
        self.outputs.warn_of_foreign_files()
        return summary

    def write(self, name: str, text: str) -> None:
        """A small file of the result."""
        with self.outputs.writing(name) as draft:
            draft.write_text(text, encoding="utf-8")

    def numbered(self, chosen: Chosen) -> Iterator[tuple[int, Clip]]:
        """Every clip in order with the number of its shard, -1 for a dropped one; shards end where a video ends."""
        number, size, path = 0, 0, ""
        for clip in chosen.clips():
            if clip.dropped is not None:
                yield -1, clip
                continue
            if size >= self.pipeline.recipe.per_shard and clip.source.path != path:
                number, size = number + 1, 0
            size, path = size + 1, clip.source.path
            yield number, clip

    def shards(self, chosen: Chosen) -> Iterator[Shard]:
        """Kept clips in order, in their shards."""
        kept = (each for each in self.numbered(chosen) if each[0] >= 0)
        for number, clips in groupby(kept, key=itemgetter(0)):
            yield Shard(number, [clip for _, clip in clips])

    def pack(self, chosen: Chosen) -> int:
        """Cut and pack every shard that is not there yet; returns how many shards there are."""
        owner: dict[str, Shard] = {}
        count = 0

        def videos() -> Iterator[tuple[str, list[Clip]]]:
            nonlocal count
            for shard in self.shards(chosen):
                count += 1
                if self.is_packed(shard):
                    continue
                cuts = shard.videos()
                shard.waiting = set(cuts)
                owner.update(dict.fromkeys(cuts, shard))
                yield from cuts.items()

        def ready(path: str) -> None:
            shard = owner.pop(path)
            shard.waiting.discard(path)
            if not shard.waiting:
                self.pack_one(shard)

        waiting = sum(len(shard.clips) for shard in self.shards(chosen) if not self.is_packed(shard))
        self.pipeline.cut(videos(), ready, waiting)
        return count

    def pack_one(self, shard: Shard) -> None:
        """Write a shard, then its record, then remove the cut files it was made from."""
        media: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for path, clips in shard.videos().items():
            cut, why = self.pipeline.cut_result(path)
            media |= {clip.id: cut[clip.id] for clip in clips if clip.id in cut}
            failed |= {clip.id: why for clip in clips if clip.id not in cut}
        kept = [(clip, self.pipeline.clip_file(clip)) for clip in shard.clips if clip.id in media]
        if self.pipeline.recipe.layout == "webdataset":
            rows = ((self.with_written_captions(clip), file, media[clip.id]) for clip, file in kept)
            with self.outputs.writing(f"shards/{shard.name}") as draft:
                write_tar(draft, rows)
        else:
            for clip, file in kept:
                with self.outputs.writing(f"videos/{clip.id}.mp4") as draft:
                    shutil.copyfile(file, draft)
        record = {"digest": shard.digest(self.pipeline.recipe), "media": media, "failed": failed}
        write_record(shard_file(self.pipeline.work, shard.number), record)
        for path, clips in shard.videos().items():
            self.pipeline.remove_cut_files(path, clips)

    def shard_record(self, number: int) -> dict[str, Any]:
        """What a shard holds: a digest, facts about the files by clip, why clips are missing; empty without one."""
        record = read_record(shard_file(self.pipeline.work, number))
        return record or {"digest": "", "media": {}, "failed": {}}

    def is_packed(self, shard: Shard) -> bool:
        """Whether the shard stands as we wrote it, with these very clips."""
        record = self.shard_record(shard.number)
        if record["failed"] or record["digest"] != shard.digest(self.pipeline.recipe):
            return False
        if self.pipeline.recipe.layout == "webdataset":
            return f"shards/{shard.name}" in self.outputs
        return all(f"videos/{clip.id}.mp4" in self.outputs for clip in shard.clips)

    def remove_stale(self, count: int) -> None:
        """Remove shards of an earlier, larger result, and what another layout left; nothing that is not on our list."""
        wanted: set[str] = set()
        folder = self.pipeline.recipe.layout == "videofolder"
        for file in sorted((self.pipeline.work / "packed").glob("*.json")):
            if not re.fullmatch(r"\d{5,9}", file.stem):
                continue
            if int(file.stem) >= count:
                file.unlink()
            elif folder:
                wanted |= {f"videos/{name}.mp4" for name in self.shard_record(int(file.stem))["media"]}
        if not folder:
            wanted = {f"shards/{Shard(number).name}" for number in range(count)}
            self.outputs.remove("metadata.jsonl")
        self.outputs.remove_unwanted(wanted.__contains__)

    def final_clips(self, chosen: Chosen) -> Iterator[tuple[Clip, dict[str, Any], str]]:
        """(clip, facts about its file, shard) for every clip in order; what could not be cut out is dropped here."""
        current, record = -1, self.shard_record(0)
        for number, clip in self.numbered(chosen):
            if number > current:
                current, record = number, self.shard_record(number)
            if clip.dropped is not None:
                yield clip, {}, ""
            elif clip.id in record["media"]:
                yield self.with_written_captions(clip), record["media"][clip.id], Shard(number).name
            else:
                yield clip.drop("cut", "cannot be cut", record["failed"].get(clip.id, "not packed")), {}, ""

    def with_written_captions(self, clip: Clip) -> Clip:
        """The clip with what ``cogvideox caption`` has written about it."""
        return with_captions(clip, self.captions.get(clip.id, ()))

    def write_tables(self, chosen: Chosen) -> dict[str, Any]:
        """Write the tables of kept and dropped clips and the summary."""
        recipe, outputs, tally = self.pipeline.recipe, self.outputs, _Tally()
        about = {"recipe": recipe.to_yaml(), "versions": json.dumps(versions(), sort_keys=True)}
        folder = recipe.layout == "videofolder"
        with (
            outputs.writing("clips.parquet") as table,
            outputs.writing("dropped.jsonl") as dropped,
            outputs.writing("metadata.jsonl") if folder else nullcontext() as rows,
            clip_table(table, chosen.table.names, about) as keep,
            json_lines_writer(dropped) as drop,
            json_lines_writer(rows) if rows else nullcontext() as add_row,
        ):
            for number, (clip, media, shard) in enumerate(self.final_clips(chosen)):
                if number % 256 == 0:
                    self.pipeline.progress("writing tables", number, len(chosen.table))
                tally.add(clip, media)
                if clip.dropped is None:
                    keep(clip, media, "" if folder else shard)
                    if add_row is not None:
                        add_row(folder_row(clip, media))
                else:
                    drop({"id": clip.id, **clip.model_dump(mode="json", exclude={"embedding"})})
        self.pipeline.strips([clip for group in tally.samples.values() for clip in group])
        summary = tally.summary() | {
            "recipe": recipe.name,
            "thresholds": [fitted.model_dump(mode="json") for fitted in chosen.thresholds],
            "quantiles": quantiles(chosen.table),
            "versions": versions(),
        }
        self.write("summary.json", json.dumps(summary, indent=1))
        return summary


class _Tally:
    """Counts, and the first clips of every fate for people to look at."""

    def __init__(self) -> None:
        self.videos: set[bytes] = set()
        self.fates: Counter[tuple[str, str]] = Counter()
        self.stages: Counter[str] = Counter()
        self.samples: dict[tuple[str, str], list[Clip]] = {}
        self.seconds = self.kept_seconds = 0.0
        self.bytes = self.copied = 0

    def add(self, clip: Clip, media: dict[str, Any]) -> None:
        self.videos.add(
            hashlib.blake2b(clip.source.path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        )
        fate = (clip.dropped.step, clip.dropped.reason) if clip.dropped else ("", "")
        self.fates[fate] += 1
        samples = self.samples.setdefault(fate, [])
        if len(samples) < SAMPLES:
            samples.append(clip)
        seconds = clip.span.seconds if clip.span else 0.0
        self.seconds += seconds
        if clip.dropped is None:
            self.stages.update(decision.stage for decision in clip.decisions if decision.kept)
            self.kept_seconds += seconds
            self.bytes += media["bytes"]
            self.copied += media["copied"]

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        fates = sorted(self.fates.items())
        return {
            "films": len(self.videos),
            "clips": sum(self.fates.values()),
            "kept": self.fates.get(("", ""), 0),
            "seconds": round(self.seconds, 3),
            "kept_seconds": round(self.kept_seconds, 3),
            "kept_bytes": self.bytes,
            "copied": self.copied,
            "stages": dict(sorted(self.stages.items())),
            "dropped": [{"step": s, "reason": why, "clips": count} for (s, why), count in fates if s],
            "samples": {
                "|".join(fate): [c.id for c in clips] for fate, clips in sorted(self.samples.items())
            },
        }

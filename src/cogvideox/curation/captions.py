"""Captions of curated clips, written into the shards or the folder of videos that curation outputs.

``captions.jsonl`` keeps what was written, so that a later ``curate`` packs it again; then each shard is written anew,
whole or not at all, and the tables. Stopped in between, the same command goes on; nothing is asked twice.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cogvideox.captioning.describe import CaptionRecord, ClipSource
from cogvideox.captioning.folder import CaptionSummary, load_frames
from cogvideox.captioning.stages import ClipFrames
from cogvideox.captioning.strategy import CaptionConfig, build
from cogvideox.clip import Caption, Clip
from cogvideox.clip_folders.archives import ByteRange
from cogvideox.curation.outputs import HOME, SHARD, OutputList
from cogvideox.curation.pipeline import Progress, only_one, silent
from cogvideox.curation.report import write_report
from cogvideox.curation.shards import folder_row, write_tar
from cogvideox.errors import InputError, MediaError, OutputError
from cogvideox.files import parse_json
from cogvideox.files.jsonl import compact_json, json_lines_writer, read_json_lines

FILE = "captions.jsonl"
OWN = "user"  # the kind of a caption that somebody wrote beside a video

Kept = tuple[Clip, Mapping[str, Any], ByteRange]
"""A clip, facts about its file, where its bytes are."""


def is_curated(folder: Path) -> bool:
    """Whether curation made this folder."""
    return (folder / HOME / "made.jsonl").is_file() and (folder / "clips.parquet").is_file()


def kept_clips(out: Path, outputs: OutputList) -> Iterator[Kept]:
    """The clips that curation kept, from the shards and the table it made; dropped ones are not among them.

    Raises InputError for a shard or table that cannot be read.
    """
    if "metadata.jsonl" in outputs:
        for where, values in read_json_lines(out / "metadata.jsonl", root=out):
            clip, media = _clip(values, where)
            yield clip, media, ByteRange(out / "videos" / f"{clip.id}.mp4")
    for name in sorted(outputs.known):
        if SHARD.fullmatch(name) and name in outputs:
            yield from _members(out / name)


def _members(shard: Path) -> Iterator[Kept]:
    videos: dict[str, ByteRange] = {}
    records: dict[str, Any] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if ending == "mp4":
                    videos[key] = ByteRange(
                        shard, member.offset_data, member.size, suffix=".mp4", member=member.name
                    )
                elif ending == "json" and (stream := tar.extractfile(member)):
                    text = stream.read(1 << 20).decode("utf-8", "replace")
                    records[key] = parse_json(text, f"{shard}: {member.name}", error=InputError)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{shard}: damaged ({' '.join(str(error).split())[:120]}); curate again") from None
    for key, values in records.items():
        if key in videos:
            yield (*_clip(values, f"{shard}: {key}.json"), videos[key])


def _clip(values: Any, where: str) -> tuple[Clip, Mapping[str, Any]]:
    if not isinstance(values, dict) or not isinstance(values.get("media"), dict):
        raise InputError(f"{where}: not a record of curate; curate again")
    facts = {name: values[name] for name in Clip.model_fields if name in values}
    return Clip.parse(facts, where), values["media"]


def with_captions(clip: Clip, captions: Iterable[Caption]) -> Clip:
    """The clip with these captions after its author's own; those of an earlier captioning go."""
    new = tuple(captions)
    if not new:
        return clip
    return clip.model_copy(update={"captions": (*(one for one in clip.captions if one.kind == OWN), *new)})


def read_captions(out: Path) -> dict[str, tuple[Caption, ...]]:
    """What was written about the clips of a curated folder, by id; nothing where nobody captioned it."""
    file = out / FILE
    if not file.exists():
        return {}
    captions = {}
    for where, values in read_json_lines(file, root=out):
        if not isinstance(values, dict) or not isinstance(values.get("captions"), list):
            raise InputError(f"{where}: not a line that caption wrote; remove the file, and caption again")
        captions[str(values.get("id"))] = tuple(Caption.parse(one, where) for one in values["captions"])
    return captions


def to_caption(out: Path) -> tuple[int, int, int]:
    """(clips to describe, clips that have their author's caption and keep it, files that are written anew)."""
    outputs = OutputList(out)
    clips = [clip for clip, _, _ in kept_clips(out, outputs)]
    own = sum(_has_own(clip) for clip in clips)
    return len(clips) - own, own, sum(bool(SHARD.fullmatch(name)) for name in outputs.known) or 1


def caption_curated(
    out: Path,
    config: CaptionConfig,
    on_record: Callable[[CaptionRecord], None] | None = None,
    progress: Progress = silent,
) -> CaptionSummary:
    """Describe the kept clips of a curated folder and write the captions into it. A clip whose author wrote a text
    beside the video keeps that.

    Raises ConfigError and CheckpointError before any work, InputError for a damaged shard, OutputError where a file is
    not as curate wrote it, another run works there or the disk is full.
    """
    with only_one(out):
        outputs = OutputList(out)
        outputs.check()
        work = out / "work" / "captions"
        describer = build(config, work / "cache", work / "asked.jsonl")
        clips = [one for one in kept_clips(out, outputs) if not _has_own(one[0])]
        sources = (ClipSource(media["sha256"], partial(_load, media["sha256"], at)) for _, media, at in clips)
        records = list(describer.describe(sources, work / "records", on_record=on_record))
        described = [(clip, record) for (clip, _, _), record in zip(clips, records, strict=True)]
        record_file = work / "records.jsonl"
        with json_lines_writer(record_file) as add_line:
            for clip, record in described:
                add_line({"clip": clip.id, "file": clip.source.path, **record.model_dump(mode="json")})
        new = {clip.id: record.clip_captions() for clip, record in described if record.ended == "done"}
        _write(out, outputs, read_captions(out) | new, progress)
        target = out / ("metadata.jsonl" if "metadata.jsonl" in outputs else "shards")
        return CaptionSummary(dict(Counter(record.ended for record in records)), target, record_file)


def _has_own(clip: Clip) -> bool:
    return any(one.kind == OWN for one in clip.captions)


def _load(digest: str, location: ByteRange) -> ClipFrames:
    with location.local() as file:
        frames = load_frames(file)
    if frames.id != digest:
        raise MediaError(f"{location.label}: not the clip that curate wrote; curate again")
    return frames


def _write(
    out: Path, outputs: OutputList, written: Mapping[str, tuple[Caption, ...]], progress: Progress
) -> None:
    """Everything that carries captions, each file whole or as it was before."""

    def captioned(clip: Clip) -> Clip:
        return with_captions(clip, written.get(clip.id, ()))

    with outputs.writing(FILE) as draft, json_lines_writer(draft) as add_line:
        for name, captions in sorted(written.items()):
            add_line({"id": name, "captions": [one.model_dump(mode="json") for one in captions]})
    shards = sorted(name for name in outputs.known if SHARD.fullmatch(name) and name in outputs)
    for done, name in enumerate(shards, 1):
        if not outputs.is_ours(name):
            raise OutputError(
                f"{out / name}: not as curate wrote it, so no caption is written into it; curate again"
            )
        with outputs.writing(name) as draft:
            write_tar(draft, ((captioned(c), at.read(), media) for c, media, at in _members(out / name)))
        progress("writing shards", done, len(shards))
    if "metadata.jsonl" in outputs:
        with outputs.writing("metadata.jsonl") as draft, json_lines_writer(draft) as add_line:
            for clip, media, _ in kept_clips(out, outputs):
                add_line(folder_row(captioned(clip), media))
    _write_table(out, outputs, captioned)
    write_report(out, outputs)
    outputs.compact()


def _write_table(out: Path, outputs: OutputList, captioned: Callable[[Clip], Clip]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        pq.ParquetFile(out / "clips.parquet") as table,
        outputs.writing("clips.parquet") as draft,
        pq.ParquetWriter(draft, table.schema_arrow, compression="zstd") as writer,
    ):
        for batch in table.iter_batches(1000):
            rows = batch.to_pylist()
            for row in rows:
                values = parse_json(row["record"], "clips.parquet", error=InputError)
                clip = captioned(_clip(values, "clips.parquet")[0])
                row["caption"] = clip.caption
                values["captions"] = clip.model_dump(mode="json", include={"captions"})["captions"]
                row["record"] = compact_json(values).decode()
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema_arrow))

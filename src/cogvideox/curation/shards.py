"""Shards: clips in tar files that webdataset reads, or in a folder that Hugging Face reads; a Parquet table of all.

Equal clips give equal bytes: no times, no names of machines. A shard is whole or absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogvideox.clip import Clip
from cogvideox.errors import DependencyError
from cogvideox.files.jsonl import compact_json

ROWS = 1000  # of one row group
HEAVY = {"embedding", "prints"}  # of use for comparing clips, not for training: only in the table


def record(clip: Clip, media: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a clip's file: all that is known of it, as plain values."""
    return {"id": clip.id, **clip.model_dump(mode="json", exclude=HEAVY | {"dropped"}), "media": dict(media)}


def write_tar(target: Path, clips: Iterable[tuple[Clip, Path | bytes, Mapping[str, Any]]]) -> None:
    """One shard: for each (clip, its file or bytes, facts about the file) the members <id>.json, <id>.mp4 and <id>.txt.

    Raises DependencyError without webdataset, OutputError when the disk is full.
    """
    try:
        from webdataset import TarWriter
    except ImportError:
        raise DependencyError("webdataset is not installed; install cogvideox[data]") from None
    with target.open("wb") as stream:
        writer = TarWriter(stream, user="", group="", mtime=0, encoder=False)
        for clip, file, media in clips:
            video = file if isinstance(file, bytes) else file.read_bytes()
            sample = {"__key__": clip.id, "mp4": video, "json": compact_json(record(clip, media))}
            if clip.caption:
                sample["txt"] = clip.caption.encode()
            writer.write(sample)
        writer.close()


def folder_row(clip: Clip, media: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metadata.jsonl: what ``datasets.load_dataset("videofolder")`` reads."""
    return {"file_name": f"videos/{clip.id}.mp4", "text": clip.caption, **record(clip, media)}


@contextmanager
def clip_table(target: Path, scores: list[str], about: Mapping[str, str]) -> Iterator[Any]:
    """Yields ``add(clip, media, shard)``, one row of a Parquet file; ``about`` goes into its header.

    scores: the names of all scores, each a column ``score.<name>``. Raises DependencyError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DependencyError("pyarrow is not installed; install cogvideox[data]") from None
    schema = pa.schema(_columns(pa, scores), metadata=dict(about))
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:

        def flush() -> None:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows.clear()

        def add(clip: Clip, media: Mapping[str, Any], shard: str) -> None:
            rows.append(_table_row(clip, media, shard, scores))
            if len(rows) >= ROWS:
                flush()

        yield add
        flush()


def _columns(pa: Any, scores: list[str]) -> list[Any]:
    text, number, real = pa.string(), pa.int64(), pa.float64()
    plain = [
        ("id", text), ("shard", text), ("caption", text), ("stages", pa.list_(text)),
        ("path", text), ("sha256", text), ("first", number), ("stop", number), ("start", real), ("end", real),
        ("media_sha256", text), ("media_bytes", number), ("frames", number), ("fps", text),
        ("width", number), ("height", number), ("copied", pa.bool_()),
        ("prints", pa.list_(text)), ("embedder", text), ("embedding", pa.list_(pa.float32())),
    ]  # fmt: skip
    return [*plain, *((f"score.{name}", real) for name in scores), ("record", text)]


def _table_row(clip: Clip, media: Mapping[str, Any], shard: str, scores: list[str]) -> dict[str, Any]:
    assert clip.span is not None, "kept clips have a span"
    return {
        "id": clip.id,
        "shard": shard,
        "caption": clip.caption,
        "stages": [decision.stage for decision in clip.decisions if decision.kept],
        "path": clip.source.path,
        "sha256": clip.source.sha256,
        **clip.span.model_dump(),
        "media_sha256": media["sha256"],
        "media_bytes": media["bytes"],
        **{name: media[name] for name in ("frames", "fps", "width", "height", "copied")},
        "prints": list(clip.prints),
        "embedder": clip.embedder,
        "embedding": list(clip.embedding),
        **{f"score.{name}": clip.scores.get(name) for name in scores},
        "record": compact_json(record(clip, media)).decode(),
    }

"""Folders of small clips in every layout that training reads."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from cogvideox.video import Video
from cogvideox.world import caption, render, sample_scene

LAYOUTS = ("jsonl", "csv", "lines", "labels", "stems", "tar", "parquet")


def clip(number: int, frames: int = 9, size: int = 32, fps: float = 8) -> tuple[Video, str]:
    """A world clip and its caption."""
    scene = sample_scene(0, number, "train")
    return Video(render(scene, size=size, frames=frames), fps), caption(scene, 0, number)


def write_clips(
    folder: Path, count: int = 3, frames=(9,), size: int = 32, images: int = 0
) -> list[tuple[Path, str]]:
    """Files and captions, without a layout; ``frames`` are taken in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        video, text = clip(number, frames[number % len(frames)], size)
        made.append((video.save(folder / f"clip{number}.mp4"), text))
    for number in range(images):
        video, text = clip(100 + number, 1, size)
        Image.fromarray(video.frames[0]).save(folder / f"still{number}.png")
        made.append((folder / f"still{number}.png", text))
    return made


def write_layout(root: Path, layout: str, **settings) -> list[tuple[str, str]]:
    """A folder in one layout; returns (last part of the name, caption) in order of names."""
    place = root / (
        "videos" if layout in ("labels", "lines") else "clips" if layout in ("jsonl", "csv") else ""
    )
    place = root.parent / f"{root.name}-source" if layout in ("tar", "parquet") else place
    made = write_clips(place, **settings)
    root.mkdir(parents=True, exist_ok=True)
    LAYOUT_WRITERS[layout](root, made)
    return sorted((file.name, text) for file, text in made)


def _jsonl(root: Path, made) -> None:
    rows = [{"file_name": f"clips/{file.name}", "text": text} for file, text in made]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _csv(root: Path, made) -> None:
    with open(root / "metadata.csv", "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["video", "caption", "score"])
        rows.writerows([f"clips/{file.name}", text, number] for number, (file, text) in enumerate(made))


def _lines(root: Path, made) -> None:
    (root / "videos.txt").write_text("".join(f"videos/{file.name}\n" for file, _ in made))
    (root / "prompts.txt").write_text("".join(f"{text}\n" for _, text in made))


def _labels(root: Path, made) -> None:
    (root / "labels").mkdir()
    for file, text in made:
        (root / "labels" / f"{file.stem}.txt").write_text(text)


def _stems(root: Path, made) -> None:
    for file, text in made:
        file.with_suffix(".txt").write_text(text)


def _tar(root: Path, made) -> None:
    with tarfile.open(root / "shard-0000.tar", "w") as tar:
        for number, (file, text) in enumerate(made):
            tar.add(file, file.name)
            sidecar = text.encode() if number % 2 else json.dumps({"caption": text, "score": number}).encode()
            member = tarfile.TarInfo(file.stem + (".txt" if number % 2 else ".json"))
            member.size = len(sidecar)
            tar.addfile(member, io.BytesIO(sidecar))


def _parquet(root: Path, made) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "name": [file.name for file, _ in made],
        "caption": [text for _, text in made],
        "video": [{"bytes": file.read_bytes(), "path": file.name} for file, _ in made],
    }
    parquet.write_table(pa.table(columns), root / "part-0.parquet", row_group_size=2)


LAYOUT_WRITERS = {
    "jsonl": _jsonl, "csv": _csv, "lines": _lines, "labels": _labels, "stems": _stems, "tar": _tar, "parquet": _parquet,
}  # fmt: skip

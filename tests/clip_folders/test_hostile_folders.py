"""One odd item never ends a run, hangs it or leads out of the folder: it is named and dropped, the rest is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from cogvideox.clip_folders.listing import list_clips, unused
from cogvideox.data.clips import ClipSize, FolderClips
from cogvideox.data.doctor import diagnose
from support.clip_folders import write_clips, write_layout

SIZE = ClipSize(frames=9, short_side=32)


def block(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A ustar header whose size field is what it is told to be."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148], header[156:157] = size, b"00000000000\0", kind
    header[257:265] = b"ustar\00000"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def member(name: str, data: bytes) -> bytes:
    return block(name.encode(), f"{len(data):011o}\0".encode()) + data + bytes(-len(data) % 512)


def pax(**values: str) -> bytes:
    """A pax header for the member behind it."""
    lines = b""
    for key, value in values.items():
        text = f" {key}={value}\n".encode()
        size = len(text) + len(str(len(text) + 2))
        lines += str(size).encode() + text
    return block(b"pax", f"{len(lines):011o}\0".encode(), b"x") + lines + bytes(-len(lines) % 512)


NEGATIVE = (-1024).to_bytes(12, "big", signed=True)
ODD = {
    "pax size below zero": pax(size="-1") + member("odd.mp4", b"x" * 700),
    "pax size below zero, far back": pax(size="-999999") + member("odd.mp4", b"x" * 700),
    "base-256 size below zero": block(b"odd.mp4", NEGATIVE),
    "base-256 size below zero with bytes": block(b"odd.mp4", NEGATIVE) + b"x" * 1024,
}


def shard(root: Path, odd: bytes) -> None:
    root.mkdir(exist_ok=True)
    film = write_clips(root.parent / "source", 1)[0][0].read_bytes()
    before = member("a.mp4", film) + member("a.txt", b"before")
    behind = member("b.mp4", film) + member("b.txt", b"behind")
    (root / "s.tar").write_bytes(before + odd + behind + bytes(1024))


@pytest.mark.parametrize("odd", ODD)
def test_a_member_of_negative_size_is_dropped_and_the_rest_is_read(odd, tmp_path):
    shard(tmp_path / "set", ODD[odd])
    started = time.monotonic()
    listing = list_clips(tmp_path / "set")
    assert time.monotonic() - started < 5
    assert [(e.name, e.caption) for e in listing.entries] == [
        ("s.tar/a.mp4", "before"),
        ("s.tar/b.mp4", "behind"),
    ]
    assert "claims" in listing.dropped["s.tar/odd.mp4"]
    assert FolderClips(listing, SIZE).pixels(1).shape == (9, 32, 32, 3)


SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "odd.mp4",
    "GNU.sparse.realsize": "9",
}
ABSURD = {
    "sparse map that goes on": pax(**SPARSE) + member("odd.mp4", b"9" * 20 + b"\n" + b"1\n" * 200),
    "sparse map behind the end": pax(**SPARSE) + block(b"odd.mp4", b"00000001000\0") + b"999999999\n",
    "size beyond the end": block(b"odd.mp4", b"77777777777\0"),
    "pax header beyond the end": block(b"pax", b"77777777777\0", b"x"),
    "long name beyond the end": block(b"name", b"77777777777\0", b"L"),
    "pax header in pax header": pax(comment="x") * 3000,
    "pax size that is no number": pax(size="many") + member("odd.mp4", b"x"),
    "no header": b"\x01" * 512,
}


@pytest.mark.parametrize("odd", ABSURD)
def test_absurd_counts_in_a_tar_are_named_and_what_came_before_is_kept(odd, tmp_path):
    shard(tmp_path / "set", ABSURD[odd])
    started = time.monotonic()
    listing = list_clips(tmp_path / "set")
    assert time.monotonic() - started < 5
    assert listing.entries[0].caption == "before"
    assert len(listing.entries) == 2 or listing.dropped


def test_texts_in_a_shard_are_read_as_strictly_as_beside_clips(tmp_path):
    film = write_clips(tmp_path / "source", 1)[0][0].read_bytes()
    texts = {"a.txt": "caf\xe9".encode("latin-1"), "b.json": b"[" * 100_000, "c.txt": b"one",
             "c.json": b'{"caption": "two"}',
             "d.txt": b"same", "d.json": b'{"caption": "same", "score": 3}'}  # fmt: skip
    (tmp_path / "set").mkdir()
    films = b"".join(member(f"{name}.mp4", film) for name in "abcd")
    data = films + b"".join(member(name, text) for name, text in texts.items())
    (tmp_path / "set/s.tar").write_bytes(data + bytes(1024))
    listing = list_clips(tmp_path / "set")
    assert [(e.name, e.caption, e.score) for e in listing.entries] == [("s.tar/d.mp4", "same", 3)]
    for name, reason in {"a": "not UTF-8", "b": "nested too deeply", "c": ".txt and .json differ"}.items():
        assert reason in listing.dropped[f"s.tar/{name}.mp4"]


def test_links_lead_out_of_the_folder_in_no_layout(tmp_path):
    root, away = tmp_path / "set", tmp_path / "away"
    made = write_clips(away, 1)
    (away / "clip0.txt").write_text("secret words")
    with tarfile.open(away / "s.tar", "w") as tar:
        tar.add(made[0][0], "clip0.mp4")
        tar.add(away / "clip0.txt", "clip0.txt")
    for layout in ("caption", "clip", "labels", "videos", "shard", "folder"):
        place = root / layout
        write_clips(place / ("videos" if layout == "labels" else ""), 1)
        (place / "clip0.txt").unlink(missing_ok=True)
        if layout == "caption":
            (place / "clip0.txt").symlink_to(away / "clip0.txt")
        elif layout == "clip":
            (place / "far.mp4").symlink_to(away / "clip0.mp4")
            (place / "far.txt").symlink_to(away / "clip0.txt")
        elif layout == "labels":
            (place / "labels").symlink_to(away)
        elif layout == "videos":
            (place / "videos").symlink_to(away)
            (place / "labels").mkdir()
        elif layout == "shard":
            (place / "s.tar").symlink_to(away / "s.tar")
        else:
            (place / "far").symlink_to(away)
        try:
            listing = list_clips(place)
        except Exception as error:
            assert "secret" not in str(error)
        else:
            assert not listing.entries and "secret" not in repr(listing), layout
            assert listing.dropped or listing.notes, layout


def test_names_that_are_no_utf8_and_deep_folders_are_named_and_the_rest_is_read(tmp_path):
    root = tmp_path / "set"
    write_layout(root, "stems", count=1)
    film = (root / "clip0.mp4").read_bytes()
    (root / os.fsdecode(b"caf\xe9.mp4")).write_bytes(film)
    (root / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    (root / "self.txt").symlink_to(root / "self.txt")
    (root / "self.mp4").write_bytes(film)
    (root / "loop").symlink_to(root)
    deep = root / "deep"
    deep.mkdir()
    here = os.getcwd()
    os.chdir(deep)
    for _ in range(1100):
        os.mkdir("d")
        os.chdir("d")
    Path("far.mp4").write_bytes(film)
    Path("far.txt").write_text("far down")
    os.chdir(here)
    try:
        report = diagnose(root, SIZE)
        assert {Path(name).name for name in report.kept} == {"clip0.mp4", "far.mp4"}
        assert "not UTF-8" in report.dropped["caf\\xe9.mp4"] and "self.mp4" in report.dropped
        assert "link to a folder" in " ".join(report.remarks["the folder"])
        assert unused(list_clips(root)) == []
        told = subprocess.run(
            [sys.executable, "-m", "cogvideox", "data", "doctor", str(root), "--json", "--quick"],
            capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert told.returncode == 3 and "caf\\xe9.mp4" in json.loads(told.stdout)["dropped"], told.stderr
    finally:
        subprocess.run(["rm", "-rf", str(deep)], check=True)


def test_a_damaged_parquet_page_loses_its_rows_alone(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    films = [file.read_bytes() for file, _ in write_clips(tmp_path / "source", 2)]
    root = tmp_path / "set"
    root.mkdir()
    table = pa.table(
        {"name": list("abcdef"), "caption": [f"number {n} {'y' * 200}" for n in range(6)], "video": films * 3}
    )
    parquet.write_table(
        table,
        root / "s.parquet",
        row_group_size=2,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    data = bytearray((root / "s.parquet").read_bytes())
    column = parquet.ParquetFile(root / "s.parquet").metadata.row_group(1).column(1)
    data[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    (root / "s.parquet").write_bytes(bytes(data))
    listing = list_clips(root)
    assert [Path(entry.name).stem for entry in listing.entries] == list("abef")
    assert listing.dropped == {"s.parquet/rows 2 to 3": "damaged; download the table again"}
    column = parquet.ParquetFile(root / "s.parquet").metadata.row_group(0).column(2)
    data[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    (root / "s.parquet").write_bytes(bytes(data))
    report = diagnose(root, SIZE)
    assert [Path(name).stem for name in report.kept] == ["e", "f"]
    assert all("damaged" in reason for reason in report.dropped.values()) and len(report.dropped) == 3


def test_the_doctor_remarks_where_more_than_a_tenth_is_cut_away(tmp_path):
    write_clips(tmp_path, 3, frames=(16, 17, 40))
    for number in range(3):
        (tmp_path / f"clip{number}.txt").write_text("a clip")
    for decode in (True, False):
        report = diagnose(tmp_path, ClipSize(frames=33, short_side=32), decode=decode)
        cut = {n: [r for r in remarks if "cut away" in r] for n, remarks in report.remarks.items()}
        assert {n: r for n, r in cut.items() if r} == {
            "clip0.mp4": ["7 of 16 frames will be cut away: 9 are 8n + 1"]
        }
        assert [s.frames for s in report.kept.values()] == [9, 17, 33]


def test_two_shards_in_one_file_are_told(tmp_path):
    shard(tmp_path / "set", b"")
    file = tmp_path / "set/s.tar"
    file.write_bytes(file.read_bytes() + bytes(9 * 1024) + file.read_bytes())
    listing = list_clips(tmp_path / "set")
    assert len(listing.entries) == 2 and "behind its end mark" in listing.dropped["s.tar"]

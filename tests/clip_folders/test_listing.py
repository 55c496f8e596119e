"""Every public layout lists the same clips, and nothing that cannot be used disappears without a reason."""

import io
import json
import math
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvideox.clip_folders.listing import list_clips, unused
from cogvideox.data.clips import ClipSize, FolderClips, best_share, held_out
from cogvideox.data.doctor import diagnose
from cogvideox.errors import ConfigError, MediaError
from support.clip_folders import LAYOUT_WRITERS, LAYOUTS, clip, write_clips, write_layout

SIZE = ClipSize(frames=17, short_side=32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_clips_and_captions(layout, tmp_path):
    made = write_layout(tmp_path / "set", layout, count=3, images=1 if layout != "parquet" else 0)
    listing = list_clips(tmp_path / "set")
    assert [(Path(e.name).name, e.caption) for e in listing.entries] == made
    assert not listing.dropped
    clips = FolderClips(listing, SIZE)
    assert [clips.pixels(i).shape for i in range(3)] == [(9, 32, 32, 3)] * 3
    assert len({clips.content(i) for i in range(len(clips))}) == len(made)
    if len(made) > 3:
        assert clips.pixels(3).shape == (1, 32, 32, 3)


def test_bytes_in_an_archive_are_the_clip_itself(tmp_path):
    made = write_clips(tmp_path / "stems", 2)  # encoded once: threads of an encoder may round differently
    for layout in ("stems", "tar", "parquet"):
        (tmp_path / layout).mkdir(exist_ok=True)
        LAYOUT_WRITERS[layout](tmp_path / layout, made)
    whole = [FolderClips(list_clips(tmp_path / name), SIZE) for name in ("stems", "tar", "parquet")]
    pixels = [[one.pixels(i) for i in range(2)] for one in whole]
    assert not np.array_equal(*pixels[0])
    for other in pixels[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(pixels[0], other, strict=True))


def test_frames_are_chosen_by_time_not_by_number(tmp_path):
    video, _ = clip(0, frames=33, fps=16)
    video.save(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("a clip")
    at_8 = FolderClips(list_clips(tmp_path), ClipSize(frames=17, short_side=32, fps=8)).pixels(0)
    at_16 = FolderClips(list_clips(tmp_path), ClipSize(frames=33, short_side=32, fps=16)).pixels(0)
    assert np.array_equal(at_8, at_16[::2])


def spoil(root: Path) -> dict[str, str]:
    """A table with one good clip and one of each thing that cannot be used, with what the reason says."""
    write_clips(root, 1)
    (root / "cut.mp4").write_bytes((root / "clip0.mp4").read_bytes()[:900])
    (root / "empty.mp4").write_bytes(b"")
    (root / "notes.doc").write_text("x")
    (root.parent / "outside.mp4").write_bytes((root / "clip0.mp4").read_bytes())
    clip(1, frames=3)[0].save(root / "short.mp4")
    rows = [
        ("clip0.mp4", "good"),
        ("cut.mp4", "x"),
        ("empty.mp4", "x"),
        ("gone.mp4", "x"),
        ("notes.doc", "x"),
    ]
    rows += [("../outside.mp4", "x"), ("short.mp4", "x"), ("clip0.mp4", "good"), ("bare.mp4", "")]
    text = "".join(json.dumps({"file_name": name, "caption": words}) + "\n" for name, words in rows)
    (root / "metadata.jsonl").write_text(text + "not json\n" + '{"caption": "no file"}\n')
    return {
        "cut.mp4": "damaged", "empty.mp4": "empty", "gone.mp4": "no such file", "notes.doc": "ending",
        "outside.mp4": "leads out", "short.mp4": "3 frames", "clip0.mp4 (again)": "listed twice",
        "bare.mp4": "no such file", "line 10": "not JSON", "line 11": "names no file",
    }  # fmt: skip


def test_the_doctor_names_every_clip_that_would_be_dropped_and_why(tmp_path):
    expected = spoil(tmp_path / "set")
    report = diagnose(tmp_path / "set", SIZE)
    assert list(report.kept) == ["clip0.mp4"]
    for name, reason in expected.items():
        found = [text for key, text in report.dropped.items() if key.endswith(name)]
        assert found and reason in found[0], (name, report.dropped)
    assert len(report.dropped) == len(expected)
    assert "1 of 11 clips can be used" in report.to_text()


def test_the_doctor_and_training_agree(tmp_path):
    spoil(tmp_path / "set")
    report, clips = diagnose(tmp_path / "set", SIZE), FolderClips(list_clips(tmp_path / "set"), SIZE)
    usable = []
    for index in range(len(clips)):
        try:
            clips.pixels(index)
        except MediaError:
            continue
        usable.append(clips.name(index))
    assert usable == list(report.kept)


def test_the_doctor_remarks_on_enlarging_cropping_and_packing(tmp_path):
    write_layout(tmp_path / "set", "stems", count=2, size=32)
    report = diagnose(tmp_path / "set", ClipSize(frames=9, height=64, width=128), budget=400, words=8)
    remarks = report.remarks["clip0.mp4"]
    assert any("enlarged 4.0 times" in text for text in remarks)
    assert any("cropped" in text for text in remarks)
    assert report.waste is not None and 0 <= report.waste < 1
    small = diagnose(tmp_path / "set", ClipSize(frames=9, height=64, width=128), budget=60, words=8)
    assert small.dropped["clip0.mp4"].startswith("104 tokens, a row holds 60") and not small.kept


def test_a_shard_that_is_cut_off_gives_what_it_holds_and_says_so(tmp_path):
    write_layout(tmp_path / "set", "tar", count=3)
    shard = tmp_path / "set" / "shard-0000.tar"
    shard.write_bytes(shard.read_bytes()[: int(shard.stat().st_size * 0.5)])
    listing = list_clips(tmp_path / "set")
    assert 0 < len(listing.entries) < 3
    assert any("cut off" in reason for reason in listing.dropped.values())


def test_a_name_in_a_shard_never_becomes_a_path(tmp_path):
    write_clips(tmp_path / "source", 1)
    (tmp_path / "set").mkdir()
    (tmp_path / "x.txt").write_text("a clip")
    with tarfile.open(tmp_path / "set" / "s.tar", "w") as tar:
        tar.add(tmp_path / "source" / "clip0.mp4", "../../escaped.mp4")
        tar.add(tmp_path / "x.txt", "../../escaped.txt")
    listing = list_clips(tmp_path / "set")
    with listing.entries[0].location.local() as file:
        assert "escaped" not in str(file)
    assert not list(tmp_path.rglob("escaped*"))


def write_tar(file: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        tar.add(file.parent.parent / "stems", ".", recursive=False)  # as `tar cf x.tar .` has it
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)


def test_a_picture_beside_its_video_does_not_take_its_place(tmp_path):
    film, picture = (file.read_bytes() for file, _ in write_clips(tmp_path / "stems", 1, images=1))
    order = [("0001.mp4", film), ("0001.jpg", picture), ("0001.thumb.png", picture), ("0001.txt", b"a film")]
    order += [("0002.png", picture), ("0002.txt", b"a picture")]
    for name, members in (("a", order), ("b", order[::-1])):
        write_tar(tmp_path / name / "s.tar", dict(members))
        listing = list_clips(tmp_path / name)
        assert [(e.name, e.caption) for e in listing.entries] == [
            ("s.tar/0001.mp4", "a film"),
            ("s.tar/0002.png", "a picture"),
        ]
        assert not listing.dropped and FolderClips(listing, SIZE).pixels(0).shape == (9, 32, 32, 3)


def test_pictures_with_words_of_their_own_are_no_thumbnails(tmp_path):
    film, picture = (file.read_bytes() for file, _ in write_clips(tmp_path / "stems", 1, images=1))
    members = {"2024.mp4": film, "2024.txt": b"a film", "2024.01.png": picture, "2024.01.txt": b"a picture"}
    write_tar(tmp_path / "set" / "s.tar", members)
    listing = list_clips(tmp_path / "set")
    assert [(e.name, e.caption) for e in listing.entries] == [
        ("s.tar/2024.01.png", "a picture"),
        ("s.tar/2024.mp4", "a film"),
    ]


def test_names_with_dots_in_a_shard_are_clips_of_their_own(tmp_path):
    film = write_clips(tmp_path / "stems", 1)[0][0].read_bytes()
    write_tar(
        tmp_path / "set/s.tar",
        {
            "my.clip.mp4": film, "my.clip.txt": b"mine", "2024.01.mp4": film, "2024.02.mp4": film,
            "2024.txt": b"that year", "2024.02.json": b'{"caption": "in spring", "score": 3}',
            "._my.clip.mp4": b"x", "notes.pdf": b"x",
        },
    )  # fmt: skip
    listing = list_clips(tmp_path / "set")
    assert [(e.name, e.caption, e.score) for e in listing.entries] == [
        ("s.tar/2024.01.mp4", "that year", None),
        ("s.tar/2024.02.mp4", "in spring", 3),
        ("s.tar/my.clip.mp4", "mine", None),
    ]
    assert not listing.dropped


def test_every_clip_of_a_shard_that_is_not_taken_is_named(tmp_path, monkeypatch):
    film = write_clips(tmp_path / "stems", 1)[0][0].read_bytes()
    members = {"a.mp4": film, "a.webm": film, "a.txt": b"a", "long.mp4": film, "long.txt": b"x" * (2**20 + 1)}
    members |= {"large.mp4": film + bytes(9), "large.txt": b"b", "bare.mp4": film}
    write_tar(tmp_path / "set/s.tar", members, links={"linked.mp4": "a.mp4"})
    monkeypatch.setattr("cogvideox.clip_folders.tars.LARGEST", len(film))
    listing = list_clips(tmp_path / "set")
    assert [e.name for e in listing.entries] == ["s.tar/a.mp4"]
    expected = {"a.webm": "a.mp4 has the same key", "long.mp4": "long.txt beside it has 1048577 bytes",
                "large.mp4": f"the most is {len(film)}", "linked.mp4": "a link", "bare.mp4": "no caption"}  # fmt: skip
    assert listing.dropped.keys() == {f"s.tar/{name}" for name in expected}
    assert all(text in listing.dropped[f"s.tar/{name}"] for name, text in expected.items())


def write_table(root: Path, column: str, cells: list, **more) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    root.mkdir()
    table = pa.table({column: cells, "text": [f"number {place}" for place in range(len(cells))], **more})
    parquet.write_table(table, root / "train-0.parquet", row_group_size=2)


def test_pictures_in_a_table_as_hugging_face_writes_them(tmp_path):
    (film, _), (still, _) = write_clips(tmp_path / "source", 1, images=1)
    Image.open(still).save(jpeg := tmp_path / "still.jpg")
    cells = [{"bytes": jpeg.read_bytes(), "path": "x/still.JPG"}, {"bytes": still.read_bytes(), "path": None}]
    write_table(tmp_path / "set", "image", [*cells, {"bytes": film.read_bytes(), "path": "film.mp4"}])
    listing = list_clips(tmp_path / "set")
    assert [e.name for e in listing.entries] == [
        f"train-0.parquet/0000000{place}{suffix}" for place, suffix in enumerate((".jpg", ".png", ".mp4"))
    ]
    clips = FolderClips(listing, SIZE)
    assert [len(clips.pixels(place)) for place in range(3)] == [1, 1, 9]


def test_what_is_wrong_in_a_table_is_told_by_table_and_row(tmp_path):
    film = write_clips(tmp_path / "source", 1)[0][0].read_bytes()
    write_table(
        tmp_path / "set", "video", [film, b"not a video", film[:900], None], name=["a.b", "c", "d", "e"]
    )
    dropped = diagnose(tmp_path / "set", SIZE).dropped
    assert list(dropped) == [f"train-0.parquet/{name}.mp4" for name in "cde"]
    for row, reason in enumerate(dropped.values(), 1):
        assert reason.startswith(f"{tmp_path / 'set' / 'train-0.parquet'}: row {row} of 'video'"), reason


def test_a_line_separator_inside_a_caption_ends_no_line(tmp_path):
    write_layout(tmp_path / "set", "lines", count=2)
    file = tmp_path / "set" / "prompts.txt"
    file.write_text("a cat\u2028on a\x85mat\x0casleep\na dog\n", encoding="utf-8")
    assert [e.caption for e in list_clips(tmp_path / "set").entries] == ["a cat on a mat asleep", "a dog"]
    for name in ("prompts.txt", "videos.txt"):
        whole = tmp_path / "set" / name
        whole.write_bytes(whole.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert [e.caption for e in list_clips(tmp_path / "set").entries] == ["a cat on a mat asleep", "a dog"]


def test_lines_that_do_not_match_are_refused(tmp_path):
    write_layout(tmp_path / "set", "lines", count=2)
    (tmp_path / "set" / "prompts.txt").write_text("one\n")
    with pytest.raises(ConfigError, match="videos.txt has 2 lines, prompts.txt 1"):
        list_clips(tmp_path / "set")


def test_nothing_to_train_on_is_said(tmp_path):
    with pytest.raises(ConfigError, match="not a folder"):
        list_clips(tmp_path / "gone")
    with pytest.raises(ConfigError, match="holds no clips"):
        list_clips(tmp_path)


def test_the_best_share_is_taken_by_score(tmp_path):
    write_layout(tmp_path / "set", "csv", count=4)
    listing = list_clips(tmp_path / "set")
    assert [Path(e.name).stem for e in best_share(listing, 0.5).entries] == ["clip2", "clip3"]
    write_layout(tmp_path / "other", "jsonl", count=2)
    with pytest.raises(ConfigError, match="2 clips have no score"):
        best_share(list_clips(tmp_path / "other"), 0.5)


def test_held_out_clips_stay_held_out_when_others_come(tmp_path):
    write_layout(tmp_path / "few", "stems", count=8)
    write_layout(tmp_path / "many", "stems", count=12)
    few, many = (held_out(list_clips(tmp_path / name), 0.3)[1].entries for name in ("few", "many"))
    names = {e.name for e in few}
    assert names and names == {e.name for e in many if int(e.name[4:-4]) < 8}


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"frames": 48}, "8n \\+ 1"), ({"height": 64}, "set both"), ({"short_side": 100}, "multiple of 16"),
     ({"frames": 9, "least_frames": 17}, "above the most")],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        ClipSize(**settings)


def test_the_aspect_is_kept_up_to_a_limit():
    size = ClipSize(short_side=64, longest=2)
    assert size.fit(720, 1280) == (64, 112) and size.fit(1280, 720) == (112, 64)
    assert size.fit(100, 100) == (64, 64) and size.fit(100, 900) == (64, 128)


def test_what_is_beside_the_listed_clips_is_told(tmp_path):
    write_layout(tmp_path, "jsonl", count=2)
    shutil.copy(next(tmp_path.rglob("*.mp4")), tmp_path / "loose.mp4")
    (tmp_path / "old.mpg").write_bytes(b"x")
    assert unused(list_clips(tmp_path)) == ["loose.mp4", "old.mpg"]
    assert "2 video or image files are not used: loose.mp4, old.mpg" in diagnose(tmp_path, SIZE).to_text()


def test_one_strange_row_does_not_end_the_rest(tmp_path):
    write_layout(tmp_path, "jsonl", count=1)
    file = tmp_path / "metadata.jsonl"
    rows = [{"file_name": "a.mp4", "caption": 7}, {"file_name": "b.mp4", "caption": ["x"]},
            {"file_name": "c\0.mp4", "caption": "x"}, {"file_name": "d" * 300 + ".mp4", "caption": "x"}]  # fmt: skip
    file.write_text(file.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    listing = list_clips(tmp_path)
    assert len(listing.entries) == 1 and len(listing.dropped) == 4, listing.dropped


def test_a_link_to_itself_is_named_and_strange_files_are_refused_in_one_line(tmp_path):
    write_layout(tmp_path / "stems", "stems", count=1)
    (tmp_path / "stems/loop.mp4").symlink_to(tmp_path / "stems/loop.mp4")
    (tmp_path / "stems/clip0.txt").write_bytes("caf\xe9".encode("latin-1"))
    dropped = list_clips(tmp_path / "stems").dropped
    assert set(dropped) == {"loop.mp4", "clip0.mp4"} and "not UTF-8" in dropped["clip0.mp4"]
    write_layout(tmp_path / "lines", "lines", count=1)
    (tmp_path / "lines/prompts.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        list_clips(tmp_path / "lines")
    write_layout(tmp_path / "csv", "csv", count=1)
    with open(tmp_path / "csv/metadata.csv", "a") as table:
        table.write("clip0.mp4," + "x" * (2**20 + 1) + "\n")
    listing = list_clips(tmp_path / "csv")
    assert len(listing.entries) == 1
    assert "cannot be read as CSV" in listing.dropped["metadata.csv line 3"]


def test_a_score_that_is_no_number_is_none(tmp_path):
    write_layout(tmp_path, "jsonl", count=2)
    file = tmp_path / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(
            json.dumps(row | {"score": score}) + "\n" for row, score in zip(rows, (math.nan, 2), strict=True)
        )
    )
    with pytest.raises(ConfigError, match="1 clips have no score"):
        best_share(list_clips(tmp_path), 0.5)


def test_a_link_to_nothing_and_a_pipe_are_named_not_passed_over(tmp_path):
    write_layout(tmp_path, "stems", count=1)
    (tmp_path / "away.mp4").symlink_to(tmp_path / "moved.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    dropped = list_clips(tmp_path).dropped
    assert {name: "link to none or a pipe" in why for name, why in dropped.items()} == {
        "moved.mp4": True,
        "pipe.mp4": True,
    }

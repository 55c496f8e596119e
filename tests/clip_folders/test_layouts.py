"""Lists of captions as people write them are read; what is not certain is named by its line, never guessed."""

from __future__ import annotations

import csv
import json
import os
import tarfile
import time
from pathlib import Path

import pytest

from cogvideox.clip_folders import CaptionSource, Columns
from cogvideox.clip_folders.listing import list_clips
from cogvideox.clip_folders.parquet import open_parquet
from cogvideox.curation.results import kept_rows
from cogvideox.errors import CogVideoXError, ConfigError, InputError, MediaError
from cogvideox.evaluation.video_folder import read_prompts

TEXTS = ['A cat, seen from above, says "hello".', "A dog runs; it barks.", "Rain \u2014 on a roof"]


def clips(root: Path, folder: str = "", count: int = 3) -> None:
    """Files that are clips by their names; no layout opens them."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / folder / f"{number}.mp4").write_bytes(b"x")


def write(root: Path, name: str, text: str | bytes) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


def captions(root: Path, **source) -> dict[str, str]:
    listing = list_clips(root, source=CaptionSource(**source))
    return {entry.name: entry.caption for entry in listing.entries}


def quoted(rows, delimiter=",") -> str:
    class Stream(list):
        write = list.append

    lines = Stream()
    csv.writer(lines, delimiter=delimiter).writerows(rows)
    return "".join(lines)


FILES = [f"{number}.mp4" for number in range(3)]
LISTS = {
    "prompt.txt": "\n".join(TEXTS) + "\n",
    "prompts.txt": "\r\n".join(TEXTS) + "\r\n\r\n \r\n",
    "captions.txt": "\ufeff" + "\n".join(TEXTS),
    "caption.txt": "\n".join(TEXTS) + "\n\n\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_captions_beside_videos_txt_is_read_whatever_people_call_it(name, tmp_path):
    clips(tmp_path, "videos")
    write(tmp_path, "videos.txt", "".join(f"videos/{file}\n" for file in FILES) + "\n")
    write(tmp_path, name, LISTS[name])
    assert captions(tmp_path) == {f"videos/{f}": t for f, t in zip(FILES, TEXTS, strict=True)}
    assert read_prompts(tmp_path) == captions(tmp_path)


ROWS = list(zip(FILES, TEXTS, strict=True))
TABLES = {
    "metadata.json": json.dumps([{"file_path": f, "text": t, "type": "video"} for f, t in ROWS]),
    "videox_fun.json": json.dumps([{"file_path": f, "text": t, "type": "video"} for f, t in ROWS], indent=2),
    "meta.csv": quoted([["path", "text", "num_frames"], *((f, t, 24) for f, t in ROWS)]),
    "OpenVidHD.csv": quoted([["video", "caption", "aesthetic score"], *((f, t, 5) for f, t in ROWS)]),
    "bom.csv": "\ufeff" + quoted([["file_name", "text"], *ROWS]),
    "utf16.csv": ("\ufeff" + quoted([["file_name", "text"], *ROWS])).encode("utf-16-le"),
    "excel.csv": quoted([["File_Name", " Caption "], *ROWS], ";"),
    "tabs.csv": quoted([["file_name", "text"], *ROWS], "\t"),
    "metadata.tsv": quoted([["file_name", "text"], *ROWS], "\t"),
    "lines.jsonl": "".join(json.dumps({"video": f, "prompt": t}) + "\n" for f, t in ROWS),
    "lines_too.json": "".join(json.dumps({"video": f, "prompt": t}) + "\n\n" for f, t in ROWS),
    "list.jsonl": json.dumps([{"file": f, "description": t} for f, t in ROWS]),
    "mapping.json": json.dumps(dict(ROWS)),
    "kohya.json": json.dumps({f: {"caption": t, "tags": "x"} for f, t in ROWS}),
    "vbench.json": json.dumps([{"prompt_en": t, "video_list": [f]} for f, t in ROWS]),
    "train/metadata.csv": quoted([["file_name", "text"], *ROWS]),
    "data/any.jsonl": "".join(json.dumps({"video": f, "prompt": t}) + "\n" for f, t in ROWS),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_only_table_with_known_columns_is_read_by_training_and_by_evaluation(name, tmp_path):
    clips(tmp_path)
    write(tmp_path, name, TABLES[name])
    assert captions(tmp_path) == dict(ROWS)
    assert {file: text.strip() for file, text in read_prompts(tmp_path).items()} == dict(ROWS)


def test_a_parquet_table_of_paths_is_a_table_under_any_name(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    clips(tmp_path)
    table = pa.table({"path": FILES, "caption": TEXTS, "aesthetic": [1.0, 2.0, 3.0]})
    parquet.write_table(table, tmp_path / "openvid.parquet")
    listing = list_clips(tmp_path)
    assert {e.name: e.caption for e in listing.entries} == dict(ROWS) == read_prompts(tmp_path)
    assert [e.score for e in listing.entries] == [1, 2, 3]


def test_a_parquet_table_whose_names_are_not_utf8_is_named_as_damaged(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    file = tmp_path / "clips.parquet"
    parquet.write_table(pa.table({"path": FILES, "a_long_name": TEXTS}), file)
    file.write_bytes(file.read_bytes().replace(b"a_long_name", b"\xff\xfelong_name"))
    with pytest.raises(MediaError, match="not a Parquet table"):
        open_parquet(file, tmp_path)
    with pytest.raises(InputError, match="not a Parquet table .* curate again"):
        list(kept_rows(tmp_path))


@pytest.mark.parametrize(
    "path",
    ["sub/{}", "./sub/{}", "set/sub/{}", "{root}/sub/{}", "sub\\{}", " sub/{} ", "{}"],
    ids=["folder", "dot", "own name", "absolute", "backslash", "spaces", "name alone"],
)
def test_paths_of_a_table_are_relative_to_it_or_the_folder_or_lead_there(path, tmp_path):
    root = tmp_path / "set"
    clips(root, "sub")
    rows = [{"file_path": path.format(f, root=root), "text": t} for f, t in ROWS]
    write(root, "metadata.json", json.dumps(rows))
    assert captions(root) == {f"sub/{f}": t for f, t in ROWS}


def test_paths_that_lead_out_of_the_folder_are_named(tmp_path):
    root = tmp_path / "set"
    clips(root)
    clips(tmp_path / "other")
    (root / "linked.mp4").symlink_to(tmp_path / "other/0.mp4")
    names = ["../other/0.mp4", str(tmp_path / "other/1.mp4"), "linked.mp4", "set/../../other/2.mp4"]
    write(root, "metadata.jsonl", "".join(json.dumps({"file": n, "text": "x"}) + "\n" for n in names))
    listing = list_clips(root)
    assert not listing.entries and len(listing.dropped) == 4
    assert all("leads out" in reason for reason in listing.dropped.values())


def test_captions_and_columns_can_be_pointed_at(tmp_path):
    clips(tmp_path)
    write(tmp_path, "a.csv", quoted([["video", "text"], *ROWS]))
    write(tmp_path, "b.csv", quoted([["id", "long", "short"], *((f, t, "x") for f, t in ROWS)]))
    write(tmp_path, "c.csv", quoted([["video", "text"], *ROWS]))
    with pytest.raises(ConfigError, match=r"2 tables .*a.csv, c.csv.*task.data.captions="):
        captions(tmp_path)
    assert captions(tmp_path, captions="a.csv") == dict(ROWS)
    assert captions(tmp_path, captions=str(tmp_path / "c.csv")) == dict(ROWS)
    assert captions(tmp_path, captions="b.csv", columns=Columns("long", "id")) == dict(ROWS)
    assert set(captions(tmp_path, captions="b.csv", columns=Columns("short", "id")).values()) == {"x"}
    with pytest.raises(ConfigError, match=r"no column 'lang'.*did you mean 'long'"):
        captions(tmp_path, captions="b.csv", columns=Columns("lang", "id"))
    with pytest.raises(ConfigError, match="no such file"):
        captions(tmp_path, captions="d.csv")


def test_where_no_clip_has_a_caption_the_error_names_what_was_seen_and_the_way(tmp_path):
    clips(tmp_path)
    write(tmp_path, "what.csv", "id,words\n0.mp4,A cat\n")
    write(tmp_path, "captions.txt", "A cat\n")
    write(tmp_path, "info.json", '{"name": "my set"}')
    write(tmp_path, "readme.txt", "about")
    write(tmp_path, "0" * 240 + ".mp4", b"x")
    (tmp_path / "0.mp4").unlink()
    with pytest.raises(ConfigError) as error:
        list_clips(tmp_path)
    told = str(error.value)
    assert len(told) < 1000
    for part in ("none of 3 clips has a caption", "what.csv (no file or caption column among 'id', 'words')",
                 "captions.txt (needs videos.txt", "info.json", "readme.txt", "task.data.captions=FILE",
                 "task.data.caption_column="):  # fmt: skip
        assert part in told, told


BAD_ROWS = {
    "0.mp4,A cat, seen from above, sleeps": "4 fields, more than the 2",
    "0.mp4": "1 fields, fewer than the 2",
    '0.mp4,"A "big" cat"': "double the quotes",
    '0.mp4,"A cat\n9.mp4,A dog\n8.mp4,Rain"': r"names another file ('9.mp4')",
    "0.mp4,": "the caption is empty",
    "0.mp4,nan": "which programs write where there is none",
    "0.mp4, None": "which programs write where there is none",
    "0.mp4,A cat,": "3 fields, more",
    "0.mp4," + "x" * (2**20 + 1): "cannot be read as CSV",
}


@pytest.mark.parametrize("row", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_row_that_is_not_certain_is_named_by_its_line_and_dropped(row, tmp_path):
    clips(tmp_path)
    write(tmp_path, "metadata.csv", f"file_name,text\n{row}\n1.mp4,A dog\n2.mp4,Rain\n")
    listing = list_clips(tmp_path)
    assert {e.name: e.caption for e in listing.entries} == {"1.mp4": "A dog", "2.mp4": "Rain"}
    (name, reason), *more = listing.dropped.items()
    assert not more and "metadata.csv line" in f"{name} {reason}" and " 2" in f"{name} {reason}"
    assert BAD_ROWS[row] in reason


def test_a_quote_that_is_never_closed_names_the_lines_it_swallows(tmp_path):
    clips(tmp_path)
    write(tmp_path, "metadata.csv", 'file_name,text\n0.mp4,A cat\n1.mp4,"A dog\n2.mp4,Rain\n')
    listing = list_clips(tmp_path)
    assert [entry.name for entry in listing.entries] == ["0.mp4"]
    assert "never closed" in listing.dropped["metadata.csv lines 3 to 4"]


BAD_TABLES = {
    "file_name,text,Text\n0.mp4,a,b\n": "'text' stands twice",
    "0.mp4,A cat\n1.mp4,A dog\n": "holds no header",
    "id;words\n0.mp4;A cat\n": "no column that names a file",
    'file_name,"text\n0.mp4,A cat\n': "a quote that is not closed",
    "file_name,text\n0.mp4,A cat\n1.mp4,caf\udce9\n": r"line 3 is not UTF-8 \(byte 0xe9\)",
    "file_name,text\n0.mp4,A c\0at\n": "line 2 holds a NUL",
}


@pytest.mark.parametrize("text", BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_a_table_of_which_no_row_is_certain_is_refused_by_name(text, tmp_path):
    clips(tmp_path)
    write(tmp_path, "metadata.csv", text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=BAD_TABLES[text]) as error:
        list_clips(tmp_path)
    assert "metadata.csv" in str(error.value)


def test_utf16_without_its_mark_is_refused_not_read_as_nothing(tmp_path):
    clips(tmp_path)
    write(tmp_path, "metadata.csv", "file_name,text\n0.mp4,A cat\n".encode("utf-16-le"))
    with pytest.raises(ConfigError, match="UTF-8"):
        list_clips(tmp_path)


def test_captions_that_differ_are_never_chosen_between(tmp_path):
    clips(tmp_path, count=4)
    rows = [{"file": "0.mp4", "text": "A cat", "caption": "A dog"},
            {"file": "1.mp4", "text": "A  cat", "caption": "A cat"},
            {"file": "2.mp4", "text": "one"}, {"file": "2.mp4", "text": "two"},
            {"file": "3.mp4", "text": "same"}, {"file": "3.mp4", "text": "same "}]  # fmt: skip
    write(tmp_path, "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    listing = list_clips(tmp_path)
    assert {e.name: e.caption for e in listing.entries} == {"1.mp4": "A cat", "3.mp4": "same"}
    assert "differ in 'caption' and 'text'" in listing.dropped["0.mp4"]
    assert "metadata.jsonl line 3 and metadata.jsonl line 4" in listing.dropped["2.mp4"]
    assert "listed twice" in listing.dropped["3.mp4 (again)"]
    told = list_clips(tmp_path, source=CaptionSource(columns=Columns("text")))
    assert {e.name for e in told.entries} == {"0.mp4", "1.mp4", "3.mp4"}


def test_a_list_that_is_ambiguous_names_its_line(tmp_path):
    clips(tmp_path)
    write(tmp_path, "videos.txt", "0.mp4\n1.mp4\n2.mp4\n")
    write(tmp_path, "prompts.txt", "A cat\n\nRain\n")
    listing = list_clips(tmp_path)
    assert [entry.caption for entry in listing.entries] == ["A cat", "Rain"]
    assert listing.dropped["1.mp4"].startswith("prompts.txt line 2: the caption is empty")
    write(tmp_path, "prompts.txt", "A cat\n\nA dog\n\nRain\n")
    with pytest.raises(ConfigError, match=r"3 lines, prompts.txt 5 \(lines 2, 4 are blank\)"):
        list_clips(tmp_path)
    write(tmp_path, "prompts.txt", "A cat\nA dog\nRain\n")
    write(tmp_path, "captions.txt", "A cat\nA dog\nSnow\n")
    with pytest.raises(ConfigError, match=r"differ; choose one with task.data.captions="):
        list_clips(tmp_path)
    assert captions(tmp_path, captions="captions.txt")["2.mp4"] == "Snow"


def test_a_text_beside_a_clip_is_a_txt_a_caption_or_a_json(tmp_path):
    clips(tmp_path, count=5)
    write(tmp_path, "0.txt", "\ufeffA cat\n")
    write(tmp_path, "1.caption", "A dog")
    write(tmp_path, "2.json", '{"caption": "Rain", "score": NaN}')
    write(tmp_path, "3.json", '{"config": {"prompt": "made here"}}')
    write(tmp_path, "4.json", "[" * 100_000)
    listing = list_clips(tmp_path)
    assert [entry.caption for entry in listing.entries] == ["A cat", "A dog", "Rain", "made here"]
    assert "nested too deeply" in listing.dropped["4.mp4"]


@pytest.mark.parametrize("name", ["0.txt", "0.json", "metadata.jsonl", "metadata.csv", "metadata.json", "any.csv",
                                  "prompts.txt", "videos.txt", "labels/0.txt", "x.tar", "x.parquet"])  # fmt: skip
@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "link to itself", "folder"])
def test_what_stands_beside_a_clip_and_is_no_file_never_hangs_or_leaks(kind, name, tmp_path):
    """Named pipes, devices, links out of the folder: the item is named or refused, in no time, and nothing leaks."""
    root = tmp_path / "set"
    clips(root, "videos" if name.startswith("labels") else "", 1)
    (tmp_path / "secret").write_text('file_name,text\n0.mp4,secret words\n{"file_name": "0.mp4"}')
    (root / name).parent.mkdir(exist_ok=True)
    if name in ("prompts.txt", "videos.txt"):
        write(root, "videos.txt" if name == "prompts.txt" else "prompts.txt", "0.mp4\n")
    if kind == "pipe":
        os.mkfifo(root / name)
    elif kind == "folder":
        (root / name).mkdir()
    else:
        target = {"device": "/dev/zero", "link out": tmp_path / "secret", "link to itself": root / name}[kind]
        (root / name).symlink_to(target)
    started = time.monotonic()
    for read in (list_clips, read_prompts):
        try:
            found = read(root)
        except CogVideoXError as error:
            assert "secret words" not in str(error)
        else:
            assert "secret words" not in repr(found)
            assert read is read_prompts or not found.entries
    assert time.monotonic() - started < 5


HOSTILE = (
    "[" * 100_000,
    '{"a":' * 5_000,
    '[{"file": "0.mp4", "text": "' + "x" * 100,
    "[0" + ",0" * 9_000_000 + "]",
    '{"file": "0.mp4", "file": "1.mp4"}',
    "[1e999]",
    b"\xed\xa0\x80",
)


def test_hostile_tables_end_in_one_error_or_named_rows(tmp_path):
    clips(tmp_path, count=1)
    for text in HOSTILE:
        for name in ("metadata.json", "metadata.jsonl"):
            write(tmp_path, name, text)
            started = time.monotonic()
            try:
                listing = list_clips(tmp_path)
            except ConfigError as error:
                assert len(str(error)) < 1500
            else:
                assert not listing.entries and all(len(r) < 500 for r in listing.dropped.values())
            assert time.monotonic() - started < 5
            (tmp_path / name).unlink()


def test_a_lone_surrogate_in_a_caption_is_named(tmp_path):
    clips(tmp_path, count=2)
    write(
        tmp_path, "metadata.jsonl", '{"file": "0.mp4", "text": "a \\ud800"}\n{"file": "1.mp4", "text": "b"}\n'
    )
    listing = list_clips(tmp_path)
    assert [e.name for e in listing.entries] == ["1.mp4"] and "half a character" in listing.dropped["0.mp4"]


def test_a_curated_folder_without_captions_says_the_command_that_writes_them(tmp_path):
    clips(tmp_path / "made")
    (tmp_path / "curated/shards").mkdir(parents=True)
    with tarfile.open(tmp_path / "curated/shards/clips-00000.tar", "w") as shard:
        shard.add(tmp_path / "made/0.mp4", "0.mp4")
    for name in ("clips.parquet", "dropped.jsonl"):
        write(tmp_path / "curated", name, "")
    with pytest.raises(ConfigError, match="curated folder, and none of its 1 clips .*`cogvideox caption"):
        list_clips(tmp_path / "curated")

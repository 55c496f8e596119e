"""Curation replaces and removes what it made itself, by name and digest, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.curation import engines, worker
from cogvideox.curation.pipeline import only_one
from cogvideox.curation.recipe import tiny
from cogvideox.curation.run import curate
from cogvideox.errors import ConfigError, OutputError
from cogvideox.training.tasks.folder import FolderData, check_folder, list_folder
from support.films import take, write

SMALL = tiny().override(["per_shard=1", "shots.min_seconds=0.5"])
FOLDER = SMALL.override(["layout=videofolder"])


class InProcess:
    """Does jobs here: a quarter of a second cheaper than a worker, and as pure."""

    def run(self, jobs, order):
        for job in jobs:
            worker.do(job, order)
            yield engines.JobOutcome(job)


@pytest.fixture
def films(tmp_path) -> Path:
    for number in range(3):
        write(tmp_path / "films" / f"{number}.mp4", take(number, 12))
    return tmp_path / "films"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def dataset(tmp_path) -> Path:
    """The layout everybody has: videos/ and metadata.jsonl in one folder."""
    root = tmp_path / "data"
    for number in range(2):
        write(root / "videos" / f"{number:05d}.mp4", take(number, 12))
    (root / "metadata.jsonl").write_text('{"file_name": "videos/00000.mp4", "text": "a"}\n')
    (tmp_path / "other").symlink_to(root)
    return root


@pytest.mark.parametrize(
    "out", [".", "videos/out", "videos", "../other", "../other/videos/x", "videos/../../data", ".."]
)
def test_an_input_inside_out_and_an_out_inside_the_input_are_refused(dataset, monkeypatch, out):
    before = contents(dataset.parent)
    monkeypatch.chdir(dataset)
    with pytest.raises(ConfigError, match="lies inside"):
        curate("videos", out, SMALL, InProcess())
    done = CliRunner().invoke(app, ["curate", "../other/videos", "--out", out, "--recipe", "tiny"])
    assert done.exit_code == 2 and "lies inside" in done.stderr and len(done.stderr.splitlines()) == 1
    assert contents(dataset.parent) == before


def test_training_on_films_inside_the_folder_of_clips_is_refused_before_anything_is_written(dataset):
    before = contents(dataset)
    data = FolderData(videos=str(dataset / "videos"), folder=str(dataset.parent / "other"), recipe="tiny")
    with pytest.raises(ConfigError, match="lies inside"):
        check_folder(data, dataset.parent / "run")
    with pytest.raises(ConfigError, match="lies inside"):
        list_folder(data)
    assert contents(dataset) == before


@pytest.mark.parametrize("recipe", [SMALL, FOLDER])
def test_files_of_others_beside_the_result_are_named_and_left(films, tmp_path, recipe):
    out = tmp_path / "out"
    mine = ("videos/mine.mp4", "shards/clips-00000-backup.tar", "shards/clips-1.tar", "shards/mine.tar",
            "work/notes.txt", "readme.md", "videos/" + "a" * 24 + ".mp4")  # fmt: skip
    curate(films, out, recipe, InProcess())
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(name.encode())
    (out / "work" / "packed" / "00000-backup.json").write_text("{}")
    (films / "2.mp4").unlink()  # a smaller result: there is something to remove
    with pytest.warns(UserWarning, match="not made by curate") as told:
        curate(films, out, recipe, InProcess())
    assert all((out / name).read_bytes() == name.encode() for name in mine)
    assert sum("mine" in str(one.message) for one in told) == 2
    other = FOLDER if recipe is SMALL else SMALL
    with pytest.warns(UserWarning, match="not made by curate"):
        curate(films, out, other, InProcess())
    assert all((out / name).read_bytes() == name.encode() for name in mine)
    ours = {p.name for p in (out / "shards").glob("clips-0000?.tar")}
    assert ours == (set() if other is FOLDER else {"clips-00000.tar", "clips-00001.tar"})


@pytest.mark.parametrize("name", ["metadata.jsonl", "clips.parquet", "shards/clips-00000.tar", "work/x.json",
                                  "summary.json", ".curate/made.jsonl", ".lock"])  # fmt: skip
def test_files_of_others_where_ours_belong_are_refused_by_name(films, tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("somebody's work")
    before = contents(out)
    with pytest.raises(OutputError, match=name.partition("/")[0]):
        curate(films, out, SMALL, InProcess())
    assert contents(out) == before


@pytest.mark.parametrize("name", ["shards", "videos", "work", ".curate"])
def test_a_folder_of_the_result_that_leads_elsewhere_is_refused(films, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "a.mp4", take(9, 12))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(elsewhere)
    with pytest.raises(OutputError, match=f"{name}: not a folder inside"):
        curate(films, tmp_path / "out", FOLDER, InProcess())
    assert os.listdir(elsewhere) == ["a.mp4"]


def test_a_lock_that_is_a_link_is_not_written_through(films, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"\.lock"), only_one(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_result_that_somebody_changed_is_not_replaced_or_removed(films, tmp_path):
    out = tmp_path / "out"
    curate(films, out, FOLDER, InProcess())
    corrected = (out / "metadata.jsonl").read_text().replace('"text":""', '"text":"by hand"')
    (out / "metadata.jsonl").write_text(corrected)
    with pytest.raises(OutputError, match=r"metadata\.jsonl: not as curate wrote it, so it is not replaced"):
        curate(films, out, FOLDER, InProcess())
    assert (out / "metadata.jsonl").read_text() == corrected
    with pytest.warns(UserWarning, match=r"metadata\.jsonl: not as curate wrote it, so it is left"):
        curate(films, out, SMALL, InProcess())
    assert (out / "metadata.jsonl").read_text() == corrected
    shard = out / "shards" / "clips-00001.tar"
    shard.write_bytes(bytes(len(shard.read_bytes())))  # the size is the same, the bytes are not
    (films / "1.mp4").unlink()
    (films / "2.mp4").unlink()
    with pytest.warns(UserWarning, match=r"clips-00001\.tar: not as curate wrote it"):
        curate(films, out, SMALL, InProcess())
    assert shard.is_file() and not (out / "shards" / "clips-00002.tar").exists()


def test_a_list_that_a_kill_cut_short_is_read(films, tmp_path):
    out = tmp_path / "out"
    curate(films, out, SMALL, InProcess())
    whole = (out / ".curate" / "made.jsonl").read_bytes()
    with open(out / ".curate" / "made.jsonl", "ab") as stream:
        stream.write(b'{"file": "shards/cli')
    curate(films, out, SMALL, InProcess())
    assert (out / ".curate" / "made.jsonl").read_bytes() == whole


@pytest.mark.parametrize("line", ['{"file": "../films/0.mp4", "sha256": "0", "bytes": 1}', "[" * 100_000, "3",
                                  '{"file": "videos/../../films/0.mp4", "sha256": "0", "bytes": 1}'])  # fmt: skip
def test_a_list_of_strangers_names_no_file_outside(films, tmp_path, line):
    out = tmp_path / "out"
    curate(films, out, SMALL, InProcess())
    with open(out / ".curate" / "made.jsonl", "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(OutputError, match=r"made\.jsonl:\d+"):
        curate(films, out, SMALL, InProcess())
    assert len(os.listdir(films)) == 3

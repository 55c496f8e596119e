"""From films to shards: whole runs, resumed runs, hostile films."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.clip_folders.video_files import list_videos
from cogvideox.curation import engines, worker
from cogvideox.curation.engines import LocalEngine
from cogvideox.curation.pipeline import only_one
from cogvideox.curation.recipe import RECIPES, Recipe, recipe, tiny
from cogvideox.curation.run import curate
from cogvideox.errors import ConfigError, InputError, OutputError
from cogvideox.files import atomic
from cogvideox.files.atomic import atomic_file
from cogvideox.video import read_video
from support.films import take, write
from support.processes import exit_code

SMALL = tiny().override(["per_shard=3", "shots.min_seconds=0.5"])


class InProcess:
    """Does jobs here: a quarter of a second cheaper than a worker, and as pure."""

    def run(self, jobs, order):
        for job in jobs:
            worker.do(job, order)
            yield engines.JobOutcome(job)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    write(root / "a.mp4", np.concatenate([take(1, 12), take(2, 12)]))
    write(root / "b" / "c.mp4", take(3, 10))
    write(root / "b" / "copy.mp4", take(3, 10))
    write(root / "d.mkv", np.pad(take(4, 12, width=64), ((0, 0), (0, 0), (16, 16), (0, 0))))
    write(root / "e.mp4", np.full((24, 64, 96, 3), 120, np.uint8))
    write(root / "f.avi", take(6, 12), codec="mpeg4")
    (root / "b" / "c.txt").write_text("A drifting   texture.\n")
    (root / "broken.mp4").write_bytes((root / "a.mp4").read_bytes()[:3000])
    (root / "words.mp4").write_text("#EXTM3U\nhttp://example.invalid/a.ts\n")
    (root / ".hidden.mp4").write_bytes(b"x")
    (root / "notes.md").write_text("no film")
    os.symlink("/etc/hostname", root / "link.mp4")
    os.symlink(root / "gone.mp4", root / "dangling.mp4")
    os.mkfifo(root / "pipe.mp4")
    return root


def outputs(out: Path) -> dict[str, bytes]:
    """Every file of a result, its marks left out."""
    found = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("work/", ".lock"))}


@pytest.fixture(scope="module")
def result(films, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "curated"
    with pytest.warns(UserWarning, match="left out") as told:
        curate(films, out, SMALL, LocalEngine(2))
    named = {
        str(each.message).partition(":")[0].rpartition("/")[2]
        for each in told
        if "left out" in str(each.message)
    }
    assert named == {"link.mp4", "dangling.mp4", "pipe.mp4"}
    return out


def rows(out: Path) -> tuple[list[dict], list[dict]]:
    import pyarrow.parquet as pq

    kept = pq.read_table(out / "clips.parquet").to_pylist()
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    return kept, dropped


def test_every_film_is_accounted_for_and_every_drop_has_a_reason(result):
    kept, dropped = rows(result)
    reasons = {(d["source"]["path"], d["dropped"]["reason"]) for d in dropped}
    assert {row["path"] for row in kept} == {"a.mp4", "b/c.mp4", "d.mkv", "f.avi"}
    assert reasons == {
        ("b/copy.mp4", "exact copy"), ("broken.mp4", "unreadable"), ("words.mp4", "unreadable"),
        ("e.mp4", "frozen high"), ("link.mp4", "a link out of the folder"), ("dangling.mp4", "a link to nothing"),
        ("pipe.mp4", "no ordinary file"),
    }  # fmt: skip
    ids = [row["id"] for row in kept] + [row["id"] for row in dropped]
    assert len(ids) == len(set(ids))
    detail = next(d["dropped"]["detail"] for d in dropped if d["source"]["path"] == "broken.mp4")
    assert detail.startswith("broken.mp4: ")


def test_shards_hold_single_shots_that_can_be_read(result, tmp_path):
    kept, _ = rows(result)
    found = {}
    for tar in sorted((result / "shards").glob("*.tar")):
        with tarfile.open(tar) as members:
            for member in members:
                found[member.name] = members.extractfile(member).read()
    assert {name.partition(".")[0] for name in found} == {row["id"] for row in kept}
    for row in kept:
        file = tmp_path / "clip.mp4"
        file.write_bytes(found[f"{row['id']}.mp4"])
        video = read_video(file)
        assert (len(video), video.height, video.width) == (row["frames"], row["height"], row["width"])
        assert json.loads(found[f"{row['id']}.json"])["source"]["path"] == row["path"]
    boxed = next(row for row in kept if row["path"] == "d.mkv")
    assert (boxed["width"], boxed["height"], boxed["copied"]) == (64, 64, False)
    texts = [data for name, data in found.items() if name.endswith(".txt")]
    assert texts == [b"A drifting texture."]


def test_webdataset_reads_the_shards(result):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted((result / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert {sample["__key__"] for sample in samples} == {row["id"] for row in rows(result)[0]}


def test_a_rerun_does_nothing_again(result, films):
    class Nobody:
        def run(self, jobs, order):
            assert not list(jobs)
            return iter(())

    before = outputs(result)
    curate(films, result, SMALL, Nobody())
    assert outputs(result) == before


def test_a_folder_without_videos_is_refused_and_no_earlier_result_goes(result, tmp_path):
    (tmp_path / "unmounted").mkdir()
    with pytest.raises(InputError, match="holds no videos"):
        curate(tmp_path / "unmounted", tmp_path / "out", SMALL, InProcess())
    assert not (tmp_path / "out").exists()


def test_another_engine_gives_the_same_bytes(result, films, tmp_path):
    curate(films, tmp_path / "out", SMALL, InProcess())
    assert outputs(tmp_path / "out") == outputs(result)


def test_a_run_stopped_at_every_job_ends_in_the_same_bytes(result, films, tmp_path):
    class Dies(InProcess):
        def run(self, jobs, order):
            yield from (outcome for n, outcome in zip(range(1), super().run(jobs, order), strict=False))
            for _ in jobs:
                raise KeyboardInterrupt

    for _ in range(40):
        try:
            curate(films, tmp_path / "out", SMALL, Dies())
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("never came to an end")
    assert outputs(tmp_path / "out") == outputs(result)


def die_half_written(file):
    atomic._swept.add(file.parent.resolve())  # the process has written there before
    with atomic_file(file, overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_run_left_half_written_goes(result, films, tmp_path):
    out = tmp_path / "out"
    curate(films, out, SMALL, InProcess())
    for place in ("shards/clips-00000.tar", "clips.parquet", "dropped.jsonl", "work/measured/aa/a.json"):
        assert exit_code(die_half_written, out / place) == -signal.SIGKILL
    assert len(list(out.rglob(".*.new-*"))) == 4
    (out / ".mine.new-0123456789ab").write_text("not ours")
    curate(films, out, SMALL, InProcess())
    assert [path.name for path in out.rglob(".*.new-*")] == [".mine.new-0123456789ab"]
    (out / ".mine.new-0123456789ab").unlink()
    assert outputs(out) == outputs(result)


def test_a_changed_film_is_done_again_and_its_old_clips_go(films, tmp_path):
    root, out = tmp_path / "films", tmp_path / "out"
    write(root / "a.mp4", take(20, 12))
    write(root / "b.mp4", take(21, 12))
    curate(root, out, SMALL, InProcess())
    before = {row["path"]: row["sha256"] for row in rows(out)[0]}
    write(root / "b.mp4", take(22, 16))
    os.utime(root / "b.mp4", (1, 1))
    curate(root, out, SMALL, InProcess())
    after = {row["path"]: row["sha256"] for row in rows(out)[0]}
    assert after["a.mp4"] == before["a.mp4"] and after["b.mp4"] != before["b.mp4"]
    (root / "b.mp4").unlink()
    assert curate(root, out, SMALL, InProcess())["kept"] == 1


def test_a_videofolder_holds_the_same_clips(result, films, tmp_path):
    out = tmp_path / "out"
    curate(films, out, SMALL.override(["layout=videofolder"]), InProcess())
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in rows(result)[0]]
    assert all((out / line["file_name"]).is_file() for line in lines)
    assert {p.stem for p in (out / "videos").iterdir()} == {line["id"] for line in lines}
    curate(films, out, SMALL, InProcess())  # back again: what the other layout left goes
    assert outputs(out) == outputs(result)


def test_a_film_that_kills_its_worker_is_given_up_alone(films, tmp_path, monkeypatch):
    """A worker that aborts on one film: two workers die, the film is dropped by name, the others are done."""
    code = (
        "import os, cogvideox.curation.worker as w\n"
        "old = w.measure\n"
        "def measure(root, path, *rest):\n"
        "    if path == 'f.avi': os.abort()\n"
        "    if path == 'e.mp4':\n"
        "        while True: pass\n"
        "    return old(root, path, *rest)\n"
        "w.measure = measure\n"
        "w.main()\n"
    )
    real = subprocess.Popen

    def start(command, **more):
        return real([command[0], "-c", code], **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    quick = SMALL.override(["limits.cpu_seconds=2"])
    curate(films, tmp_path / "out", quick, LocalEngine(1))
    kept, dropped = rows(tmp_path / "out")
    why = {d["source"]["path"]: (d["dropped"]["reason"], d["dropped"]["detail"]) for d in dropped}
    assert why["f.avi"] == ("crashed", "2 workers died of it (SIGABRT)")
    assert why["e.mp4"] == ("too slow", "a worker used more than 2 s of processor time")
    assert {row["path"] for row in kept} == {"a.mp4", "b/c.mp4", "d.mkv"}


def test_a_step_that_stumbles_is_named_and_tried_again_next_time(films, tmp_path, monkeypatch):
    calls = []

    class Stumbles(InProcess):
        def run(self, jobs, order):
            for job in jobs:
                calls.append(job["path"])
                if job["path"] == "f.avi" and len(calls) < 20 and job["do"] == "measure":
                    yield engines.JobOutcome(job, worker.FAILED, "ZeroDivisionError: of a step")
                else:
                    worker.do(job, order)
                    yield engines.JobOutcome(job)

    curate(films, tmp_path / "out", SMALL, Stumbles())
    assert any(d["dropped"]["reason"] == "failed" for d in rows(tmp_path / "out")[1])
    calls += ["x"] * 20
    curate(films, tmp_path / "out", SMALL, Stumbles())
    assert "f.avi" in {row["path"] for row in rows(tmp_path / "out")[0]}


def test_a_full_disk_stops_the_run_by_name_and_the_next_goes_on(films, tmp_path, monkeypatch):
    from cogvideox.curation import run

    def full(*_):
        raise OutputError("shards/clips-00000.tar: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_tar", full)
        with pytest.raises(OutputError, match="No space left"):
            curate(films, tmp_path / "out", SMALL, InProcess())
    assert not (tmp_path / "out" / "summary.json").exists()
    assert curate(films, tmp_path / "out", SMALL, InProcess())["kept"] == 5


def test_two_runs_do_not_share_a_folder(tmp_path):
    again = pytest.raises(OutputError, match="another run works here")
    with only_one(tmp_path / "out"), again, only_one(tmp_path / "out"):
        pass


def test_folders_that_cannot_be_are_refused(films, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        curate(tmp_path / "none", tmp_path / "out", SMALL, InProcess())
    with pytest.raises(ConfigError, match="lies inside"):
        curate(films, films / "out", SMALL, InProcess())


def test_only_what_decides_a_measurement_is_measured_again():
    other = SMALL.override(["per_shard=7", "cutting.crf=30", "limits.wall_seconds=5"])
    assert other.measuring() == SMALL.measuring()
    assert SMALL.override(["look.fps=4"]).measuring() != SMALL.measuring()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_being_written_down(name, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe(name).to_yaml())
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe(name)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        recipe("tinny")


def test_the_report_shows_every_fate_and_needs_nothing_outside(result):
    page = (result / "report.html").read_text()
    for words in ("Kept", "exact copy", "frozen high", "unreadable", "motion_top", "data:image/png;base64"):
        assert words in page
    words = page.replace("http://example.invalid", "").replace("http-equiv", "")
    assert "http" not in words and "<script" not in page


def test_the_command_line_curates_inspects_and_reports(films, tmp_path):
    run, out = CliRunner().invoke, str(tmp_path / "out")
    made = run(
        app,
        ["curate", str(films), "--out", out, "--recipe", "tiny", "--workers", "1", "shots.min_seconds=0.5"],
    )
    assert made.exit_code == 0, made.output
    assert "5 of 12 clips kept from 11 videos" in made.stdout
    assert run(app, ["data", "report", out]).exit_code == 0
    told = run(app, ["data", "inspect", out, "--clip", "broken.mp4", "--json"])
    assert json.loads(told.stdout)["dropped"]["reason"] == "unreadable"
    told = run(app, ["data", "inspect", out, "--clip", "broken.mp4"])
    assert "dropped by decode: unreadable" in told.stdout and max(map(len, told.stdout.splitlines())) < 200
    told = run(app, ["data", "inspect", out, "--clip", "b/c.mp4"])
    lines = dict(line.split(None, 1) for line in told.stdout.splitlines() if line.startswith(" "))
    assert (
        lines["caption"] == "A drifting texture." and float(lines["luma"]) > 16 and "64x96" not in told.stdout
    )
    assert "96x64" in told.stdout and "{" not in told.stdout
    assert run(app, ["data", "inspect", out, "--clip", "nothing"]).exit_code == 2
    assert run(app, ["curate", str(films), "--out", out, "--engine", "rai"]).exit_code == 2
    assert run(app, ["data", "inspect", str(tmp_path)]).exit_code == 2
    assert "steps:" in run(app, ["curate", str(films), "--dry-run"]).stdout


def test_memory_of_the_table_grows_by_less_than_2_kb_a_clip():
    import tracemalloc

    from cogvideox.clip import Clip, SourceFile, Span
    from cogvideox.curation.table import ClipTable

    def clips(count):
        for n in range(count):
            source = SourceFile(path=f"film{n}.mp4", sha256=f"{n:064x}", width=64, height=64, fps=8, frames=9)
            yield Clip(
                source=source, span=Span(first=0, stop=9, start=0, end=1),
                scores={f"s{k}": n + k for k in range(20)}, prints=(f"{n:016x}",) * 5,
                embedding=(0.5,) * 192, embedder="e",
            )  # fmt: skip

    tracemalloc.start()
    table = ClipTable(clips(2000))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(table) == 2000 and used / 2000 < 2048


def test_listing_follows_no_link_out_and_sorts(films, tmp_path):
    names = [one.path for one in list_videos(films)]
    assert names == sorted(names) and "link.mp4" not in names and ".hidden.mp4" not in names


def test_an_answer_that_comes_in_pieces_is_heard(films, tmp_path, monkeypatch):
    """The end of one line and the begin of the next in one read: neither waits in a buffer until the time is up."""
    code = (
        "import sys, time\n"
        "sys.stdin.readline()\n"
        "sys.stdout.write('{}\\n{'), sys.stdout.flush()\n"
        "sys.stdin.readline()\n"
        "sys.stdout.write('}\\n'), sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: real([command[0], "-c", code], **more))
    order = worker.WorkerConfig(
        root=str(films), work=str(tmp_path), recipe=SMALL.override(["limits.wall_seconds=20"])
    )
    outcomes = list(LocalEngine(1).run([{"do": "measure", "path": "a.mp4"}], order))
    assert [(outcome.error, outcome.detail) for outcome in outcomes] == [("", "")]

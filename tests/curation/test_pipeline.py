"""The data pipeline as the README writes it: each command reads what the one before wrote."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideox import curation
from cogvideox.captioning.strategy import CaptionConfig
from cogvideox.cli import app
from cogvideox.clip_folders.listing import list_clips
from cogvideox.curation import engines, worker
from cogvideox.curation.borders import Borders
from cogvideox.curation.captions import caption_curated, read_captions
from cogvideox.curation.duplicates import ExactCopies, LookAlikes, NearCopies
from cogvideox.curation.recipe import tiny
from cogvideox.curation.report import kept_rows
from cogvideox.curation.run import curate
from cogvideox.curation.thresholds import Thresholds
from cogvideox.curation.vlm_steps import AddCaptions, VlmLabels
from cogvideox.errors import OutputError
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from support.films import take, write
from support.models import write_model_folder
from support.scripted_server import completion, scripted_server

README = Path(__file__).parents[2] / "README.md"
SMALL = tiny().override(["per_shard=2", "shots.min_seconds=0.5"])
RULES = CaptionConfig(strategy="paper", ask="rules")


class InProcess:
    """Does jobs here: a quarter of a second cheaper than a worker, and as pure."""

    def run(self, jobs, order):
        for job in jobs:
            worker.do(job, order)
            yield engines.JobOutcome(job)


def members(out: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted((out / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def contents(out: Path) -> dict[str, bytes]:
    """Files by name; the table of two libraries' headers is compared by its rows."""
    files = (
        p
        for p in out.rglob("*")
        if p.is_file() and p.name not in ("asked.jsonl", "clips.parquet", "made.jsonl")
    )
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def commands() -> list[list[str]]:
    """The commands of the README's block, up to the training."""
    block = next(
        b for b in re.findall(r"```bash\n(.*?)```", README.read_text(), re.DOTALL) if "curate videos" in b
    )
    lines = [shlex.split(line, comments=True) for line in block.splitlines() if line.startswith("cogvideox")]
    return lines[: [line[1] for line in lines].index("train") + 1]


def test_the_readmes_commands_work_one_after_the_other(tmp_path, monkeypatch):
    """As written; only the recipe of curation, the address of the server, the model and the sizes are small here."""
    pytest.importorskip("openai")
    for number in range(4):
        write(tmp_path / "videos" / f"{number}.mp4", take(number, 24, 64, 96))
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no film")
    monkeypatch.chdir(tmp_path)
    toy = str(write_model_folder(tmp_path / "toy"))
    more = {
        "curate": ["--recipe", "tiny", "--workers", "1"],
        "data": ["--frames", "9", "--short-side", "32"],
        "train": ["steps=1", "precision=fp32", "task.accumulation=1", "task.data.budget=80",
                  f"task.cache={tmp_path / 'cache'}",
                  "task.data.size.frames=9", "task.data.size.short_side=32", "task.lora.rank=2"],
    }  # fmt: skip
    with scripted_server(
        lambda request, attempt: completion("A coloured texture drifts to the left.")
    ) as server:
        run = commands()
        assert [words[1] for words in run] == ["curate", "caption", "data", "train"]
        for words in run:
            words = [
                word.replace("http://127.0.0.1:8000/v1", server.url).replace("=5b", f"={toy}")
                for word in words[1:]
            ]
            done = CliRunner().invoke(app, [*words, *more.get(words[0], [])])
            assert done.exit_code == 0, (words, done.stdout, done.stderr, done.exception)
            if words[0] == "caption":
                assert "captions of 4 clips are written into it (1 shards" in done.stderr
            if words[0] == "data":
                assert "4 of 4 clips can be used" in done.stdout
        asked = len(server.requests)
    assert asked == 4, "only what curation kept is described, once"
    assert (tmp_path / "runs" / "lora-curated" / "model" / "pytorch_lora_weights.safetensors").is_file()


@pytest.fixture
def films(tmp_path) -> Path:
    """Three world clips, one of them with its author's words, a copy, and footage the rules know nothing about."""
    for number in range(3):
        Video(render(sample_scene(21, number), size=128), 8.0).save(
            tmp_path / "films" / f"w{number}.mp4", metadata=False
        )
    (tmp_path / "films" / "w1.txt").write_text("Words of its author.")
    (tmp_path / "films" / "w0 copy.mp4").write_bytes((tmp_path / "films" / "w0.mp4").read_bytes())
    write(tmp_path / "films" / "x.mp4", take(5, 17, 128, 128))
    return tmp_path / "films"


@pytest.mark.parametrize("layout", ["webdataset", "videofolder"])
def test_captions_go_into_what_curation_made_and_stay_there(films, tmp_path, layout):
    out, recipe = tmp_path / "out", SMALL.override([f"layout={layout}"])
    assert curate(films, out, recipe, InProcess())["kept"] == 4
    videos = {name: data for name, data in members(out).items() if name.endswith(".mp4")}
    ended = caption_curated(out, RULES)
    assert ended.counts == {"done": 2, "failed": 1}, "the clip with words of its own keeps them"
    told = {json.loads(line)["file"]: json.loads(line) for line in ended.records.read_text().splitlines()}
    assert told["x.mp4"]["reason"] == "refused" and "tiny world" in told["x.mp4"]["detail"]
    assert set(told) <= {"w0.mp4", "w0 copy.mp4", "w2.mp4", "x.mp4"} and len(told) == 3
    found = list_clips(out)
    captions = sorted(entry.caption for entry in found.entries)
    assert len(captions) == 3 and "Words of its author." in captions and len(found.dropped) == 1
    assert {name: data for name, data in members(out).items() if name.endswith(".mp4")} == videos
    before, table = contents(out), list(kept_rows(out))
    assert caption_curated(out, RULES).counts == ended.counts
    assert curate(films, out, recipe, InProcess())["kept"] == 4  # a later curation leaves them as they are
    after = contents(out)
    assert [name for name in before if after.get(name) != before[name]] == []
    assert list(kept_rows(out)) == table and "Words of its author." in {row["caption"] for row in table}
    again = SMALL.override([f"layout={layout}", "cutting.crf=30", "cutting.copy_whole=false"])
    curate(films, out, again, InProcess())  # packed anew, captions and all
    assert sorted(entry.caption for entry in list_clips(out).entries) == captions


def test_a_captioning_that_is_stopped_leaves_whole_shards_and_goes_on(films, tmp_path):
    out = tmp_path / "out"
    curate(films, out, SMALL, InProcess())

    def stop(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_curated(out, RULES, progress=stop)
    assert len(read_captions(out)) == 2 and len(members(out)) >= 8
    assert caption_curated(out, RULES).counts["done"] == 2
    assert len(list_clips(out).entries) == 3


def test_a_shard_that_somebody_changed_gets_no_captions(films, tmp_path):
    out = tmp_path / "out"
    curate(films, out, SMALL, InProcess())
    shard = out / "shards" / "clips-00000.tar"
    changed = shard.read_bytes()[:-1] + b"x"
    shard.write_bytes(changed)
    with pytest.raises(OutputError, match="not as curate wrote it"):
        caption_curated(out, RULES)
    assert shard.read_bytes() == changed


def test_captions_of_a_plain_folder_are_a_folder_that_training_reads(films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    done = run(app, ["caption", "films", "--strategy", "paper", "--ask", "rules"])
    assert done.exit_code == 3 and "5 videos" in done.stderr
    doctor = run(app, ["data", "doctor", "captions", "--short-side", "32", "--frames", "9"])
    assert doctor.exit_code == 0 and "4 of 4 clips can be used" in doctor.stdout, doctor.stdout
    table = tmp_path / "captions" / "metadata.jsonl"
    table.write_text(table.read_text().replace("circle", "disc") + "\n")
    mine = table.read_bytes()
    done = run(app, ["caption", "films", "--strategy", "paper", "--ask", "rules"])
    assert done.exit_code == 1 and "not as caption wrote it" in done.stderr and table.read_bytes() == mine


def test_rules_and_the_shipped_captioner_say_what_they_cannot_know(films, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for strategy in (["--strategy", "ask", "--ask", "rules"], []):
        done = CliRunner().invoke(
            app, ["caption", "films/x.mp4", "--out", f"out{len(strategy)}", *strategy, "--json"]
        )
        assert done.exit_code == 3
        record = json.loads((tmp_path / f"out{len(strategy)}" / "records.jsonl").read_text())
        assert (record["ended"], record["reason"], record["caption"]) == ("failed", "refused", "")


def test_a_film_without_words_is_not_trained_on_under_a_made_up_name():
    from cogvideox.training.recipes import recipe

    assert recipe("videos-lora").task.data.caption is None


def test_the_tiny_world_is_told_from_everything_else():
    from cogvideox.captioning.world import is_tiny_world

    assert all(is_tiny_world(render(sample_scene(3, n), size=64)) for n in range(24))
    grey = np.full((5, 64, 64, 3), 90, np.uint8)
    frog = grey.copy()
    frog[:, 20:44, 20:44] = (110, 140, 90)
    wood = (
        (np.random.default_rng(0).normal(0, 40, (5, 64, 64, 1)) + (160, 100, 60))
        .clip(0, 255)
        .astype(np.uint8)
    )
    for frames in (take(1, 9), frog, wood, np.zeros_like(grey), np.full_like(grey, 255)):
        assert not is_tiny_world(frames)


def test_the_map_names_the_file_of_every_step_that_drops_clips():
    text = "".join(path.read_text("utf-8") for path in Path(curation.__file__).parent.glob("*.py"))
    by_kind = (Borders, VlmLabels, AddCaptions, ExactCopies, NearCopies, LookAlikes, Thresholds)
    steps = {each.model_fields["kind"].default for each in by_kind} | set(
        re.findall(r'\.drop\("(\w+)"', text)
    )
    lines = curation.__doc__.partition("| step |")[2].splitlines()[2:]
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    named = {name.strip() for row in rows for name in row.split("|")[1].split(",")}
    assert len(steps) > 10 and steps == named

"""A batch: one bad line costs one video, what is not ours stays, what has changed is made again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.manifest import manifest
from cogvideox.video import Video
from support.models import write_model_folder

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def unmade(monkeypatch) -> list[str]:
    """Nothing is denoised: which model each item had, and a grey video for it."""
    from cogvideox.generation import batch

    def make(model, prepared, *_):
        seen.append(model)
        return GreyVideo(prepared.plan.options)

    seen: list[str] = []

    def load(job, folder, **_):
        loads.append(folder.name)
        return folder.name

    loads: list[str] = []
    monkeypatch.setattr(batch, "load", load)
    monkeypatch.setattr(batch, "make", make)
    return seen


class GreyVideo:
    """What ``make`` returns, without a run."""

    def __init__(self, options, **facts):
        self.options, self.facts = options, facts
        self.record = SimpleNamespace(seed=options.seed, stages={}, seconds=0.0)

    def noted(self, **facts):
        return GreyVideo(self.options, **facts)

    @property
    def video(self) -> Video:
        record = manifest("generate", self.options.model_dump(mode="json"), {}, self.options.seed)
        return Video(np.full((9, 32, 48, 3), 99, np.uint8), 8.0, record | self.facts)


def batch(model: str, lines: list, *words: str, code: int = 0):
    Path("p.jsonl").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    chosen = ["--model", model] if model else []
    command = ["generate", "--batch", "p.jsonl", *chosen, "--out", "made", "--steps", "1", *words]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def failures() -> list[int]:
    return [item["line"] for item in json.loads(Path("made/failed.json").read_text())]


BAD = [
    {"prompt": "a", "height": "33"},
    {"prompt": "a", "frames": [9]},
    {"prompt": "a", "guidance": {}},
    {"prompt": "a", "sampler": 5},
    {"prompt": "a", "sampler": ["ddim"]},
    {"prompt": "a", "sampler": None},
    {"prompt": None},
    {"prompt": "\ud800"},
    {"prompt": "a", "fps": 1000},
    {"prompt": "a", "image": 5},
    {"prompt": "a", "video_use": "continue"},
]


def test_no_bad_line_stops_the_others(toy, unmade):
    texts = [{"prompt": "a", "frames": "9", "height": "32", "guidance": "6"}, {"prompt": "a red circle"}]
    done = batch(toy, [*BAD, *texts], code=3)
    assert failures() == list(range(1, len(BAD) + 1))
    assert len(done.stdout.splitlines()) == len(unmade) == 2
    assert "unexpected" not in done.stderr


def test_a_line_ends_where_it_ends_not_within_a_prompt(toy, unmade):
    """U+2028 and U+0085 are line ends to Python's splitlines and may stand in JSON as they are."""
    batch(toy, [json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False), {"prompt": "d"}])
    assert len(unmade) == 2


def test_running_out_of_memory_on_one_line_does_not_lose_the_rest(toy, monkeypatch):
    import cogvideox.generation.pipeline as run

    class OutOfMemoryError(RuntimeError):
        pass

    denoise, calls = run._denoise, []

    def first_fails(*given):
        calls.append(1)
        if len(calls) == 1:
            raise OutOfMemoryError
        return denoise(*given)

    monkeypatch.setattr(run, "_denoise", first_fails)
    done = batch(toy, ["a red circle", "a blue circle"], code=3)
    assert failures() == [1] and len(done.stdout.split()) == 1
    assert "out of memory" in Path("made/failed.json").read_text()


def test_a_dry_run_checks_every_line_and_makes_nothing(toy):
    done = batch(toy, [*BAD, "a red circle"], "--dry-run", code=3)
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [len(BAD) + 1]
    assert done.stderr.count("\nline ") == len(BAD) and not Path("made").exists()


def test_words_beside_a_batch_are_refused(toy):
    assert "stand in its file" in batch(toy, ["a"], "a red circle", code=2).stderr
    assert "every line has its own" in batch(toy, ["a"], "--prompt", "b", "--dry-run").stderr


def test_a_changed_line_with_a_name_is_made_again_and_only_that(toy, unmade):
    lines = [{"prompt": "a red circle", "name": "red"}, {"prompt": "a blue circle", "name": "blue"}]
    batch(toy, lines)
    done = batch(toy, [lines[0], {**lines[1], "seed": 7}])
    assert done.stdout == "made/blue.mp4\n" and "1 made before, 1 to make" in done.stderr
    assert json.loads(Path("made/blue.json").read_text())["seed"] == 7
    assert batch(toy, [lines[0], {**lines[1], "seed": 7}]).stdout == ""


def test_a_named_video_without_a_record_is_kept_and_that_is_said(toy, unmade):
    batch(toy, [{"prompt": "a", "name": "red"}], "--no-metadata")
    done = batch(toy, [{"prompt": "b", "name": "red"}], "--no-metadata")
    assert done.stdout == "" and "made/red.mp4 has no record" in done.stderr


def test_other_contents_of_a_file_or_another_alpha_make_it_again(toy, unmade):
    import torch

    def picture(value: int) -> None:
        Image.new("RGB", (48, 32), (value, 0, 0)).save("one.png")

    def adapter(value: float) -> None:
        pair = {"lora_A": torch.ones(2, 32), "lora_B": torch.full((32, 2), value)}
        name = "transformer.transformer_blocks.0.attn1.to_q"
        save_file({f"{name}.{side}.weight": x for side, x in pair.items()}, "l.safetensors")

    line, lora = {"prompt": "a", "image": "one.png"}, ("--lora", "l.safetensors", "--lora-alpha")
    picture(1)
    adapter(1.0)
    for words, change in (
        ((), lambda: None),
        ((), lambda: picture(2)),
        ((*lora, "2"), lambda: None),
        ((*lora, "4"), lambda: None),
        ((*lora, "4"), lambda: adapter(3.0)),
    ):
        change()
        assert len(batch(toy, [line], *words).stdout.split()) == 1
        assert batch(toy, [line], *words).stdout == ""


def test_files_of_somebody_else_are_not_replaced(toy, unmade):
    Path("made").mkdir()
    Path("made/notes.json").write_text('{"mine": 1}')
    Path("made/look.gif").write_bytes(b"GIF89a mine")
    lines = [{"prompt": "a", "name": name} for name in ("notes", "look", "good")]
    batch(toy, lines, "--preview", code=3)
    assert failures() == [1, 2] and Path("made/good.png").is_file()
    assert Path("made/notes.json").read_text() == '{"mine": 1}'
    assert Path("made/look.gif").read_bytes() == b"GIF89a mine"
    batch(toy, lines, "--preview", "--overwrite", code=3)  # named are the videos, not what lies beside them
    assert failures() == [1, 2] and Path("made/notes.json").read_text() == '{"mine": 1}'
    assert Path("made/look.gif").read_bytes() == b"GIF89a mine"
    for mine in ("notes.json", "look.gif"):
        Path("made", mine).unlink()
    batch(toy, lines, "--preview", "--overwrite")
    assert not Path("made/failed.json").exists()
    Path("made/good.mp4").unlink()  # what is left of a run that was stopped is ours to replace
    assert batch(toy, lines, "--preview").stdout.split()[0] == "made/good.mp4"


def test_the_list_of_failures_keeps_its_name_and_no_other_is_replaced(toy, unmade):
    assert "that of the failures" in batch(toy, [{"prompt": "a", "name": "Failed"}], code=3).stderr
    Path("made/failed.json").unlink()
    Path("made/failed.json").write_text('["mine"]')
    assert "not a list of failures" in batch(toy, ["a"], code=1).stderr
    assert Path("made/failed.json").read_text() == '["mine"]'


def test_each_line_gets_the_shipped_model_that_reads_it(unmade, monkeypatch, tmp_path):
    import cogvideox.checkpoints.shipped as shipped

    for name, kind in (("tiny", "t2v"), ("tiny-i2v", "i2v")):
        write_model_folder(tmp_path / "shipped" / name, kind)
    monkeypatch.setattr(shipped, "SHIPPED", (tmp_path / "shipped",))
    Image.new("RGB", (48, 32)).save("one.png")
    batch("", ["a red circle", {"prompt": "a", "image": "one.png"}, "a blue circle"])
    assert unmade == ["tiny", "tiny", "tiny-i2v"]  # a model is loaded once


def test_an_inserted_line_makes_only_that_line(toy, unmade):
    lines = ["a red circle", "a blue circle", {"prompt": "a red circle", "seed": 7}]
    first = batch(toy, lines).stdout.split()
    again = batch(toy, ["a green circle", *lines])
    (new,) = again.stdout.split()
    assert "3 made before, 1 to make" in again.stderr and new.startswith("made/a-green-circle-")
    assert batch(toy, [lines[2], "a green circle", lines[1], lines[0]]).stdout == ""
    assert all(Path(path).is_file() for path in first)


def test_equal_lines_are_several_videos(toy, unmade):
    assert len(set(batch(toy, ["a", "a", "a"]).stdout.split())) == 3
    assert len(batch(toy, ["a", "a", "a", "a"]).stdout.split()) == 1


def test_the_keys_of_a_line_are_the_names_of_the_flags(toy, unmade):
    line = {"prompt": "a", "negative-prompt": "b", "guidance-schedule": "wave", "lora": [], "compile": False}
    batch(toy, [line, {"prompt": "a", "negative_prompt": "c", "continue": False}])
    records = [json.loads(path.read_text())["config"] for path in sorted(Path("made").glob("*.json"))]
    assert {record["negative_prompt"] for record in records} == {"b", "c"}


def test_every_flag_of_one_video_is_a_key_and_no_other_is():
    import typer

    from cogvideox.generation.batch_file import OF_THE_RUN, key_of, line_keys

    command = typer.main.get_command(app).commands["generate"]
    flags = {key_of(name) for each in command.params for name in each.opts if name.startswith("--")}
    assert flags - {"help"} - set(OF_THE_RUN) <= line_keys()
    assert not line_keys() & set(OF_THE_RUN) and set(OF_THE_RUN) <= flags


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"promt": "a"}, "'promt': unknown setting (did you mean 'prompt'?)"),
        ({"prompt": "a", "negativ-prompt": "b"}, "did you mean 'negative_prompt'?"),
        ({"prompt": "a", "out": "b.mp4"}, "flag of the whole run; a line is named by its key name"),
        ({"prompt": "a", "device": "cpu"}, "flag of the whole run; give it on the command line"),
        ({"prompt": "a", "seed": 1, "--seed": 2}, "stands twice"),
        ({"prompt": "a", "model": "no-such-model"}, "no such folder"),
        ({"prompt": "a", "lora": "missing.safetensors"}, "no such file or folder"),
        ({"prompt": "a", "image": "missing.png"}, "missing.png"),
        ({"prompt": "a", "height": 33}, "multiple of 16"),
        ({"prompt": "a", "name": "../b"}, "not a file name"),
    ],
)
def test_a_bad_line_is_named_by_its_number_before_any_is_made(toy, unmade, line, says):
    done = batch(toy, ["a red circle", line, "a blue circle"], code=3)
    told = [text for text in done.stderr.splitlines() if text.startswith("line 2: ")]
    assert len(told) == 1 and says in told[0], done.stderr
    assert done.stderr.index("line 2: ") < done.stderr.index("Video(")
    assert failures() == [2] and len(unmade) == 2


def test_a_line_may_have_a_model_of_its_own(toy, unmade, tmp_path):
    other = write_model_folder(tmp_path / "other")
    lines = ["a red circle", {"prompt": "a", "model": str(other)}, "a blue circle"]
    batch(toy, lines)
    assert unmade == ["toy", "toy", "other"]


def test_a_table_has_the_same_names_as_columns(toy, unmade):
    Path("p.csv").write_text('Prompt,seed,--name\n"a red, small circle",7,red\na blue circle,,\n\nx,y,z,w\n')
    command = ["generate", "--batch", "p.csv", "--model", toy, "--out", "made", "--steps", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3 and "line 5: 4 fields, the header has 3" in done.stderr
    record = json.loads(Path("made/red.json").read_text())
    assert record["seed"] == 7 and record["config"]["prompt"] == "a red, small circle" and len(unmade) == 2
    Path("p.csv").write_text("prompt,sede\na,1\n")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "line 1: 'sede': unknown setting (did you mean 'seed'?)" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_an_endless_file_is_no_batch(toy):
    os.mkfifo("pipe.txt")
    Path("endless.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "endless.txt"):
        done = CliRunner().invoke(app, ["generate", "--batch", name, "--model", toy])
        assert done.exit_code == 2 and "a pipe or device" in done.stderr and done.stderr.count("\n") == 1


def test_a_video_that_others_marked_as_ai_made_is_not_ours(toy, unmade):
    from cogvideox.video import is_ours
    from cogvideox.video.saving import AI_MADE

    Path("made").mkdir()
    Path("made/red.mp4").write_bytes(f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{AI_MADE}"/>'.encode())
    assert not is_ours("made/red.mp4")
    batch(toy, [{"prompt": "a", "name": "red"}], "--no-metadata")  # kept: it may be what was asked for
    assert b"Iptc4xmpExt" in Path("made/red.mp4").read_bytes() and not unmade


def test_join_has_a_flag(toy):
    from cogvideox.video import Video

    Video(np.zeros((11, 32, 48, 3), np.uint8), 8.0).save("given.mp4")
    words = ["generate", "a", "--model", toy, "--steps", "1", "--frames", "5", "--video", "given.mp4"]
    for extra, frames in (([], 5), (["--join"], 16)):
        done = CliRunner().invoke(app, [*words, "--continue", *extra, "--out", f"{frames}.mp4"])
        assert done.exit_code == 0 and f"Video({frames} frames" in done.stderr, done.stderr
    done = CliRunner().invoke(app, [*words, "--join"])
    assert done.exit_code == 2 and "--join: has no effect without --continue" in done.stderr


def test_overwriting_a_video_leaves_a_foreign_file_beside_it(toy):
    words = ["generate", "a", "--model", toy, "--steps", "1", "--out", "v.mp4", "--overwrite"]
    for mine, extra in (("v.json", []), ("v.gif", ["--preview"])):
        Path(mine).write_text('{"mine": 1}')
        done = CliRunner().invoke(app, [*words, *extra])
        assert done.exit_code == 1 and f"{mine}: " in done.stderr and "not made here" in done.stderr
        assert Path(mine).read_text() == '{"mine": 1}' and not Path("v.mp4").exists()
        done = CliRunner().invoke(app, [*words, "--no-metadata"])
        assert done.exit_code == 0 and Path(mine).read_text() == '{"mine": 1}'
        Path(mine).unlink()
        Path("v.mp4").unlink()

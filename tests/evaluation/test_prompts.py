"""What a video was asked for is found in every layout that training reads, in VBench's own, and its absence is told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cogvideox.errors import CogVideoXError
from cogvideox.evaluate_model.options import EvaluateOptions
from cogvideox.evaluate_model.run import folder_inputs
from cogvideox.evaluation.metrics import MetricTools
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.video_folder import VideoFolder, open_videos, read_prompts
from cogvideox.evaluation.world_facts import read_verdicts
from cogvideox.files.digest import sha256_of
from cogvideox.generation.residual_reuse import read_calibration
from cogvideox.perception.experts import read_recorded
from cogvideox.progress import TERMINAL
from cogvideox.rating.study import Study
from cogvideox.video import Video, video_info
from cogvideox.world import held_out_prompts, render

FRAMES = render(held_out_prompts()[0].scene)[:2]


def videos(root: Path, *names: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        Video(FRAMES, 8).save(root / f"{name}.mp4", metadata=False)


def prompts(clips: VideoFolder) -> dict[str, str]:
    return dict(zip(clips.names, clips.prompts, strict=True))


def test_a_text_or_a_record_beside_a_video_tells_its_prompt(tmp_path):
    videos(tmp_path, "a", "b", "c", "d")
    (tmp_path / "a.txt").write_text("a cat\n", encoding="utf-8-sig")
    (tmp_path / "b.json").write_text(json.dumps({"config": {"prompt": "a dog", "seed": 3}}))
    (tmp_path / "c.json").write_text(json.dumps({"caption": "rain"}))
    clips = open_videos(tmp_path)
    assert prompts(clips) == {"a.mp4": "a cat", "b.mp4": "a dog", "c.mp4": "rain", "d.mp4": ""}
    assert clips.items[1].number == 3
    assert clips.without_prompt == "1 of 4 videos has no prompt, such as d.mp4"


def test_vbench_prompts_name_the_videos(tmp_path):
    videos(tmp_path, "a cat-0", "a cat-1", "a dog-0")
    rows = [{"prompt_en": "a cat", "dimension": ["object_class"]}, {"prompt_en": "a dog", "dimension": []}]
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(rows))
    clips = open_videos(tmp_path)
    assert clips.prompts == ["a cat", "a cat", "a dog"] and [item.number for item in clips.items] == [0, 1, 0]
    assert clips.without_prompt is None


def test_evaluate_says_how_many_videos_have_no_prompt(tmp_path, capsys):
    videos(tmp_path, "a", "b")
    (tmp_path / "prompts.csv").write_text("\ufeffvideo,caption\na.mp4,a cat\n", encoding="utf-8")
    _, inputs = folder_inputs(tmp_path, EvaluateOptions(suite="paper"), MetricTools(), TERMINAL)
    assert inputs.videos.prompts == ["a cat", ""]
    assert "1 of 2 videos has no prompt, such as b.mp4" in capsys.readouterr().err


def test_rows_that_are_not_certain_are_told_and_left_out(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,a cat, black\nb.mp4,a dog\n")
    with pytest.warns(UserWarning, match="metadata.csv line 2: 3 fields"):
        assert read_prompts(tmp_path) == {"b.mp4": "a dog"}


def _inside(reader):
    """A reader of a folder's file as a reader of the file."""
    return lambda file: reader(file.parent)


READERS = {
    "report.json": ScoreReport.read,
    "study.json": _inside(Study.read),
    "verdicts.jsonl": read_verdicts,
    "reuse.json": read_calibration,
    "observed.jsonl": read_recorded,
    "weights.safetensors": sha256_of,
    "metadata.csv": _inside(read_prompts),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_device_in_place_of_a_small_file_is_refused_at_once(name, tmp_path):
    started = time.monotonic()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CogVideoXError, match="pipe or device|no study"):
        READERS[name](tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(CogVideoXError):
        READERS[name](tmp_path / name)
    assert time.monotonic() - started < 5


@pytest.mark.filterwarnings("ignore:the record beside")
@pytest.mark.parametrize("kind", ["pipe", "link", "deep", "huge"])
def test_what_stands_beside_a_video_never_hangs_or_leaks(kind, tmp_path):
    root = tmp_path / "set"
    videos(root, "a")
    (tmp_path / "secret.json").write_text('{"config": {"prompt": "secret words"}}')
    for ending in (".json", ".txt"):
        file = root / f"a{ending}"
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "link":
            file.symlink_to(tmp_path / "secret.json")
        else:
            file.write_bytes(b"[" * 10**5 if kind == "deep" else b"")
            os.truncate(file, 1 << 40) if kind == "huge" else None
    started = time.monotonic()
    clips = open_videos(root)
    assert len(clips) == 1 and "secret" not in repr(clips.items)
    assert video_info(root / "a.mp4").manifest == {}
    assert time.monotonic() - started < 5


def test_names_that_are_no_utf8_are_refused_by_name(tmp_path):
    videos(tmp_path, "a")
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "loop").symlink_to(tmp_path)
    clips = open_videos(tmp_path)
    assert clips.names == ["a.mp4"]
    assert {each.name: each.kind for each in clips.refused} == {"caf\\xe9.mp4": "unsafe", "loop": "unsafe"}

"""The commands of docs/conditions.md run as written; only the models are small here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.video import Video, read_video
from support.models import golden_frames, write_controlnet, write_model_folder

PAGE = Path(__file__).parents[2] / "docs" / "conditions.md"
FEW = ["--steps", "1", "--overwrite", "--anyway"]


def commands() -> list[list[str]]:
    block = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, kind in {
        "5b-i2v": "i2v",
        "fun-inp": "inpaint",
        "fun-control": "control",
        "void": "removal",
        "5b": "t2v",
    }.items():
        write_model_folder(folder / name, kind)
    for name in ("canny", "hed"):
        write_controlnet(folder / name)
    frames = golden_frames(9)
    for name in ("first", "middle", "last"):
        Video(frames[:1], 8.0).save(folder / f"{name}.png", metadata=False)
    for name in ("in", "pose", "edges", "soft"):
        Video(frames, 8.0).save(folder / f"{name}.mp4")
    mask = np.zeros_like(frames)
    mask[:, 8:24, 16:32] = 255
    Video(mask, 8.0).save(folder / "mask.mp4")
    return folder


@pytest.mark.filterwarnings("ignore:.*cut away")
@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:5]))
def test_each_command_of_the_page_runs(words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*words, *(FEW if words[0] == "generate" else ["--overwrite"])])
    assert done.exit_code == 0, (words, done.stderr, done.exception)
    assert len(read_video(folder / done.stdout.split()[-1]).frames) == 9


def test_the_table_of_the_page_has_every_kind():
    from cogvideox.generation.given import TAKES

    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        kind: {flag.replace("-", "_") for flag in re.findall("`--([a-z-]+)`", text)}
        for kind, text in rows.items()
    }
    assert named == {kind: set(takes) for kind, takes in TAKES.items()}

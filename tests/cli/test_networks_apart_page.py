"""The commands of "Networks apart" in docs/checkpoints.md run as written; only the models are small here."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.video import Video
from support.models import golden_frames, write_model_folder

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
SIZE = ["--height", "32", "--width", "48", "--frames", "9"]
MORE = {"generate": [*SIZE, "--steps", "1", "--overwrite", "--anyway"], "plan": SIZE, "inspect": []}


def commands() -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").split("## Networks apart\n")[1]
    block = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    for name, kind in {"CogVideoX-Fun-V1.5-5b-InP": "inpaint", "void": "removal", "5b": "t2v"}.items():
        write_model_folder(folder / name, kind)
    (folder / "CogVideoX-Fun-V1.5-5b-InP" / "cogvideox.json").unlink()
    weights = "diffusion_pytorch_model.safetensors"
    shutil.copyfile(folder / "void" / "transformer" / weights, folder / "void_pass1.safetensors")
    shutil.copyfile(folder / "5b" / "vae" / weights, folder / "vae.safetensors")
    shutil.copytree(folder / "5b" / "transformer", folder / "CogVideoX-RIFLEx-diffusers" / "transformer")
    frames = golden_frames(9)
    Video(frames, 8.0).save(folder / "in.mp4")
    mask = np.zeros_like(frames)
    mask[:, 8:24, 16:32] = 255
    Video(mask, 8.0).save(folder / "mask.mp4")
    return folder


@pytest.mark.filterwarnings("ignore:.*scaling_factor")
@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:4]))
def test_each_command_of_the_section_runs(words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, [*words, *MORE[words[0]]])
    assert done.exit_code == 0, (words, done.stderr, done.stdout, done.exception)

"""The README's blocks run as written, one command after another; only the models, cards and sizes are small here.

Block 4 (curate, caption, train) is run by tests/curation/test_pipeline.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cogvideox import Video, read_video
from cogvideox.cli import app
from support.models import golden_frames, write_model_folder

README = Path(__file__).parents[2] / "README.md"
SMALL_RUN = ["steps=2", "precision=fp32", "task.lora.rank=2", "task.data.budget=80"]


def commands(number: int, program: str = "cogvideox") -> list[list[str]]:
    """The commands of a numbered block, as words without the program."""
    text = README.read_text(encoding="utf-8")
    block = text[text.index(f"\n## {number}. ") :].split("\n## ")[1]
    bash = "\n".join(re.findall(r"```bash\n(.*?)```", block, re.DOTALL)).replace("\\\n", " ")
    return [
        shlex.split(line, comments=True)[1:] for line in bash.splitlines() if line.startswith(f"{program} ")
    ]


def run(words: list[str]) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (words, done.stdout, done.stderr, done.exception)
    return done.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with small models in the place of 5b and 5b-i2v and an image."""
    write_model_folder(tmp_path / "models" / "5b")
    write_model_folder(tmp_path / "models" / "5b-i2v", "i2v")
    Image.fromarray(golden_frames(1)[0]).save(tmp_path / "dog.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(words: list[str]) -> list[str]:
    """The same command with the small models."""
    names = {"5b": "models/5b", "5b-i2v": "models/5b-i2v", "task.start=5b": "task.start=models/5b"}
    return [names.get(word, word) for word in words]


@pytest.mark.filterwarnings("error")  # a newcomer's first video comes without a warning
def test_block_1_makes_the_same_video_from_the_command_line_and_in_python(folder):
    (command,) = commands(1)
    run(command)
    exec(re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[0], {})
    from_command, from_python = (read_video(file).frames for file in ("square.mp4", "grows.mp4"))
    assert (from_command == from_python).all() and from_python.shape == (17, 64, 64, 3)


def test_block_2_plans_and_makes_videos_from_a_prompt_an_image_and_a_video(folder):
    run_of = commands(2)
    assert [words[0] for words in run_of] == ["plan", "generate", "generate", "generate"]
    for words in run_of:
        small_words = small(words)
        if words[0] == "plan":
            assert "fits" in run(small_words)
            continue
        run([*small_words, "--steps", "2"])
        assert read_video(words[words.index("--out") + 1]).frames.shape == (9, 32, 48, 3)


def test_block_3_checks_clips_plans_trains_a_lora_and_uses_it(folder):
    for number in range(3):
        Video(golden_frames(17), 8).save(folder / "clips" / f"{number}.mp4")
        (folder / "clips" / f"{number}.json").unlink(missing_ok=True)
        (folder / "clips" / f"{number}.txt").write_text("a red square moves")
    sizes = {"49": "9", "480": "32"}
    for words in commands(3):
        words = [sizes.get(word, word) for word in small(words)]
        match words[0]:
            case "data":
                assert "3 of 3 clips can be used" in run(words)
            case "plan":
                assert "GB" in run(words)
            case "train":
                run([*words, *SMALL_RUN, "task.accumulation=1"])
            case "generate":
                run([*words, "--steps", "2"])
    assert (folder / "runs/lora/model/pytorch_lora_weights.safetensors").is_file()
    assert read_video("fox.mp4").frames.shape == (9, 32, 48, 3)

    (launch,) = commands(3, "torchrun")
    words = [
        {"8": "2", "task.accumulation=8": "task.accumulation=2"}.get(word, word) for word in small(launch)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *words, *SMALL_RUN],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "runs/lora-8/model/pytorch_lora_weights.safetensors").is_file()

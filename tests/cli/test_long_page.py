"""The commands of docs/long.md run as written, with few steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.video import read_video

PAGE = Path(__file__).parents[2] / "docs" / "long.md"


def commands() -> list[list[str]]:
    block = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def frames_of(words: list[str]) -> int:
    """How many frames a command asks for at the shipped model's rate."""
    if "--frames" in words:
        return int(words[words.index("--frames") + 1])
    return 240 if "--seconds" in words else 48


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[1:4]))
def test_each_command_of_the_page_runs(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--steps", "1", "--guidance", "1", "--height", "32", "--width", "32"]
    done = CliRunner().invoke(app, [*words, *(few if words[0] == "generate" else [])])
    assert done.exit_code == 0, (words, done.stderr, done.exception)
    if words[0] == "generate":
        path = tmp_path / done.stdout.split()[-1]
        assert len(read_video(path)) == frames_of(words)
        assert ("long video: " in done.stderr) == ("--riflex" not in words)

"""What the command line cannot understand ends in one line and exit code 2, as every other bad input does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cogvideox.cli import app


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "a", "--sed", "1"], "--sed"),
        (["generate", "a", "--seed", "one"], "valid integer"),
        (["generate", "a", "--seed"], "--seed"),
        (["generate", "a", "b"], "b"),
        (["generate", "a", "--out"], "--out"),
        (["generte", "a"], "generte"),
        (["world", "rendr"], "rendr"),
        (["world", "render", "--n", "0"], "--n"),
        (["convert"], "source"),
        (["--nothing"], "--nothing"),
    ],
)
def test_bad_usage_is_one_line_with_the_way_to_help(words, says):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and says in line
    verbs = [word for word in words if word in ("generate", "world", "render", "convert")]
    if "requires an argument" in line:  # of which verb, the parser does not say then
        verbs = []
    assert line.endswith(f"see {' '.join(['cogvideox', *verbs])} --help")


def test_help_is_still_help():
    for words in ([], ["--help"], ["world"], ["generate", "-h"]):
        done = CliRunner().invoke(app, words)
        assert "Usage: cogvideox" in done.stdout + done.stderr and "error:" not in done.stderr


def test_a_process_says_the_same():
    command = [sys.executable, "-m", "cogvideox", "generate", "a", "--hieght", "64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--height" in done.stderr

"""Long stages are never silent: a bar or a line with the time, the first step and its estimate included."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cogvideox import progress
from cogvideox.cli import app
from cogvideox.training.metrics import RunLog
from support.models import write_model_folder


@pytest.fixture
def at(monkeypatch):
    """Sets the time."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def set_to(seconds: float) -> None:
        now[0] = seconds

    return set_to


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (68.4, "68 s"),
        (130, "2 min"),
        (4500, "75 min"),
        (12_000, "3 h 20 min"),
        (100_000, "28 h"),
        (500_000, "6 days"),
        (6.3e10, "1,998 years"),
    ],
)
def test_durations_are_short_to_read(seconds, text):
    assert progress.duration(seconds) == text


def test_a_log_gets_a_line_now_and_then(at, capsys):
    with progress.progress("making") as show:
        show("denoise", 0, 100)
        for done in range(1, 101):
            at(done * 1.0)
            show("denoise", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "denoise: 30 of 100, 30 s, about 70 s left" and len(lines) == 3


def test_a_resumed_run_named_like_its_only_stage_is_timed_from_where_it_went_on(at, capsys):
    """Training's bar has one stage, called what the bar is called: 565 steps of before were counted as new."""
    with progress.progress("world-vae") as show:
        show("world-vae", 565, 2400)
        at(60.0)
        show("world-vae", 595, 2400)
    assert capsys.readouterr().err == "world-vae: 595 of 2400, 60 s, about 60 min left\n"


def test_a_run_that_goes_on_at_its_second_step_is_not_timed_by_its_start(at, capsys, tmp_path):
    log = RunLog(tmp_path, 1000, 1, "world-vae")
    for step in (2, 3, 4):
        at((step - 1) * 10.0)
        log.advance(step)
    log.close()
    assert capsys.readouterr().err == "world-vae: 4 of 1000, 20 s, about 2 h 46 min left\n"


def test_the_first_step_is_in_the_clock_and_its_estimate_shows_before_it_is_over(at):
    told = progress.StageClock({"denoise": 4500.0})
    told.report("denoise", 0, 50)
    assert told.line() == "denoise: 0 of 50, 0.0 s, about 75 min left (estimated)"
    at(60)
    assert told.line() == "denoise: 0 of 50, 60 s, about 74 min left (estimated)"
    at(90)
    told.report("denoise", 1, 50)
    assert told.line() == "denoise: 1 of 50, 90 s, about 74 min left"
    at(120)  # within the second step the time left goes down too
    assert told.left == 49 * 90 - 30
    at(5000)
    told.report("decode", 0, 1)
    assert told.line() == "decode: 0.0 s"


def test_a_stage_that_goes_on_is_timed_by_what_was_done_since(at):
    told = progress.StageClock()
    told.report("videos", 70, 100)
    at(10)
    told.report("videos", 80, 100)
    assert told.left == 20.0


def test_the_work_before_a_first_report_of_one_item_is_that_item(at):
    """Loops that report an item when it is done say nothing at 0: the first one's time was lost."""
    told = progress.StageClock({}, "describing")
    at(300)
    told.report("describing", 1, 3)
    assert told.line() == "describing: 1 of 3, 5 min, about 10 min left"


def test_progress_within_progress_is_one_bar(capsys):
    with progress.progress("outer") as outer, progress.progress("inner") as inner:
        assert inner is outer


def test_an_estimate_that_was_too_short_says_so(at):
    told = progress.StageClock({"denoise": 10.0})
    told.report("denoise", 0, 50)
    at(11)
    assert told.line() == "denoise: 0 of 50, 11 s, longer than estimated"


def test_a_log_hears_of_a_step_that_does_not_end(capsys):
    """Nothing is reported during a long step: the line comes by itself."""
    with progress._lines(progress.StageClock({"denoise": 4500.0}), every=0.05) as show:
        show("denoise", 0, 50)
        deadline, err = time.monotonic() + 20, ""
        while "denoise: 0 of 50" not in err and time.monotonic() < deadline:
            time.sleep(0.02)
            err += capsys.readouterr().err
    assert "about 75 min left (estimated)" in err


def test_a_terminal_gets_a_bar_with_the_estimate():
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    with progress._bar("making [1]", progress.StageClock({"denoise": 4500.0}), console) as show:
        show("loading", 0, 1)
        show("denoise", 0, 50)
        deadline = time.monotonic() + 20
        while "left (estimated)" not in shown.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "about 75 min left (estimated)" in shown.getvalue() and "0/50" in shown.getvalue()


def test_every_stage_of_a_generation_has_its_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy = write_model_folder(tmp_path / "toy")
    words = ["generate", "a red circle", "--model", str(toy), "--steps", "2", "--out", "v.mp4"]
    said = CliRunner().invoke(app, words).stderr
    assert re.search(r"^toy: loaded in [\d.]+ s, on \w+$", said.replace(str(toy), "toy"), re.MULTILINE)
    times = r"text [\d.]+ s, encode [\d.]+ s, denoise [\d.]+ s, decode [\d.]+ s, write [\d.]+ s"
    assert re.search(times, said.splitlines()[-1]), said
    stages = json.loads(Path("v.json").read_text())["run"]["stages"]
    assert set(stages) == {"text", "encode", "denoise", "decode"}

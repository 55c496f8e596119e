"""What lasts between two steps is told with the time left."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from cogvideox import progress
from cogvideox.training.metrics import RunLog


def test_each_long_stage_says_how_far_it_is_and_how_long_it_will_take(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_lines", partial(progress._lines, every=0.001))
    log = RunLog(tmp_path, steps=4, start=0, title="run")
    with progress.TERMINAL.progress("sample videos") as show:
        for done in (1, 2, 3):
            time.sleep(0.1)
            show("sample videos", done, 3)
    log.advance(2)
    time.sleep(0.02)
    log.close()
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("sample videos: 2 of 3, ") and line.endswith(" left") for line in lines)
    assert any(line.startswith("run: 2 of 4, ") for line in lines)

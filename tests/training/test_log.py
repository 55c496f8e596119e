"""What lasts between two steps is told with the time left."""

from __future__ import annotations

from pathlib import Path

from cogvideox.training import metrics
from cogvideox.training.metrics import RunLog


def test_each_long_stage_says_how_far_it_is_and_how_long_it_will_take(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(metrics, "EVERY", 0.0)
    told = RunLog(tmp_path, steps=4, start=0, title="run")
    with told.stage("sample videos", 3) as done:
        for _ in range(3):
            done()
    told.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sample videos")]
    assert [line.split(",")[0] for line in lines] == ["sample videos: 1/3", "sample videos: 2/3"]
    assert all(" s left" in line for line in lines)

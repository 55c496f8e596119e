"""The table of metrics is what suites report and what the documentation lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cogvideox.evaluation.metrics import GROUPS, SUITES, MetricInputs, metrics_table
from cogvideox.evaluation.suite import evaluate
from cogvideox.evaluation.video_folder import open_videos
from cogvideox.video import Video
from cogvideox.world import held_out_prompts, render

DOCS = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_documentation_has_the_table():
    assert metrics_table() in DOCS.read_text(encoding="utf-8"), (
        "docs/evaluation.md: replace the table of scores by the output of metrics_table()"
    )


def test_every_group_belongs_to_a_suite():
    assert {group for groups in SUITES.values() for group in groups} == set(GROUPS)


@pytest.mark.parametrize("suite", SUITES)
def test_every_score_of_a_suite_has_a_line(tmp_path, suite):
    Video(render(held_out_prompts()[0].scene, frames=5), 8).save(tmp_path / "videos" / "a.mkv")
    names = [name for group in SUITES[suite] for metric in GROUPS[group] for name in metric.name.split(", ")]
    lines = [re.compile(re.sub("<[a-z]+>", ".+", name)) for name in names]
    report = evaluate(MetricInputs(open_videos(tmp_path / "videos")), suite, tmp_path / "out")
    assert all(
        any(line.fullmatch(score.name) for line in lines) or score.name == "mtscore"
        for score in report.scores
    )


def test_untagged_colours_are_read_as_asked(tmp_path):
    frames = render(held_out_prompts()[0].scene, frames=5)
    Video(frames, 8).save(tmp_path / "a.mp4")
    read = [open_videos(tmp_path, colour=colour).fingerprint() for colour in ("guess", "bt601", "bt709")]
    assert len(set(read)) == 3

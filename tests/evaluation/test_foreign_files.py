"""What stands in the folder of the scores and is not of an evaluation stays as it is."""

from __future__ import annotations

import os
import time

import pytest

from cogvideox.chat.cache import Replay
from cogvideox.errors import CogVideoXError, OutputError
from cogvideox.evaluation.report import ScoreReport
from cogvideox.perception.features import load_i3d


@pytest.mark.parametrize("name", ["report.json", "report.html", "comparison.json", "scores.json"])
def test_files_of_others_are_never_replaced_by_a_report(name, tmp_path):
    for text in ("mine", "{}", '[{"my": 1}]', '{"schema": 3}'):
        (tmp_path / name).write_text(text)
        with pytest.raises(OutputError, match=f"{name}: was not made by evaluate"):
            ScoreReport.check_free(tmp_path)
        assert (tmp_path / name).read_text() == text
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match="was not made by evaluate"):
        ScoreReport.check_free(tmp_path)


def test_a_report_of_ours_is_made_again(tmp_path):
    ScoreReport("paper", "clips", (), ()).save(tmp_path)
    (tmp_path / "report.html").write_text("page")
    (tmp_path / "scores.json").write_text('{"rows": [], "videos": []}')
    (tmp_path / "comparison.json").write_text('[{"name": "x", "verdict": "better"}]')
    ScoreReport.check_free(tmp_path)


@pytest.mark.parametrize("read", [Replay, load_i3d])
def test_a_pipe_as_transcript_or_network_is_refused_at_once(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CogVideoXError, match="pipe or device"):
            read(path)
    assert time.monotonic() - started < 5

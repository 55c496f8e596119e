"""One server for one study, and nobody else reads it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("uvicorn")
from cogvideox.errors import ConfigError, OutputError  # noqa: E402
from cogvideox.rating.ledger import RatingEntry, RatingLedger  # noqa: E402
from cogvideox.rating.study import FILE, LEDGER, make_study  # noqa: E402
from support.serving_process import ask, serving, videos  # noqa: E402


def test_a_second_server_of_one_study_is_refused_and_ratings_of_the_first_count(tmp_path):
    folder, out = videos(tmp_path / "a", 1), tmp_path / "study"
    command = [sys.executable, "-m", "cogvideox", "rate"]
    with serving(tmp_path, f"a={folder}", "--out", str(out)) as server:
        for folders in ([f"a={folder}"], []):
            second = [*command, "serve", *folders, "--out", str(out), "--port", "0"]
            done = subprocess.run(second, capture_output=True, text=True, timeout=120)
            assert (done.returncode, done.stdout) == (2, "")
            assert "a rating server is at work there (" in done.stderr
            assert f"process {server.process.pid}" in done.stderr
        assert ask(server.port)[0] == 200
        report = subprocess.run([*command, "report", str(out)], capture_output=True, text=True, timeout=120)
        assert report.returncode == 0
    with serving(tmp_path, "--out", str(out)) as server:  # and a killed one does not block
        server.process.kill()
        server.process.wait()
    with serving(tmp_path, "--out", str(out)) as server:
        assert ask(server.port)[0] == 200


def test_only_the_owner_reads_a_study_whatever_the_umask(tmp_path):
    folder, out = videos(tmp_path / "a", 1), tmp_path / "study"
    before = os.umask(0)
    try:
        with serving(tmp_path, f"a={folder}", "--out", str(out)) as server:
            ask(server.port)
            ledger = RatingLedger(out / LEDGER)
            ledger.add(RatingEntry("r", "u", {}))
            rights = {
                path.relative_to(out).as_posix(): path.stat().st_mode & 0o777 for path in out.rglob("*")
            }
            ledger.close()
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o700 == rights.pop("media")
    assert {f"{LEDGER}-wal", f"{LEDGER}-shm", LEDGER, FILE} <= rights.keys()
    rights.pop(".lock")
    assert set(rights.values()) == {0o600}


def test_a_ledger_that_others_could_read_is_closed_to_them(tmp_path):
    RatingLedger(tmp_path / LEDGER).close()
    (tmp_path / LEDGER).chmod(0o644)
    RatingLedger(tmp_path / LEDGER).close()
    assert (tmp_path / LEDGER).stat().st_mode & 0o777 == 0o600


def test_a_link_is_no_ledger(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / LEDGER).symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="cannot be used"):
        RatingLedger(tmp_path / LEDGER)
    assert (tmp_path / "other").read_text() == "precious"


def test_ratings_whose_study_is_gone_are_never_taken_for_those_of_another(tmp_path):
    folder, out = videos(tmp_path / "a", 1, frames=1), tmp_path / "study"
    make_study({"a": folder}, out)
    RatingLedger(out / LEDGER).close()
    (out / FILE).unlink()
    with pytest.raises(ConfigError, match="ratings of a study whose study.json is gone"):
        make_study({"a": folder}, out)


def test_a_study_inside_the_videos_it_is_about_is_refused(tmp_path):
    folder = videos(tmp_path / "a", 1, frames=1)
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, folder / "study", tmp_path / "link" / "study"):
        with pytest.raises(ConfigError, match="lies inside the videos of a"):
            make_study({"a": folder}, out)
    assert not (folder / "study").exists() and not (folder / FILE).exists()

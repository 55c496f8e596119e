"""Hostile requests, scripts and files at a studio on a socket: no failure, nothing runs, nothing outside its folder.

A share of what ``benchmarks/studio_hostile.py`` sends; each kind of the lists is among it.
"""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from support.browser import CHROMIUM  # noqa: E402
from support.hostile import hostile_files, hostile_requests, script_strings  # noqa: E402
from support.hostile_runs import (  # noqa: E402
    FILE_LIMITS,
    files_refused,
    raw_answered,
    requests_refused,
    scripts_kept,
    scripts_shown,
)
from support.studio_app import served_studio  # noqa: E402


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with served_studio(
        tmp_path_factory.mktemp("hostile") / "studio", page=True, limits=FILE_LIMITS
    ) as client:
        yield client


def test_the_lists_are_as_long_as_they_say(tmp_path):
    assert len(list(hostile_requests())) >= 1000
    assert len(set(script_strings(500))) == 500
    files = list(hostile_files(tmp_path / "files"))
    assert len(files) >= 300 and len({name for name, _ in files}) == len(files)


def test_hostile_requests_are_answered_by_name(served):
    figures = requests_refused(served, list(hostile_requests())[::12])
    assert not figures.faults, figures.faults[:5]
    assert figures.count > 200


def test_bytes_that_no_library_sends_are_answered_or_cut_off(served):
    figures = raw_answered(served)
    assert not figures.faults, figures.faults[:5]


def test_scripts_are_kept_as_text(served):
    figures = scripts_kept(served, script_strings(500)[::10])
    assert not figures.faults, figures.faults[:5]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_scripts_do_not_run_on_the_page(tmp_path):
    pytest.importorskip("playwright.sync_api")
    with served_studio(tmp_path / "studio", page=True) as client:
        figures = scripts_shown(client, script_strings(500)[::25])
    assert not figures.faults, figures.faults[:5]
    assert figures.count == 20


def test_hostile_files_are_refused_by_name_and_leave_nothing(served, tmp_path):
    figures = files_refused(served, list(hostile_files(tmp_path / "files"))[::12])
    assert not figures.faults, figures.faults[:5]

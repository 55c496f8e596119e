"""What must not stand in the project: machine paths, registry hosts, unfinished work, very large files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = {".safetensors", ".png", ".gif", ".mp4", ".model", ".jpg", ".npz"}
MEGABYTE = 1_000_000
# Written in pieces, so that this file holds none of them.
MACHINE_PATHS = ["/" + name + "/" for name in ("work", "farm", "opt", "home")] + ["/root" + "/."]
HOSTS = ["pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian"]
UNFINISHED = ["TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error"]
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def tracked() -> list[Path]:
    """The files of the repository; outside a checkout, the files of the source tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    folders = ("src", "tests", "docs", "examples", "benchmarks")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix == ".py" and "src" in path.relative_to(ROOT).parts]


def lines_with(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found = []
    for path in files:
        if path.suffix in BINARY or path.stat().st_size > 2 * MEGABYTE:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}")
    return found


def any_of(words: list[str], before: str = "") -> re.Pattern[str]:
    return re.compile(before + "(?:" + "|".join(re.escape(word) for word in words) + ")")


@pytest.mark.parametrize(
    "pattern",
    [any_of(MACHINE_PATHS, before=r"(?<![\w.\-*}/:])"), any_of(HOSTS)],
    ids=["machine-paths", "hosts"],
)
def test_no_machine_is_named(pattern):
    assert not lines_with(pattern, FILES)


def test_nothing_in_the_package_is_unfinished():
    assert not lines_with(any_of(UNFINISHED, before=r"\b"), SOURCES)


def test_no_error_is_swallowed_whole():
    broad = re.compile(r"^\s*except\s*(Exception|BaseException)?\s*:")
    assert not lines_with(broad, SOURCES)


def test_no_room_has_a_vague_name():
    vague = [path for path in SOURCES if VAGUE & {path.stem, *path.relative_to(ROOT).parts}]
    assert not vague


def test_a_file_is_one_idea():
    long = {
        str(path.relative_to(ROOT)): count
        for path in SOURCES
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 450
    }
    assert not long


def test_no_file_is_very_large():
    large = [path for path in FILES if path.stat().st_size > 50 * MEGABYTE]
    assert not large

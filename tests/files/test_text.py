"""Small texts of strangers: a regular file, in the folder, of bounded size, in a named encoding; or one clear error."""

from __future__ import annotations

import os
import subprocess

import pytest

from cogvideox.errors import InputError
from cogvideox.files import files_below, open_regular, read_small_text, shown


def test_another_encoding_is_named_by_line_and_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"not UTF-8 \(line 3, byte 11: .*save it as UTF-8"):
        read_small_text(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("caf\xe9", encoding="utf-16")
    assert read_small_text(tmp_path / "b.txt") == "caf\xe9"
    (tmp_path / "c.txt").write_bytes("caf\xe9".encode("utf-16-le"))
    with pytest.raises(InputError, match="c.txt: (not UTF-8|holds a NUL)"):
        read_small_text(tmp_path / "c.txt")


def test_what_is_no_plain_file_in_the_folder_is_refused_without_waiting(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.txt").write_text("secret")
    os.mkfifo(tmp_path / "in/pipe")
    (tmp_path / "in/link").symlink_to(tmp_path / "out.txt")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in/loop")
    (tmp_path / "in/zero").symlink_to("/dev/zero")
    for name, why in {
        "pipe": "a pipe or device",
        "link": "leads out",
        "loop": "leads out|cannot be read",
        "zero": "leads out",
        "": "a folder",
    }.items():
        with pytest.raises(InputError, match=why):
            read_small_text(tmp_path / "in" / name, root=tmp_path / "in")
    with pytest.raises(InputError, match="a pipe or device"):
        read_small_text("/dev/zero")
    with pytest.raises(InputError, match="more than 3 bytes"), open_regular(tmp_path / "out.txt", most=3):
        pass
    with pytest.raises(InputError, match="cannot be read"):
        read_small_text("a\0b")


def test_a_name_that_is_no_utf8_is_shown_by_its_bytes():
    assert shown(os.fsdecode(b"caf\xe9.mp4")) == "caf\\xe9.mp4"
    assert shown("café") == "café"


def test_a_walk_goes_as_deep_as_there_is_and_follows_no_link(tmp_path, request):
    deep = tmp_path / "deep"
    request.addfinalizer(  # deeper than Python's own removal goes
        lambda: subprocess.run(["rm", "-rf", str(deep)], check=True)
    )
    deep.mkdir()
    here = os.getcwd()
    os.chdir(deep)
    try:
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        open("last.mp4", "w").close()
    finally:
        os.chdir(here)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder.mp4/inner.mp4").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/x.mp4").touch()
    skipped: dict[str, str] = {}
    names = [path.relative_to(tmp_path).name for path in files_below(tmp_path, {".mp4"}, skipped)]
    assert names == ["a.mp4", "last.mp4", "inner.mp4", "loop.mp4"]
    assert list(skipped) == ["again"] and "link to a folder" in skipped["again"]

"""What a video is called when it is downloaded: words of its prompt, never a path."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")
from cogvideox.studio.video_object import file_name  # noqa: E402


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red circle, moving!", "A-red-circle-moving-01234567"),
        ("../../etc/passwd\0", "etc-passwd-01234567"),
        ('a "quoted"\r\nSet-Cookie: x', "a-quoted-Set-Cookie-x-01234567"),
        ("赤い丸が動く", "赤い丸が動く-01234567"),
        ("\U0001f600 ...", "01234567"),
        ("", "01234567"),
        ("long " * 100, "-".join(["long"] * 12) + "-01234567"),
    ],
)
def test_a_download_is_called_by_its_prompt(prompt, name):
    assert file_name(SimpleNamespace(prompt=prompt, id="video_" + "0123456789abcdef" * 2)) == name

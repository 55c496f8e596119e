"""Whatever stands in a name or a prompt, a terminal of any encoding shows it and JSON stays JSON."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from cogvideox.cli.terminal import result, result_json
from cogvideox.progress import say

ODD = os.fsdecode(b"caf\xe9") + " \u20ac \x1b[2J \x7f \u200b \U000e0001 \ud800 \U0001f600 end"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "utf-16"])
def test_odd_names_are_shown_and_json_stays_json(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    say(ODD)
    result(ODD)
    result_json({ODD: ODD})
    said, shown, values = raw.getvalue().decode(encoding).splitlines()
    assert said == shown and "\x1b" not in said and "caf\\udce9" in said and said.endswith("end")
    assert json.loads(values) == {ODD: ODD}

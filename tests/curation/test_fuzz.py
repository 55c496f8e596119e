"""A sample of the broken films of benchmarks/fuzz.py: each is read or refused, by name, and the run goes on."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def fuzz():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_broken_films_are_read_or_refused_and_all_are_accounted_for(tmp_path):
    fates = fuzz().run(84, 1, tmp_path)["fates"]
    assert sum(fates.values()) >= 84 and fates["unreadable"] >= 20
    assert not {"failed", "too slow"} & set(fates)

"""Actors of Ray do the same jobs as the pool of processes, and the result has the same bytes."""

from __future__ import annotations

import numpy as np

from cogvideox.curation.engines import LocalEngine, RayEngine
from cogvideox.curation.recipe import tiny
from cogvideox.curation.run import curate
from support.films import take, write


def test_ray_gives_the_same_bytes_as_processes(cluster, tmp_path):
    root = tmp_path / "films"
    write(root / "a.mp4", np.concatenate([take(1, 12), take(2, 12)]))
    write(root / "b.mkv", take(3, 10))
    write(root / "c.mp4", take(4, 10))
    (root / "d.mp4").write_bytes((root / "c.mp4").read_bytes()[:2500])
    recipe = tiny()
    curate(root, tmp_path / "ray", recipe, RayEngine(1))
    curate(root, tmp_path / "local", recipe, LocalEngine(1))
    for name in ("shards/clips-00000.tar", "clips.parquet", "dropped.jsonl", "summary.json", "report.html"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name

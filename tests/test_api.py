"""Whatever the command line does is one Python call, with plain keywords that are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cogvideox
from cogvideox.api import training_config
from cogvideox.checkpoints.hub import find_folder
from cogvideox.curation.recipe import tiny
from cogvideox.errors import ConfigError
from cogvideox.files.digest import digests_of
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from support import training_line
from support.films import take, write


def test_the_face_is_functions_and_values():
    verbs = ("load", "save", "generate", "train", "curate", "caption", "convert", "inspect", "plan")
    assert set(verbs) <= set(cogvideox.__all__)
    assert all(type(getattr(cogvideox, verb)).__name__ == "function" for verb in verbs)


def test_a_plan_chooses_how_a_run_fits():
    found = cogvideox.plan("tiny", frames=9, device="cpu", memory_limit="4GB")
    assert isinstance(found, cogvideox.MemoryPlan) and found.choice is not None
    assert (found.request.frames, found.limit) == (9, 4 * 10**9)
    assert cogvideox.plan("tiny", frames=9, device="cpu", memory_limit="1MB").choice is None
    with pytest.raises(ConfigError, match="frame: unknown setting .did you mean 'frames'"):
        cogvideox.plan("tiny", frame=9)


def test_training_settings_are_keywords(tmp_path):
    config = training_config("world-t2v", out=tmp_path, steps=7, **{"optim.lr": 1e-4})
    assert (config.out, config.steps, config.optim.lr) == (str(tmp_path), 7, 1e-4)
    assert training_config("world-t2v", overrides=["steps=8"]).steps == 8
    with pytest.raises(ConfigError, match="step: unknown setting .did you mean 'steps'"):
        training_config("world-t2v", step=7)


def test_a_run_is_trained(tmp_path):
    folder = cogvideox.train(training_line.run(tmp_path / "out"), steps=2)
    assert folder.is_dir() and (tmp_path / "out" / "metrics.jsonl").is_file()


def test_videos_are_curated(tmp_path):
    write(tmp_path / "films" / "a.mp4", take(1, 12))
    recipe = tiny().override(["per_shard=3", "shots.min_seconds=0.5"])
    summary = cogvideox.curate(tmp_path / "films", tmp_path / "out", recipe=recipe, workers=1)
    assert summary["films"] == 1 and (tmp_path / "out" / "report.html").is_file()
    with pytest.raises(ConfigError, match="engine 'rai': unknown .did you mean 'ray'"):
        cogvideox.curate(tmp_path / "films", tmp_path / "out", engine="rai")


def test_videos_are_captioned(tmp_path):
    scene = sample_scene(21, 0)
    Video(render(scene), 8.0).save(tmp_path / "clips" / "a.mp4", metadata=False)
    records = []
    summary = cogvideox.caption(
        tmp_path / "clips",
        tmp_path / "out",
        strategy="paper",
        ask="rules",
        seconds=1.0,
        on_record=records.append,
    )
    assert summary.counts == {"done": 1} and len(records) == 1
    (line,) = [json.loads(text) for text in Path(summary.metadata).read_text().splitlines()]
    assert line["text"] == records[0].caption


def test_a_video_is_made_with_keywords(tmp_path):
    model = cogvideox.load("tiny", device="cpu")
    seen = []
    video = cogvideox.generate(
        model, "a red circle moves to the right", seen.append, steps=1, seed=1, frames=1
    )
    assert len(video) == 1 and isinstance(seen[0], cogvideox.Progress)
    again = cogvideox.generate(model, "a red circle moves to the right", steps=1, seed=1, frames=1)
    assert np.array_equal(video.frames, again.frames)
    digests = video.manifest["model"]["weights"]
    assert len(digests) == 3 and all(len(digest) == 64 for digest in digests.values())
    assert digests == digests_of(find_folder("tiny"))

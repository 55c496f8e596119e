"""Clips encoded by several workers: the latents of one process, each clip once, what fails named, resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cogvideox.checkpoints.diffusers import load_vae
from cogvideox.checkpoints.hub import find_folder
from cogvideox.cli import app
from cogvideox.clip_folders.listing import list_clips
from cogvideox.data import encode_elsewhere
from cogvideox.data.clips import ClipSize, FolderClips, WorldClips
from cogvideox.data.encode_elsewhere import ClipEncoder, ClipEncoders, clips_from_plain, jobs_of
from cogvideox.data.latents import digest_of, encoded
from cogvideox.engines import JobEngine
from cogvideox.errors import CheckpointError
from cogvideox.training.config import Run
from cogvideox.worker_pool import LongestFirst
from support.clip_folders import write_layout

SIZE = ClipSize(frames=9, short_side=32)


@pytest.fixture(scope="module")
def vae():
    return load_vae(find_folder("tiny"), dtype="float32").eval()


@pytest.fixture(params=["local", "ray"])
def engine(request):
    """Two workers: processes, or actors of ray where it is installed."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return JobEngine(request.param, 2)


def encoders(vae, folder, engine=None):
    weights = digest_of(vae.encoder, vae.config)
    return ClipEncoders(engine or JobEngine("local", 2), find_folder("tiny"), weights, folder)


def assert_same(one, two):
    assert one.keys == two.keys and one.indices == two.indices and one.dropped == two.dropped
    for index in range(len(one)):
        for here, there in zip(one.latents(index), two.latents(index), strict=True):
            assert torch.equal(here, there)
        assert torch.equal(one.first(index), two.first(index))


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_two_workers_make_the_latents_of_one_process_and_resume(vae, tmp_path, engine, monkeypatch):
    monkeypatch.setattr(encode_elsewhere, "PER_JOB", 3)
    source = WorldClips(0, "train", 8, 32, 9)
    one = encoded(source, vae, tmp_path / "one")
    two = encoded(source, vae, tmp_path / "two", elsewhere=encoders(vae, tmp_path / "two", engine).encode)
    assert_same(one, two)
    pieces = sorted((tmp_path / "two").glob("*.safetensors"))
    assert len(pieces) == 3
    pieces[0].unlink()
    asked = []

    def watched(source, missing, dropped):
        asked.extend(missing.values())
        return encoders(vae, tmp_path / "two", engine).encode(source, missing, dropped)

    assert_same(one, encoded(source, vae, tmp_path / "two", elsewhere=watched))
    assert 0 < len(asked) <= 3
    asked.clear()
    assert_same(one, encoded(source, vae, tmp_path / "two", elsewhere=watched))
    assert not asked


@pytest.mark.usefixtures("one_thread")
def test_clips_of_a_folder_are_those_of_one_process_and_a_broken_one_has_its_reason(vae, tmp_path):
    folder = tmp_path / "clips"
    names = [name for name, _ in write_layout(folder, "stems", count=4)]
    (folder / names[2]).write_bytes(b"not a video")
    source = FolderClips(list_clips(folder), SIZE)
    one = encoded(source, vae, tmp_path / "one")
    two = encoded(source, vae, tmp_path / "two", elsewhere=encoders(vae, tmp_path / "two").encode)
    assert_same(one, two)
    assert len(two) == 3 and len(two.dropped) == 1


def test_written_down_and_read_again_a_source_has_the_same_pixels(tmp_path):
    write_layout(tmp_path, "stems", count=3)
    for source in (
        FolderClips(list_clips(tmp_path), SIZE, colour="bt601"),
        WorldClips(3, "train", 5, 32, 9),
        WorldClips(3, "train", 5, 32, 9, {"size": 1.0, "pan": 2.0}),
        WorldClips(3, "train", 5, 32, 9, {"meet": 1.0, "pan": 2.0}, style="rich"),
    ):
        chosen = [2, 0]
        plain = json.loads(json.dumps([source.to_plain(), [source.clip_to_plain(each) for each in chosen]]))
        again = clips_from_plain(*plain)
        assert len(again) == 2
        for number, index in enumerate(chosen):
            assert again.name(number) == source.name(index)
            assert np.array_equal(again.pixels(number), source.pixels(index))


def test_the_largest_job_is_handed_out_first(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_elsewhere, "PER_JOB", 1)
    names = [name for name, _ in write_layout(tmp_path, "stems", count=3)]
    largest = tmp_path / names[1]
    largest.write_bytes(largest.read_bytes() + b"\0" * 100_000)
    source = FolderClips(list_clips(tmp_path), SIZE)
    jobs = jobs_of(source, {f"key{n}": n for n in range(3)})
    assert [job.job["keys"] for job in jobs] == [["key0"], ["key1"], ["key2"]]
    first = LongestFirst(jobs).take(None)
    assert first is not None and first.job["names"] == [names[1]]


def test_a_worker_with_another_autoencoder_stops_the_run(tmp_path):
    config = {"vae": str(find_folder("tiny")), "weights": "0" * 16, "device": "cpu", "folder": str(tmp_path)}
    with pytest.raises(CheckpointError, match="another autoencoder here"):
        ClipEncoder(config | {"source": {}})
    source = WorldClips(0, "train", 2, 32, 9)
    wrong = ClipEncoders(JobEngine("local", 1), find_folder("tiny"), "0" * 16, tmp_path)
    with pytest.raises(CheckpointError, match="every node needs the same files"):
        list(wrong.encode(source, {"a": 0, "b": 1}, {}))


@pytest.mark.usefixtures("here", "one_thread")
def test_training_finds_everything_that_was_encoded_before_it(capsys):
    settings = [
        "task.clips=6", "task.frames=9", "task.size=32", "task.batch=2", "steps=2", "task.cache=latents",
        "task.vae=tiny", "task.text=tiny", "task.device=cpu",
    ]  # fmt: skip
    done = CliRunner().invoke(app, ["data", "encode", "world-t2v", *settings, "--workers", "2"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert done.stdout.splitlines()[-1] == "latents" and "to train on" in done.stdout
    from cogvideox import api

    run = api.training_config("world-t2v", overrides=settings)
    assert isinstance(run, Run)
    capsys.readouterr()
    run.task.build(run.seed, run.steps)
    assert "encoded" not in capsys.readouterr().err


def test_a_task_that_reads_pixels_has_nothing_to_encode():
    done = CliRunner().invoke(app, ["data", "encode", "world-vae", "--workers", "2"])
    assert done.exit_code == 2 and "reads no latents" in done.stderr

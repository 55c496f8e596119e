"""A video is watched while it is made: by a tiny autoencoder, or by colours fitted to the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from typer.testing import CliRunner

import cogvideox
from cogvideox.cli import app
from cogvideox.generation.watch import Previewer
from cogvideox.vae.tiny import TinyVAE
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from support.golden import fill_model


@pytest.fixture(scope="module")
def model():
    return cogvideox.load("tiny", device="cpu", dtype="float32")


def test_fitted_colours_show_what_the_autoencoder_encoded(model):
    for index in range(3):
        video = Video(render(sample_scene(1, index)), 8.0)
        pixels = video.to_tensor()
        latents = model.encode_video(pixels, sample=False)
        seen = Previewer(model)(latents)
        first = F.avg_pool2d(pixels[0, :, 0], 8).flatten(1)
        found = torch.from_numpy(seen[0]).permute(2, 0, 1).flatten(1) / 127.5 - 1
        assert seen.shape == (5, 8, 8, 3)
        assert (found - first).abs().mean() < 0.1
        both = torch.stack([(each - each.mean(1, keepdim=True)).flatten() for each in (found, first)])
        assert torch.corrcoef(both)[0, 1] > 0.6


def test_the_command_writes_a_growing_gif(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a red circle moves to the right", "--steps", "4", "--seed", "0", "--out", "red.mp4"]
    done = CliRunner().invoke(app, [*words, "--watch", "2"])
    assert done.exit_code == 0, done.stderr
    with Image.open("red.watch.gif") as gif:
        assert gif.n_frames == 2 * 5, "the clip so far, after steps 2 and 4"
        gif.seek(9)
        last = np.asarray(gif.convert("RGB")).reshape(-1, 3).max(0)
    assert last[0] > last[2] + 20, "the circle is red when it is done"
    again = CliRunner().invoke(app, [*words, "--watch", "2", "--overwrite"])
    assert again.exit_code == 0, again.stderr


def test_a_tiny_autoencoder_decodes_when_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(fill_model(TinyVAE()).state_dict(), tmp_path / "taecvx.safetensors")
    words = ["generate", "a red circle", "--steps", "1", "--vae-coding", "tiny"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "--tiny-vae" in refused.stderr
    done = CliRunner().invoke(app, [*words, "--tiny-vae", "taecvx.safetensors", "--out", "a.mkv"])
    assert done.exit_code == 0, done.stderr
    assert cogvideox.read_video("a.mkv").frames.shape == (17, 64, 64, 3)


def test_what_stands_at_the_name_of_the_preview_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red.watch.gif").write_bytes(b"mine")
    words = ["generate", "a red circle", "--steps", "1", "--watch", "1", "--out", "red.mp4", "--overwrite"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "red.watch.gif" in done.stderr
    assert (tmp_path / "red.watch.gif").read_bytes() == b"mine"

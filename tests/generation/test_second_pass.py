"""The second pass of a removal: binary masks, noise that moves like the first pass, and files of four levels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cogvideox
from cogvideox.cli import app
from cogvideox.errors import FrameError, InputError
from cogvideox.generation.conditions import shown
from cogvideox.generation.given import Given, is_quad_mask, read_given
from cogvideox.generation.moving_noise import FRAMES, moving_noise
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.plan import plan_run
from cogvideox.video import Video, read_video
from support.models import TOKENS, golden_frames, golden_model, golden_text, write_model_folder

LEVELS = (0, 63, 127, 255)


class Still:
    """Nothing moves."""

    name, colour = "still", False

    def __call__(self, before, after):
        assert before.ndim == 2 and before.dtype == np.uint8
        return np.zeros((*before.shape, 2), np.float32)


class Right(Still):
    """Everything moves to the right, by whole values of the noise."""

    colour = True

    def __call__(self, before, after):
        assert before.shape[2:] == (3,)
        field = np.zeros((*before.shape[:2], 2), np.float32)
        field[..., 0] = 4  # half-size pixels: 8 of the frame, one value of the noise
        return field


def model():
    return golden_model("removal", patch_size_t=2, first_latent_alone=True)


def stripes(frames):
    """A mask whose quarters have the four levels of a quad mask."""
    row = np.repeat(np.array(LEVELS, np.uint8), 12)
    return np.broadcast_to(row, (frames, 32, 48))


def fed(mask, first_pass=None, quad=False, frames=5):
    spec, video = model().spec, Video(golden_frames(frames), 8.0)
    given = Given(video=video, remove=mask, first_pass=first_pass, quad=quad)
    plan = plan_run(spec, GenerateOptions(frames=frames), given)
    row = shown(spec, plan, given).mask[0, 0, 0, 0]
    return [round(float(row[at]), 4) for at in (0, 12, 24, 36)]


def test_the_levels_that_each_pass_reads_are_those_of_the_sheet():
    first = Video(golden_frames(5), 8.0)
    quad = 255 - stripes(5)
    assert fed(quad, quad=True) == [1, 1, round(127 / 255, 4), 0]
    assert fed(quad, first, quad=True) == [1, 1, 1, 0]
    noisy = np.clip(quad.astype(int) + np.array([-30, 20, -28, 12]).repeat(12), 0, 255).astype(np.uint8)
    assert fed(noisy, quad=True) == [1, 1, round(127 / 255, 4), 0]
    assert fed(quad[:, :, ::-1], first) == [0, 1, 1, 1]


def test_a_file_of_four_levels_is_known_by_its_name(tmp_path):
    from PIL import Image

    for name in ("quadmask_0.png", "mask.png"):
        Image.fromarray(stripes(1)[0]).save(tmp_path / name)
    video = Video(golden_frames(5), 8.0)
    quad = read_given(GenerateOptions(remove=str(tmp_path / "quadmask_0.png")), video=video)
    plain = read_given(GenerateOptions(), video=video, remove=tmp_path / "mask.png")
    assert quad.quad and not plain.quad and not is_quad_mask(None)
    assert (quad.remove == 255 - plain.remove).all()


def test_still_pictures_keep_the_noise_and_moving_ones_carry_it_along():
    spec, first = model().spec, Video(golden_frames(9), 8.0)
    shape = (1, 4, 4, 4, 6)
    still = moving_noise(first, spec, shape, 3, Still())
    assert still.shape == shape and all(torch.equal(still[:, :, 0], still[:, :, t]) for t in range(4))
    assert not torch.equal(still, moving_noise(first, spec, shape, 4, Still()))
    # every frame is looked at, so that neighbours of 72 are one value apart; width 48 and height 40 keep values whole
    wide = (1, 4, FRAMES, 5, 6)
    right = moving_noise(first, spec, wide, 3, Right())
    torch.testing.assert_close(right[0, :, 2, :, 2:], right[0, :, 1, :, 1:-1], atol=2e-4, rtol=0)
    assert float(right.std()) == pytest.approx(1, abs=0.1)


def test_a_second_pass_starts_from_that_noise_with_guidance_and_a_binary_mask(monkeypatch):
    network, text = model(), golden_text()
    video, first = Video(golden_frames(5), 8.0), Video(golden_frames(5)[::-1].copy(), 8.0)
    mask = np.zeros((32, 48), np.uint8)
    mask[8:16, 8:16], mask[16:24, 8:16] = 255, 128
    given = dict(video=video, remove=mask, frames=5, steps=2, seed=7)
    monkeypatch.setattr("cogvideox.generation.pipeline.flow_of", lambda *_: Still())
    found = cogvideox.generate(network, first_pass=first, **given, **text)
    binary = dict(given, remove=np.where(mask > 0, 255, 0).astype(np.uint8))
    plan = plan_run(network.spec, GenerateOptions(frames=5), Given(video=video, remove=mask))
    noise = moving_noise(first, network.spec, plan.latent_shape, 7, Still())
    expected = cogvideox.generate(network, initial_latents=noise, guidance=6.0, **binary, **text)
    assert (found.frames == expected.frames).all()
    assert found.manifest["run"]["guidance"] == [6.0, 6.0] and "moves" in found.manifest["run"]["noise"]
    plain = cogvideox.generate(network, **given, **text)
    assert (plain.frames != found.frames).any()


def test_what_a_second_pass_cannot_be_is_refused():
    network, first = model(), Video(golden_frames(5), 8.0)
    with pytest.raises(InputError, match="first_pass: what it was made from is missing"):
        cogvideox.generate(network, "a room", first_pass=first, steps=1)
    with pytest.raises(InputError, match="first_pass: the model toy"):
        cogvideox.generate(golden_model(), "a room", first_pass=first, steps=1)
    long = Video(golden_frames(93), 8.0)
    given = Given(video=long, remove=np.full((93, 32, 48), 255, np.uint8), first_pass=long)
    with pytest.raises(FrameError, match="a second pass makes 85 frames at most, not 93"):
        plan_run(network.spec, GenerateOptions(frames=93), given)


@pytest.mark.parametrize(("first", "asked", "why"), [
    ((33, 32, 48), 9, "first_pass of 33 frames: 9 of the given video's 9"),
    ((5, 32, 48), 9, "first_pass of 5 frames: 9 of the given video's 9"),
    ((5, 32, 48), 9, "give the video that the first pass made of this one"),
    ((9, 48, 48), 9, "first_pass of 48x48: 48x32 is made, another shape"),
])  # fmt: skip
def test_a_first_pass_of_another_video_is_refused(first, asked, why):
    video, mask = Video(golden_frames(9), 8.0), np.full((9, 32, 48), 255, np.uint8)
    given = Given(video=video, remove=mask, first_pass=Video(np.zeros((*first, 3), np.uint8), 8.0))
    with pytest.raises(InputError, match=why):
        plan_run(model().spec, GenerateOptions(frames=asked), given)


def test_of_a_longer_first_pass_the_frames_that_are_made_again_are_followed(monkeypatch):
    network, text, mask = model(), golden_text(), np.full((32, 48), 255, np.uint8)
    video, first = Video(golden_frames(9), 8.0), Video(golden_frames(9)[::-1].copy(), 8.0)
    monkeypatch.setattr("cogvideox.generation.pipeline.flow_of", lambda *_: Right())
    whole, cut = (
        cogvideox.generate(
            network, video=video, remove=mask, frames=5, steps=1, seed=7, first_pass=each, **text
        )
        for each in (first, first[:5])
    )
    assert (whole.frames == cut.frames).all()


def test_both_passes_in_one_command_are_the_two_by_hand(tmp_path, monkeypatch):
    base = write_model_folder(tmp_path / "void", "removal")
    other = golden_model("removal", max_text_seq_length=TOKENS)
    with torch.no_grad():
        other.transformer.proj_out.weight.mul_(-1)
    second = (
        cogvideox.save(other, tmp_path / "second") / "transformer" / "diffusion_pytorch_model.safetensors"
    )
    Video(golden_frames(5), 8.0).save(tmp_path / "in.mkv")
    words = [
        "generate",
        "a grey room",
        "--model",
        base,
        "--video",
        tmp_path / "in.mkv",
        "--remove",
        "8,8,16,16",
    ]
    words += ["--steps", "2", "--seed", "7", "--device", "cpu", "--dtype", "float32"]
    out = ["--out", tmp_path / "out.mkv", "--second-pass", second]
    assert run_command([*words, *out, "--dry-run"]).exit_code == 0 and not (tmp_path / "out.mkv").exists()
    done = run_command([*words, *out])
    assert done.exit_code == 0, done.stderr
    (first,) = [run_command([*words, "--out", tmp_path / "first.mkv"])]
    assert first.exit_code == 0, first.stderr
    made = read_video(tmp_path / "out.first-pass.mkv").frames
    assert (made == read_video(tmp_path / "first.mkv").frames).all()
    by_hand = [
        "--transformer",
        second,
        "--first-pass",
        tmp_path / "out.first-pass.mkv",
        "--out",
        tmp_path / "hand.mkv",
    ]
    assert run_command([*words, *by_hand]).exit_code == 0
    hand, both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("hand", "out"))
    assert (
        both["run"]["guidance"] == hand["run"]["guidance"] == [6.0, 6.0] and "moves" in both["run"]["noise"]
    )
    assert (
        abs(
            read_video(tmp_path / "hand.mkv").frames.astype(int) - read_video(tmp_path / "out.mkv").frames
        ).mean()
        < 8
    )
    assert (read_video(tmp_path / "out.mkv").frames != made).any()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "2"], "second-pass: for one video"),
        (["--model", "tiny"], "removes nothing"),
        (["--second-pass", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--frames", "93"], "93"),
    ],
)
def test_a_second_pass_that_cannot_follow_is_refused_before_weights_are_read(
    more, message, tmp_path, monkeypatch
):
    base = write_model_folder(tmp_path / "void", "removal")
    monkeypatch.setattr("cogvideox.checkpoints.load_model", None)
    Video(golden_frames(93), 8.0).save(tmp_path / "in.mkv")
    given = [] if "tiny" in more else ["--remove", "8,8,16,16"]
    words = [
        "generate",
        "a grey room",
        "--model",
        base,
        "--video",
        tmp_path / "in.mkv",
        *given,
        "--device",
        "cpu",
    ]
    words += ["--steps", "2", "--second-pass", base, "--out", tmp_path / "out.mkv"]
    words += ["--frames", "5"] if "--frames" not in more else []
    done = run_command([*words, *more])
    assert done.exit_code in (1, 2) and message in done.stderr, done.stderr


def run_command(words):
    return CliRunner().invoke(app, [str(word) for word in words])

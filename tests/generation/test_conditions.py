"""What a run is given, as the channels that each kind of model reads."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

from cogvideox.checkpoints import load_model, save_model
from cogvideox.conditioning import resize_mask
from cogvideox.errors import InputError, MediaError
from cogvideox.generation import GenerateOptions, Noises, generate, plan_run
from cogvideox.generation.conditions import condition_of, shown
from cogvideox.generation.given import read_given, read_keyframe
from cogvideox.model import CogVideoX
from cogvideox.spec import ABOUT_KINDS, condition_channels
from cogvideox.transformer import Transformer
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from support.golden import fill
from support.models import golden_frames, golden_model, golden_text

VIDEO = Video(golden_frames(9), 8.0)
HOLE = np.zeros((9, 32, 48), np.uint8)
HOLE[:, 8:24, 16:32] = 255


def condition(model: CogVideoX, options: GenerateOptions | None = None, **brought):
    options = options or GenerateOptions(seed=0)
    given = read_given(options, **brought)
    plan = plan_run(model.spec, options, given)
    return condition_of(model, plan, given, Noises(0, torch.float32, "cpu"))


def widened(model: CogVideoX, kind: str) -> CogVideoX:
    """The model with zero columns for the conditions of another kind."""
    config = model.transformer.config
    channels = config.out_channels + condition_channels(kind, config.out_channels)
    network = Transformer(config.changed(in_channels=channels))
    state = dict(model.transformer.state_dict())
    old = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = torch.zeros(old.shape[0], channels, *old.shape[2:])
    state["patch_embed.proj.weight"][:, : old.shape[1]] = old
    network.load_state_dict(state)
    return CogVideoX.assemble(
        network.eval(), model.vae, None, model.schedule, kind=kind, height=32, width=48, frames=9, fps=8
    )


BROUGHT = {
    "i2v": {"image": golden_frames(1)[0]},
    "i2v-every-frame": {"image": golden_frames(1)[0]},
    "inpaint": {"video": VIDEO, "mask": HOLE},
    "control": {"control": VIDEO},
    "removal": {"video": VIDEO, "remove": HOLE},
}


@pytest.mark.parametrize("kind", BROUGHT)
def test_zero_columns_for_a_condition_give_the_plain_model_bit_for_bit(kind):
    plain = golden_model()
    settings = dict(steps=3, seed=5, frames=9, guidance=4.0, **golden_text())
    expected = generate(plain, "x", **settings)
    found = generate(widened(plain, kind), "x", **settings, **BROUGHT[kind])
    assert np.array_equal(found.frames, expected.frames)
    assert found.manifest["run"]["way"] == {"i2v-every-frame": "i2v"}.get(kind, kind)


@pytest.mark.parametrize(("kind", "channels"), [("inpaint", 33), ("control", 32), ("removal", 48)])
def test_the_shipped_model_with_zero_columns_gives_its_own_video_bit_for_bit(kind, channels):
    plain = load_model("tiny")
    wide = widened(plain, kind)
    wide.text = plain.text
    assert wide.transformer.config.in_channels == channels
    clip = render(sample_scene(0, 0), frames=9)
    hole = np.zeros((9, 64, 64), np.uint8)
    hole[:, 16:48, 16:48] = 255
    brought = {"control": Video(clip, 8.0)} if kind == "control" else {"video": Video(clip, 8.0)}
    brought |= {"inpaint": {"mask": hole}, "removal": {"remove": hole}}.get(kind, {})
    settings = dict(steps=2, seed=3, frames=9, height=64, width=64, guidance=3.5)
    expected = generate(plain, "a red circle moves to the right", **settings)
    found = generate(wide, "a red circle moves to the right", **settings, **brought)
    assert np.array_equal(found.frames, expected.frames)


@pytest.mark.parametrize("kind", [kind for kind in BROUGHT if kind != "i2v-every-frame"])
def test_a_condition_changes_the_video_of_a_network_that_reads_it(kind):
    model, settings = golden_model(kind), dict(steps=2, seed=5, **golden_text())
    one = generate(model, "x", **settings, **BROUGHT[kind])
    other = {
        name: Video(value.frames[:, :, ::-1].copy(), 8.0)
        if isinstance(value, Video)
        else value[..., ::-1, :].copy()
        for name, value in BROUGHT[kind].items()
        if name not in ("mask", "remove")
    }
    assert not np.array_equal(one.frames, generate(model, "x", **settings, **(BROUGHT[kind] | other)).frames)


# inpainting: the channels of CogVideoX-Fun InP


def test_the_mask_of_latents_is_the_mean_of_the_middle_pixels():
    mask = (fill("mask", (1, 1, 13, 32, 48)) > 0).float()
    small = resize_mask(mask, (4, 4, 6))
    for i in range(4):
        for k in range(6):
            square = mask[0, 0, :, 8 * i + 3 : 8 * i + 5, 8 * k + 3 : 8 * k + 5]
            assert small[0, 0, 0, i, k] == pytest.approx(square[0].mean().item(), abs=1e-6)
            for t in range(1, 4):
                first = 1 + 4 * (t - 1) + 1
                assert small[0, 0, t, i, k] == pytest.approx(
                    square[first : first + 2].mean().item(), abs=1e-6
                )


def test_the_video_has_black_in_its_hole_and_the_known_part_is_scaled():
    model = golden_model("inpaint")
    channels = condition(model, video=VIDEO, mask=HOLE).channels
    assert channels.shape == (1, 5, 3, 4, 6)
    known = channels[0, 0]
    assert known[:, 0, 0].tolist() == pytest.approx([0.7] * 3) and not known[:, 1:3, 2:4].any()
    pixels = VIDEO.to_tensor()
    pixels[..., 8:24, 16:32] = -1
    assert torch.equal(channels[:, 1:], model.encode_video(pixels, sample=False))


def test_nothing_known_is_zeros_whether_nothing_is_given_or_all_is_masked():
    model, everything = golden_model("inpaint"), np.full((32, 48), 255, np.uint8)
    for found in (condition(model, video=VIDEO, mask=everything), condition(model)):
        assert found.channels.shape == (1, 5, 3, 4, 6) and not found.channels.any()
    whole = condition(model, video=VIDEO)
    assert whole.way == "v2v" and not whole.channels.any() and whole.start is not None


def test_pictures_are_frames_that_are_known():
    model, (first, last) = golden_model("inpaint"), golden_frames(2)
    found = condition(model, image=first, last_image=last)
    assert (found.channels[0, 0, 0] == 0.7).all()
    assert not found.channels[0, 0, 1:].any(), "one frame at the end does not show in the mask of its latent"
    pixels = Video(first[None], 8.0).to_tensor().expand(-1, -1, 9, -1, -1).clone()
    pixels[:, :, 1:8] = -1
    pixels[:, :, 8:] = Video(last[None], 8.0).to_tensor()
    assert torch.equal(found.channels[:, 1:], model.encode_video(pixels, sample=False))


def test_noise_of_the_condition_leaves_black_as_it_is_and_comes_from_the_seed():
    model = golden_model("inpaint", condition_noise=0.0563)
    one, again = (condition(model, video=VIDEO, mask=HOLE).channels for _ in range(2))
    without = condition(golden_model("inpaint"), video=VIDEO, mask=HOLE).channels
    assert torch.equal(one, again) and not torch.equal(one, without)
    assert torch.equal(one[:, :1], without[:, :1])


def test_a_video_is_carried_on_by_known_frames():
    found = condition(
        golden_model("inpaint"), GenerateOptions(video_use="continue", context_frames=5), video=VIDEO
    )
    assert (found.channels[0, 0, :2] > 0).all() and not found.channels[0, 0, 2:].any()
    assert found.known is None


# image-to-video: pictures at their places


def test_key_frames_stand_at_the_latents_of_their_frames():
    model, pictures = golden_model("i2v"), golden_frames(3)
    options = GenerateOptions(sample_image=False)
    found = condition(model, options, image=pictures[0], keyframes={3: pictures[1]}, last_image=pictures[2])
    assert found.way == "keyframes" and found.facts == {"frames": [0, 3, 8], "latents": [0, 1, 2]}
    for place, picture in enumerate(pictures):
        alone = model.encode_image(Video(picture[None], 8.0).to_tensor(), sample=False)
        assert torch.equal(found.channels[:, :, place : place + 1], alone)


def test_one_picture_may_stand_in_every_frame():
    found = condition(golden_model("i2v-every-frame"), image=golden_frames(1)[0])
    assert torch.equal(found.channels[:, :, 0], found.channels[:, :, 2]) and found.channels.any()


# removal: the channels of Netflix VOID


def test_what_is_removed_goes_in_as_grey_pictures_from_zero_to_one():
    model = golden_model("removal")
    levels = np.zeros((9, 32, 48), np.uint8)
    levels[:, :8], levels[:, 8:16] = 255, 128
    found = condition(model, video=VIDEO, remove=levels)
    grey = torch.ones(1, 3, 9, 32, 48)
    grey[..., :8, :], grey[..., 8:16, :] = 0, 1 - 127 / 255
    torch.testing.assert_close(found.channels[:, :4], model.encode_video(grey, sample=False))
    torch.testing.assert_close(found.channels[:, 4:], model.encode_video(VIDEO.to_tensor(), sample=False))


# masks


def test_a_mask_may_be_a_box_a_picture_an_array_or_what_is_outside(tmp_path):
    from PIL import Image

    model = golden_model("inpaint")
    Image.fromarray(HOLE[0]).save(tmp_path / "hole.png")
    found = [
        condition(model, video=VIDEO, mask=each).channels
        for each in (
            HOLE,
            HOLE[0] > 0,
            "16,8,16,16",
            tmp_path / "hole.png",
            Video(np.stack([HOLE] * 3, -1), 8.0),
        )
    ]
    assert all(torch.equal(found[0], each) for each in found[1:])
    narrow = Video(VIDEO.frames[:, :, :32].copy(), 8.0)
    outside = condition(
        model, GenerateOptions(mask="outside", fit="contain", width=48), video=narrow
    ).channels
    assert not outside[0, 0, :, :, 0].any() and (outside[0, 0, :, :, 2:4] > 0).all()


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (HOLE[:4], "4 frames: the video has 9"),
        (np.zeros((48, 32), np.uint8), "another shape"),
        ("100,0,4,4", "nothing of it lies in the video"),
        (np.zeros((32, 48)), "expected uint8 or bool"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_with_both_sizes(mask, says):
    with pytest.raises(MediaError, match=says):
        condition(golden_model("inpaint"), video=VIDEO, mask=mask)


# what each kind takes


@pytest.mark.parametrize("kind", ABOUT_KINDS)
def test_what_a_kind_does_not_take_is_refused_with_the_kind_that_does(kind):
    takes = {"t2v": "video", "i2v": "video", "i2v-every-frame": "video", "inpaint": "video"}
    for name, brought in {
        "mask": {"video": VIDEO, "mask": HOLE},
        "control": {"control": VIDEO},
        "remove": {"video": VIDEO, "remove": HOLE},
        "last_image": {"last_image": VIDEO.frames[0]},
    }.items():
        model = golden_model(kind)
        fits = {"inpaint": ("mask", "last_image"), "i2v": ("last_image",), "control": ("control",)}
        fits["removal"] = ("remove",)
        if name in fits.get(kind, ()):
            condition(model, **brought)
        else:
            with pytest.raises(InputError, match=r"the model toy \(" + kind):
                condition(model, **brought)
    assert takes.get(kind, kind)


def test_a_model_that_needs_something_says_what():
    for kind, says in {
        "control": "control: missing",
        "removal": "video and remove",
        "i2v": "image: missing",
    }.items():
        with pytest.raises(InputError, match=says):
            generate(golden_model(kind), "x", steps=1, **golden_text())
    with pytest.raises(InputError, match="remove: missing"):
        condition(golden_model("removal"), video=VIDEO)


def test_key_frames_are_checked():
    model, picture = golden_model("i2v"), golden_frames(1)[0]
    with pytest.raises(InputError, match="keyframe 9: the video has 9 frames"):
        condition(model, keyframes={9: picture})
    with pytest.raises(InputError, match="keyframe 0 and image"):
        condition(model, image=picture, keyframes={0: picture})
    assert read_keyframe("24=a b=c.png") == (24, "a b=c.png")
    for wrong in ("mid.png", "=mid.png", "-3=mid.png", "2="):
        with pytest.raises(InputError, match="such as 24=mid.png"):
            read_keyframe(wrong)
    for wrong, says in (
        ({-1: picture}, "keyframe -1: not the number"),
        (["4=a.png"], "keyframes of list"),
        ({"4": picture}, "keyframe '4'"),
    ):
        with pytest.raises(InputError, match=says):
            generate(model, "x", keyframes=wrong, **golden_text())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keyframe=("4=a.png", "4=b.png")), "keyframe 4: both a.png and b.png"),
        (dict(mask="0,0,8,8", video_use="continue"), "mask and video_use 'continue'"),
        (dict(remove="0,0,8,8", video_use="continue"), "remove and video_use 'continue'"),
        (dict(remove="outside"), "remove outside: is for a mask"),
    ],
)
def test_what_contradicts_itself_is_refused(options, says):
    with pytest.raises(InputError, match=says):
        read_given(GenerateOptions(**options), video=VIDEO)


@pytest.mark.parametrize(
    ("frames", "brought", "says"),
    [
        (9, dict(keyframes={8: VIDEO.frames[0]}), "last_image and keyframe 8: both are frame 8"),
        (1, dict(image=VIDEO.frames[0]), "last_image and image: both are frame 0"),
    ],
)
def test_no_picture_takes_the_place_of_another_in_silence(frames, brought, says):
    options = GenerateOptions(frames=frames)
    with pytest.raises(InputError, match=says):
        plan_run(
            golden_model("i2v").spec, options, read_given(options, last_image=VIDEO.frames[1], **brought)
        )


def test_outside_may_be_an_argument():
    options = GenerateOptions(fit="contain", height=48, width=48)
    given = read_given(options, video=VIDEO, mask="outside")
    spec = golden_model("inpaint").spec
    mask = shown(spec, plan_run(spec, options, given), given).mask
    assert mask is not None and mask[..., :8, :].all() and not mask[..., 8:40, :].any()
    with pytest.raises(InputError, match="fit contain"):
        read_given(GenerateOptions(), video=VIDEO, mask="outside")


def test_the_record_names_what_was_given(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for number, frame in enumerate(golden_frames(2)):
        Image.fromarray(frame).save(f"{number}.png")
    video = generate(golden_model("i2v"), "x", steps=1, keyframes={0: "0.png", 8: "1.png"}, **golden_text())
    config = video.manifest["config"]
    assert config["keyframe"] == ["0=0.png", "8=1.png"]
    assert {"keyframe 0", "keyframe 8"} <= set(video.manifest["inputs"])
    copied = copy.deepcopy(config)
    assert GenerateOptions.parse(copied).keyframe == ("0=0.png", "8=1.png")


# what the network sees, to look at


def test_a_mask_without_white_is_told():
    black, grey = np.zeros((32, 48), bool), np.full((32, 48), 100, np.uint8)
    for mask in (black, grey):
        with pytest.warns(UserWarning, match="mask: nothing of it is white, so nothing is made anew"):
            read_given(GenerateOptions(), video=VIDEO, mask=mask)
    with pytest.warns(UserWarning, match="remove: nothing of it is white, so nothing is removed"):
        read_given(GenerateOptions(), video=VIDEO, remove=black)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_given(GenerateOptions(), video=VIDEO, remove=grey)  # what is affected
        read_given(GenerateOptions(), video=VIDEO, mask="8,8,1,1")


def test_outside_of_a_video_that_fills_the_frame_is_told():
    spec, options = golden_model("inpaint").spec, GenerateOptions(mask="outside", fit="contain")
    given = read_given(options, video=VIDEO)
    with pytest.warns(
        UserWarning, match="mask outside: the given video fills 48x32, so nothing is made anew"
    ):
        plan_run(spec, options, given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_run(spec, options.changed(width=64), given)


def test_the_preview_shows_the_hole_and_the_mask_below_it(tmp_path):
    model, options = golden_model("inpaint"), GenerateOptions()
    given = read_given(options, video=VIDEO, mask=HOLE)
    plan = plan_run(model.spec, options, given)
    seen = shown(model.spec, plan, given).video(plan)
    assert seen.frames.shape == (9, 64, 48, 3)
    assert not seen.frames[:, 8:24, 16:32].any() and (seen.frames[:, 40:56, 16:32] == 255).all()
    assert np.array_equal(seen.frames[:, :8], VIDEO.frames[:, :8])


def test_a_sheet_has_every_picture_that_was_given():
    model, options = golden_model("i2v"), GenerateOptions(frames=81)
    given = read_given(options, keyframes={17: golden_frames(1)[0]})
    plan = plan_run(model.spec, options, given)
    sheet = np.asarray(shown(model.spec, plan, given).sheet(plan))
    assert 9 * 192 <= sheet.shape[1] < 10 * 192, "eight that are evenly spaced, and frame 17"
    grey = np.abs(sheet[:128].astype(int) - 128).max(2)
    assert (grey[:, : 9 * 192] > 40).any(), "the picture is there"


def test_the_verb_preview_writes_what_generate_would_show(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from cogvideox.cli import app
    from cogvideox.video import read_video

    monkeypatch.chdir(tmp_path)
    save_model(golden_model("i2v"), tmp_path / "model")
    Video(golden_frames(1), 8.0).save("first.png")
    words = ["preview", "seen.mkv", "--model", "model", "--keyframe", "4=first.png", "--fit", "stretch"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    frames = read_video("seen.mkv").frames
    assert len(frames) == 9 and frames[4].std() > 20 and frames[3].std() < 1
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1 and "exists" in again.stderr
    nothing = CliRunner().invoke(app, ["preview", "other.mkv", "--model", "model"])
    assert nothing.exit_code == 2 and "nothing was given" in nothing.stderr

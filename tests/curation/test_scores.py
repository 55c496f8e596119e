"""Scores move the way their names say."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.stats import spearmanr

import cogvideox.world  # noqa: F401  (fills sys.modules: the function of the same name hides the module)
from cogvideox.clip import Clip, SourceFile, Span
from cogvideox.curation.borders import Borders, bars
from cogvideox.curation.duplicates import EmbeddingStep, Hashes, phash
from cogvideox.curation.scores import (
    AestheticScore,
    Flicker,
    Light,
    Sharpness,
    TextArea,
    Watermark,
)
from cogvideox.curation.step import View
from cogvideox.perception import motion_of
from cogvideox.world import render, sample_scene
from support.films import take

CLIP = Clip(source=SourceFile(path="a.mp4"), span=Span(first=0, stop=1, start=0, end=1))


def view(frames: np.ndarray, fps: float = 8.0) -> View:
    moments = np.arange(len(frames)) / fps
    return View(frames, frames, moments, *frames.shape[1:3])


def score(step, frames: np.ndarray) -> dict:
    return step.measure(CLIP, view(frames)).scores


def test_motion_follows_the_true_speed_of_the_world(monkeypatch):
    scene_module = sys.modules["cogvideox.world.scene"]
    scenes = [scene for scene in map(lambda n: sample_scene(0, n), range(40)) if scene.direction != "none"]
    still = [scene for scene in scenes if scene.camera == "static" and scene.change == "none"][:3]
    speeds = np.linspace(0, 0.6, 9)
    for scene in still:
        tops, means = [], []
        for speed in speeds:
            monkeypatch.setitem(scene_module.TRAVEL, scene.speed, speed)
            grey = render(scene, 64, 9).mean(-1).astype(np.uint8)
            motion = motion_of(grey, np.arange(9) / 8)
            tops.append(motion.top)
            means.append(motion.mean)
        assert spearmanr(speeds, tops)[0] >= 0.98
        assert spearmanr(speeds, means)[0] >= 0.98


def test_motion_does_not_depend_on_the_frame_rate_or_the_size():
    slow, fast = take(1, 9, speed=2.0), take(1, 17, speed=1.0)
    first = motion_of(slow[..., 1], np.arange(9) / 8)
    second = motion_of(fast[..., 1], np.arange(17) / 16)
    large = motion_of(slow.repeat(2, 1).repeat(2, 2)[..., 1], np.arange(9) / 8)
    assert second.mean == pytest.approx(first.mean, rel=0.1)
    assert large.mean == pytest.approx(first.mean, rel=0.15)


def test_a_pan_is_the_cameras_and_a_still_rests():
    pan = motion_of(take(2, 9, speed=2.0)[..., 1], np.arange(9) / 8)
    rest = motion_of(take(2, 9, speed=0.0)[..., 1], np.arange(9) / 8)
    assert pan.camera == pytest.approx(2 * 8 / 64, rel=0.1) and pan.own < 0.3 * pan.camera
    assert rest.still > 0.99 and rest.top < 0.005


def test_bars_are_found_and_a_dark_sky_is_no_bar():
    inside = take(3, 8, height=48)[..., 1].clip(40, 255)
    boxed = np.pad(inside, ((0, 0), (8, 8), (0, 0)), constant_values=16)
    assert bars(boxed) == (8, 8)
    assert bars(inside) == (0, 0)
    night = inside.copy()
    night[:, :20] = 5
    assert bars(night) == (0, 0)


def test_borders_crop_the_clip_and_what_later_steps_see():
    boxed = np.pad(take(4, 8, width=64).clip(40, 255), ((0, 0), (0, 0), (16, 16), (0, 0)))
    clip, seen = Borders().look(CLIP, view(boxed))
    assert (clip.crop.left, clip.crop.width, clip.crop.height) == (16, 64, 64)
    assert seen.pictures.shape == (8, 64, 64, 3)
    assert clip.scores["border"] == pytest.approx(1 / 3, abs=1e-5)


def test_light_sharpness_and_flicker_rank_what_they_name():
    frames = take(5, 12)
    blurred = (
        frames.astype(int) + np.roll(frames, 1, 2) + np.roll(frames, 2, 2) + np.roll(frames, 3, 2)
    ) // 4
    assert score(Light(), frames // 2)["luma"] < score(Light(), frames)["luma"]
    assert score(Sharpness(), blurred.astype(np.uint8))["sharpness"] < score(Sharpness(), frames)["sharpness"]
    noisy = (frames + np.random.default_rng(0).normal(0, 12, frames.shape)).clip(0, 255).astype(np.uint8)
    assert score(Sharpness(), noisy)["noise"] > score(Sharpness(), frames)["noise"] + 3
    jumping = frames.copy()
    jumping[::2] = jumping[::2] // 2
    assert score(Flicker(), jumping)["flicker"] > 10 * score(Flicker(), frames)["flicker"]
    assert score(Flicker(), frames[:1].repeat(6, 0))["frozen"] == 1.0


def test_written_lines_are_text_and_texture_is_not():
    from PIL import Image, ImageDraw, ImageFont

    card = Image.new("RGB", (320, 180), (20, 20, 60))
    draw = ImageDraw.Draw(card)
    for line in range(6):
        draw.text(
            (20, 15 + 25 * line),
            "the quick brown fox jumps over it",
            (250, 250, 250),
            ImageFont.load_default(16),
        )
    written = score(TextArea(), np.asarray(card)[None].repeat(3, 0))["text_area"]
    assert written > 0.1
    assert score(TextArea(), take(6, 3, 180, 320))["text_area"] < 0.02


def test_a_mark_that_stays_is_an_overlay_only_while_the_picture_moves():
    frames = take(7, 16, 128, 192, speed=6.0)
    marked = frames.copy()
    marked[:, 100:116, 140:180:4] = 255
    clean, logo = (score(Watermark(), f)["overlay"] for f in (frames, marked))
    assert clean < 0.005 < logo
    assert score(Watermark(), marked[:1].repeat(16, 0))["overlay"] is None


def test_prints_stay_near_under_noise_and_far_for_other_takes():
    frames = take(8, 10)
    noisy = (frames + np.random.default_rng(1).normal(0, 4, frames.shape)).clip(0, 255).astype(np.uint8)
    first, second = phash(frames[0, ..., 1]), phash(noisy[0, ..., 1])
    other = phash(take(9, 1)[0, ..., 1])
    assert (first ^ second).bit_count() <= 6 < (first ^ other).bit_count()
    assert len(Hashes().measure(CLIP, view(frames)).prints) == 5


def test_embeddings_are_unit_vectors_near_for_copies():
    vectors = [np.array(EmbeddingStep().measure(CLIP, view(take(s, 6))).embedding) for s in (10, 10, 11)]
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-3)
    assert vectors[0] @ vectors[1] > 0.999 > 0.95 > vectors[0] @ vectors[2]


def test_without_weights_the_aesthetic_score_has_another_name():
    assert set(score(AestheticScore(), take(12, 4))) == {"aesthetic_proxy"}


def test_a_clip_model_and_a_head_from_files_score_pictures(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch
    from safetensors.torch import save_file

    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32,
        patch_size=16, projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPVisionModelWithProjection(config)
    model.save_pretrained(tmp_path / "clip")
    head = {"layers.0.weight": torch.randn(4, 8), "layers.0.bias": torch.zeros(4),
            "layers.2.weight": torch.randn(1, 4), "layers.2.bias": torch.full((1,), 5.0)}  # fmt: skip
    save_file(head, tmp_path / "head.safetensors")
    frames = take(13, 2)
    got = score(AestheticScore(clip=str(tmp_path / "clip"), head=str(tmp_path / "head.safetensors")), frames)
    from cogvideox.perception.embedding import clip_pixels

    places = view(frames).spread(3)
    with torch.no_grad():
        seen = model.eval()(pixel_values=clip_pixels(frames[places], 32)).image_embeds
        seen = seen / seen.norm(dim=1, keepdim=True)
        want = (seen @ head["layers.0.weight"].T) @ head["layers.2.weight"].T + 5.0
    assert got["aesthetic"] == pytest.approx(float(want.mean()), abs=1e-3)

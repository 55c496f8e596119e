"""The shipped model says what it does not know: words its captions never used, pictures unlike its world."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cogvideox
from cogvideox.cli import app
from cogvideox.generation import GenerateOptions
from cogvideox.video import Video
from cogvideox.world import caption, held_out_prompts, render, sample_scene
from cogvideox.world.vocabulary import resembles_world, unknown_words

QUICK = {"steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def tiny():
    return cogvideox.load("tiny", device="cpu")


def told(model, prompt="a red circle", **given) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cogvideox.generate(model, GenerateOptions(prompt=prompt, **QUICK), **given)
    texts = [str(each.message) for each in seen]
    return [text for text in texts if "tiny" in text and "was distilled for" not in text]  # 2 steps are few


@pytest.mark.parametrize(
    ("prompt", "words", "share"),
    [
        ("green star", "'star'", "only part of"),
        ("white circle", "'white'", "only part of"),
        ("circle bounces", "'bounces'", "only part of"),
        ("five red circles", "'five'", "only part of"),
        ("a golden retriever runs", "'golden', 'retriever', 'runs'", "nothing of"),
    ],
)
def test_words_it_does_not_know_are_named(tiny, prompt, words, share):
    (said,) = told(tiny, prompt)
    assert words in said and share in said and "circle, square, triangle, cross, ring" in said


def test_captions_of_the_world_are_known():
    for index in range(400):
        scene = sample_scene(5, index, "train", "pair" if index % 4 == 0 else None)
        assert unknown_words(caption(scene, 5, index)) == []
    assert not [p.prompt for p in held_out_prompts() if unknown_words(p.prompt)]
    assert unknown_words("a video of a ring moving left, then growing") == []


def test_a_prompt_of_known_words_says_nothing(tiny):
    assert told(tiny) == []


def noise_picture(size: int, smooth: int) -> np.ndarray:
    """Coloured noise of a grain: what photos are like, as far as the measure sees."""
    draw = np.random.default_rng(size).integers(0, 256, (size // smooth, size // smooth, 3), np.uint8)
    return np.asarray(Image.fromarray(draw).resize((size, size), Image.Resampling.BICUBIC))


def jpeg(frame: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream).convert("RGB"))


def test_frames_of_the_world_are_known_and_other_pictures_are_not():
    for index in range(200):
        size = (64, 128, 96)[index % 3]
        frame = render(sample_scene(6, index), size, 5)[index % 5]
        assert resembles_world(jpeg(frame) if index % 2 else frame), index
    others = [noise_picture(size, smooth) for size in (64, 256) for smooth in (2, 8, 32)]
    others += [np.full((64, 64, 3), level, np.uint8) for level in (0, 95, 255)]
    gradient = np.linspace(0, 255, 64, dtype=np.uint8)
    others.append(np.stack([np.tile(gradient, (64, 1))] * 3, -1))
    assert not [number for number, each in enumerate(others) if resembles_world(each)]


def test_a_photo_given_to_the_image_model_warns_and_a_frame_of_the_world_does_not():
    model = cogvideox.load("tiny-i2v", device="cpu")
    (said,) = told(model, image=noise_picture(128, 16))
    assert said.startswith("image: does not look like the tiny world")
    assert told(model, image=render(sample_scene(0, 1), 64, 1)[0]) == []


def test_a_film_given_to_the_text_model_warns(tiny):
    film = Video(np.stack([noise_picture(64, 8)] * 9), 8.0)
    assert [said.split(":")[0] for said in told(tiny, video=film)] == ["video"]


def test_the_command_line_warns_before_it_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise_picture(96, 12)).save("photo.png")
    words = ["generate", "a green star", "--image", "photo.png", "--dry-run"]
    lines = CliRunner().invoke(app, words).stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines if line.startswith("warning")] == ["prompt", "image"]
    Path("p.txt").write_text("a red circle\na green star\n")
    done = CliRunner().invoke(app, ["generate", "--batch", "p.txt", "--dry-run"])
    assert "line 2: warning: prompt: tiny knows only part of it: 'star' is unknown" in done.stderr
    assert "line 1" not in done.stderr
    quiet = CliRunner().invoke(app, ["generate", "a green ball", "--enhance", "rules", "--dry-run"])
    assert "warning" not in quiet.stderr  # written out, it is of the world


def test_other_models_are_not_judged_by_this_world(tmp_path):
    from cogvideox.checkpoints.shipped import is_shipped, shipped_folder

    folder = shipped_folder("tiny")
    assert is_shipped(folder) and not is_shipped(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert not is_shipped(tmp_path / "tiny")

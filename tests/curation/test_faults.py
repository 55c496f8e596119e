"""Faults made on purpose: effects keep the shape, a sample is a function of its number, labels say what was done."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideox.curation.labels import LABELS
from cogvideox.perception.handcrafted import MOMENTS, handcrafted_features
from cogvideox.training.tasks.faults.samples import FAULTS, HELD_OUT, INNOCENT, sample
from cogvideox.training.tasks.faults.take_library import TakeLibrary, drawn, read_stock
from support.films import take, write

STOCK = TakeLibrary(
    {"a.mp4": [take(1, 30, 128, 192)], "b.mp4": [take(2, 30, 128, 192)]}, {"a.mp4": {"text": True}}
)
EFFECTS = [effect for effects in (*FAULTS.values(), INNOCENT) for effect in effects]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.__name__)
def test_every_effect_changes_pixels_and_keeps_the_shape(effect):
    rng = np.random.default_rng(0)
    frames, other = take(3, 20, 128, 160, speed=2.0), take(4, 20, 128, 160)
    before = frames.copy()
    made = effect(frames, rng, other)
    assert made.shape == frames.shape and made.dtype == np.uint8
    assert (made != before).any() and (frames == before).all()


def test_every_label_has_effects_for_training_and_most_have_one_held_out():
    assert set(FAULTS) == set(LABELS)
    names = {label: {effect.__name__ for effect in effects} for label, effects in FAULTS.items()}
    assert all(names[label] & HELD_OUT and names[label] - HELD_OUT for label in LABELS)


def test_a_sample_is_a_function_of_seed_and_number():
    first, again, other = sample(STOCK, 0, 5), sample(STOCK, 0, 5), sample(STOCK, 1, 5)
    assert (first.frames == again.frames).all() and first.labels == again.labels
    assert first.frames.shape != other.frames.shape or (first.frames != other.frames).any()


def test_labels_say_what_was_done_and_held_out_effects_stay_out():
    where = {effect.__name__: label for label, effects in FAULTS.items() for effect in effects}
    for index in range(18):
        made = sample(STOCK, 2, index)
        done = {where[name] for name in made.effects if name in where}
        assert done <= {label for label, value in made.labels.items() if value}
        assert not set(made.effects) & HELD_OUT


def test_what_people_said_of_a_film_holds_unless_it_was_painted_over():
    texts = [made.labels["text"] for n in range(8, 60, 9) if (made := sample(STOCK, 3, n)).video == "a.mp4"]
    assert texts and all(texts)


def test_traits_are_finite_for_any_size_and_one_picture():
    sizes = [(1, 8, 8), (2, 300, 40), (40, 64, 64)]
    shapes = set()
    for count, height, width in sizes:
        found = handcrafted_features(
            np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        )
        assert np.isfinite(found.frames).all() and np.isfinite(found.clip).all()
        shapes.add((found.frames.shape, found.clip.shape))
    assert len(shapes) == 1 and shapes.pop()[0][0] == MOMENTS


def test_stock_is_takes_of_films_and_textures_move(tmp_path):
    write(tmp_path / "a.mp4", take(5, 24, 128, 192))
    (tmp_path / "b.mp4").write_bytes(b"broken")
    stock = read_stock(tmp_path)
    assert list(stock.takes) == ["a.mp4"] and stock.takes["a.mp4"][0].shape[1] == 128
    clip = drawn(np.random.default_rng(0), 160)
    assert clip.shape == (20, 128, 160, 3) and (clip[0] != clip[5]).any()

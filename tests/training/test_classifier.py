"""Training the label classifier: it learns, its numpy form agrees, its report counts right."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cogvideox.curation.labels import LABELS, Labels
from cogvideox.errors import CheckpointError
from cogvideox.perception.handcrafted import HandcraftedFeatures, LabelClassifier, handcrafted_features
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.label_classifier import ClassifierNetwork, ClassifierTraining
from cogvideox.training.tasks.label_report import auc, best_threshold, calibrate, score_label
from support.films import take, write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    for n in range(3):
        write(folder / "films" / f"{n}.mp4", take(n, 24, 128, 192, speed=1 + n))
    task = ClassifierTraining(
        videos=str(folder / "films"), held_out=("2",), samples=36, checks=18, tests=18, width=16, batch=32,
        cache=str(folder / "traits"),
    )  # fmt: skip
    config = TrainConfig(
        name="labels", task=task, out=str(folder / "run"), steps=30, optim=OptimConfig(lr=3e-3, warmup=5, ema=0.0),
        save_every=100, measure_every=100, log_every=15,
    )  # fmt: skip
    from cogvideox.training.tasks import label_classifier

    whole = label_classifier.PER_FILE
    label_classifier.PER_FILE = 18  # pieces of the cache as small as the data
    try:
        return task.build(0), train(config)
    finally:
        label_classifier.PER_FILE = whole


def test_the_numpy_form_equals_the_network(run):
    task, folder = run
    judge = LabelClassifier.load(folder)
    network = ClassifierNetwork(task.data["train"], 16, 0.0)
    from safetensors.torch import load_file

    network.load_state_dict(load_file(folder / "classifier.safetensors"))
    network.eval()
    for row in range(6):
        frames, clip = task.data["test"]["frames"][row], task.data["test"]["clip"][row]
        want = torch.sigmoid(network(torch.from_numpy(frames)[None], torch.from_numpy(clip)[None]))[0]
        got = judge(HandcraftedFeatures(frames, clip))
        assert np.allclose([got[name] for name in LABELS], want.detach().numpy(), atol=1e-5)


def test_films_are_never_in_both_parts_and_the_card_names_them(run):
    _, folder = run
    card = json.loads((folder / "classifier.json").read_text())
    assert set(card["trained_on"]) == {"0.mp4", "1.mp4"} and set(card["tested_on"]) == {"2.mp4"}


def test_the_loss_falls(run):
    lines = [json.loads(line) for line in (run[1].parent / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]


def test_the_step_reads_a_trained_classifier(run):
    from cogvideox.clip import Clip, SourceFile, Span
    from cogvideox.curation.step import View

    frames, moments = take(9, 12, 128, 160), np.arange(12) / 8
    clip = Clip(source=SourceFile(path="a"), span=Span(first=0, stop=12, start=0, end=1.5))
    found = Labels(classifier=str(run[1])).measure(clip, View(frames, frames, moments, 128, 160))
    assert set(found.labels) == set(LABELS) and set(found.scores) == {f"label.{name}" for name in LABELS}
    assert all(label.judge.startswith("labels-") for label in found.labels.values())


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no label classifier can be read"):
        LabelClassifier.load(tmp_path)


def test_a_row_of_the_table_counts_right():
    truth = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    found = np.array([0.9, 0.8, 0.2, 0.1, 0.7, 0.2, 0.99, 0.99])
    row = score_label("text", found, truth, 0.5)
    assert (row.clips, row.tp, row.fp, row.tn, row.fn) == (6, 2 / 6, 1 / 6, 2 / 6, 1 / 6)
    assert row.accuracy == pytest.approx(4 / 6) and row.recall == pytest.approx(2 / 3)
    assert row.interval == pytest.approx((0.2999, 0.9032), abs=1e-3)  # 4 of 6
    assert auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False])) == pytest.approx(0.875)


def test_thresholds_part_and_heat_cools_what_is_too_sure():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400).astype(float)
    real = np.where(truth == 1, 1.0, -1.0) + rng.normal(0, 1.4, 400)
    assert 0.4 < best_threshold(1 / (1 + np.exp(-real)), truth) < 0.6
    assert calibrate(3 * real, truth) > 2 * calibrate(real, truth)


def test_the_classifier_that_ships_sees_what_is_plain_to_see():
    from cogvideox.training.tasks.faults.edits import still
    from cogvideox.training.tasks.faults.scenes import credits, titles

    judge = LabelClassifier.load()
    rng = np.random.default_rng(0)
    frames, other = take(11, 20, 128, 192, speed=2.0), take(12, 20, 128, 192)
    plain = judge(handcrafted_features(frames))
    written = [
        judge(handcrafted_features(effect(frames, rng, other)))["text"] for effect in (credits, titles)
    ]
    assert min(written) > 0.5 > plain["text"]
    assert judge(handcrafted_features(still(frames, rng, other)))["static"] > plain["static"]

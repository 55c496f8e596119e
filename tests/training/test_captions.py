"""Stages four and five: small networks learn, fine-tune on what was written, and come back from their folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cogvideox.captioning.describe import Describer
from cogvideox.captioning.local import (
    CaptionModel,
    load_captioner,
    load_summariser,
    save_captioner,
    save_summariser,
)
from cogvideox.captioning.stages import FrameCaptions, LocalCaptioner, Merge, ShortCaption, Summarise
from cogvideox.captioning.world import world_model
from cogvideox.chat import Chat
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.captioner import CaptionerTraining, agreement
from cogvideox.training.tasks.captions import is_held_out
from cogvideox.training.tasks.summariser import SummariserTraining
from cogvideox.video import Video
from cogvideox.world import render, sample_scene
from support.world_clips import footage_of

OPTIM = OptimConfig(lr=5e-3, warmup=4, ema=0.0)
SMALL = {"width": 32, "layers": 1, "frames": 3, "size": 16, "clips": 32, "batch": 8, "held_out": 8}


def run(task, out, steps=24):
    return train(TrainConfig(name="t", task=task, out=str(out), steps=steps, optim=OPTIM, measure_every=1000))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """What the first three stages wrote about 40 clips."""
    chat, folder = Chat(world_model()), tmp_path_factory.mktemp("records")
    stages = (ShortCaption(chat, frames=5), FrameCaptions(chat, seconds=2.0), Merge(chat))
    file = folder / "captions.jsonl"
    lines = [
        r.model_dump_json() for r in Describer(stages, "x").describe(footage_of(40), folder) if r.caption
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_summariser_learns_from_the_third_stage_and_fine_tunes(records, tmp_path):
    task = SummariserTraining(data=str(records), width=32, layers=1, vocabulary=120, batch=8)
    before = task.build(0)
    untrained = before.measure(before.module)["held_out_loss"]
    folder = run(task, tmp_path / "a")
    on = task.model_copy(update={"start": str(folder)})
    started = on.build(0)
    first = started.measure(started.module)["held_out_loss"]
    assert first < 0.8 * untrained
    again = run(on, tmp_path / "b")
    tuned = on.model_copy(update={"start": str(again)}).build(0)
    assert tuned.measure(tuned.module)["held_out_loss"] < first
    summariser = load_summariser(again)
    assert summariser.name.startswith("t5:") and isinstance(summariser('{"0": "A red circle."}'), str)


def test_a_captioner_learns_the_world_and_fine_tunes_on_written_captions(tmp_path):
    task = CaptionerTraining(**SMALL)
    fresh = task.build(0)
    untrained = fresh.measure(fresh.module)
    folder = run(task, tmp_path / "a")
    trained = task.model_copy(update={"start": str(folder)}).build(0)
    measured = trained.measure(trained.module)
    assert measured["new_loss"] < 0.8 * untrained["new_loss"]
    assert {"new_right", "held_out_right", "held_out_true", "held_out_all"} <= set(measured)
    names = [f"{index}.mp4" for index in range(100)]
    names = [n for n in names if is_held_out(n)][:2] + [n for n in names if not is_held_out(n)][:4]
    lines = []
    for index, name in enumerate(names):
        Video(render(sample_scene(5, index), size=32, frames=5), 8.0).save(tmp_path / name, metadata=False)
        lines.append({"file_name": name, "text": "A thing is there. Nothing else can be seen."})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    on = task.model_copy(update={"data": str(tmp_path / "metadata.jsonl"), "start": str(folder)})
    started = on.build(0)
    first = started.measure(started.module)["held_out_loss"]
    tuned = on.model_copy(update={"start": str(run(on, tmp_path / "b"))}).build(0)
    assert tuned.measure(tuned.module)["held_out_loss"] < 0.8 * first


def test_runs_are_a_function_of_their_seed():
    task = CaptionerTraining(**SMALL)
    first, second = task.build(3).losses(7)["loss"], task.build(3).losses(7)["loss"]
    assert torch.equal(first, second) and not torch.equal(first, task.build(3).losses(8)["loss"])


def test_the_stages_use_the_folders(records, tmp_path):
    captioner = CaptionerTraining(**SMALL).build(0)
    save_captioner(tmp_path / "c", captioner.module.captioner, captioner.tokenizer)
    summariser = SummariserTraining(data=str(records), width=32, layers=1, vocabulary=120).build(0)
    save_summariser(tmp_path / "s", summariser.module, summariser.tokenizer)
    clips = [one.load() for one in footage_of(2)]
    for stage in (LocalCaptioner(load_captioner(tmp_path / "c")), Summarise(load_summariser(tmp_path / "s"))):
        assert len(stage.write(clips)) == 2  # untrained: captions or reasons, one for each


def test_a_saved_captioner_says_the_same(tmp_path):
    task = CaptionerTraining(**SMALL).build(0)
    network = task.module.captioner.half().float()  # as it is stored
    frames = render(sample_scene(1, 1))
    folder = save_captioner(tmp_path, network, task.tokenizer)
    assert load_captioner(folder)(frames) == CaptionModel(network, task.tokenizer, "")(frames)


@pytest.mark.parametrize("spoil", ["config", "weights", "kind", "shape"])
def test_damaged_folders_are_refused_by_name(spoil, tmp_path):
    task = CaptionerTraining(**SMALL).build(0)
    save_captioner(tmp_path, task.module.captioner, task.tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    if spoil == "config":
        (tmp_path / "config.json").unlink()
    elif spoil == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    elif spoil == "kind":
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    else:
        (tmp_path / "config.json").write_text(json.dumps(config | {"mixers": 1}))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_captioner(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "nothing", '{"file_name": "a.mp4"}', '{"file_name": "a.mp4", "text": "x"}']
)
def test_data_that_cannot_be_trained_on_is_refused(text, tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match="data"):
        CaptionerTraining(**SMALL, data=str(file)).build(0)
    with pytest.raises(ConfigError, match="data"):
        SummariserTraining(data=str(file)).build(0)


def test_agreement_counts_facts():
    found = agreement([({1, 2}, {1, 2}), ({3, 4}, {3, 5}), ({6}, set())])
    assert (found["right"], found["true"], found["all"]) == (3 / 5, 3 / 4, 1 / 3)


def test_pictures_are_spread_over_the_whole_clip():
    from cogvideox.captioning.local import sample_frames

    task = CaptionerTraining(**SMALL).build(0)
    frames = np.zeros((33, 64, 96, 3), np.uint8)
    frames += np.arange(33, dtype=np.uint8)[:, None, None, None]
    seen = sample_frames(frames, task.module.captioner.config)
    assert seen.shape == (3, 16, 16, 3) and seen[:, 0, 0, 0].tolist() == [0, 16, 32]

"""Training models that read conditions: widened from a plain one, laid out as at inference, resumed, saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cogvideox import conditioning
from cogvideox.checkpoints import load_model
from cogvideox.conditioning import Coder
from cogvideox.data.clips import to_model
from cogvideox.errors import ConfigError
from cogvideox.generation import generate
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes import recipe
from cogvideox.training.tasks.base_model import base_of
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.video import Video, read_video
from support.clip_folders import write_layout
from support.folder_runs import run as folder_run
from support.folder_runs import settings as folder_settings
from support.models import write_model_folder

KINDS = {
    "inpaint": dict(
        model_kind="inpaint", masks={"silhouette": 1, "moving-box": 1, "ends": 1}, masks_per_clip=2
    ),
    "control": dict(model_kind="control", control="path"),
    "i2v": dict(model_kind="i2v"),
    "i2v-every-frame": dict(model_kind="i2v-every-frame"),
}
CHANNELS = {"inpaint": 33, "control": 32, "i2v": 32, "i2v-every-frame": 32}


pytestmark = pytest.mark.usefixtures("few_held_out")


@pytest.fixture(autouse=True)
def _encoded_in_float32(monkeypatch):
    """Also on a CPU with units for bfloat16, so that the bounds here are the same on every machine."""
    monkeypatch.setattr("cogvideox.data.latents.half_is_native", lambda dtype: False)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A toy model and a folder of seven clips of 9 and 17 frames."""
    root = tmp_path_factory.mktemp("folder")
    write_model_folder(root / "toy")
    write_layout(root / "clips", "stems", count=7, frames=(9, 17), size=48)
    return root


def tiny(cache: Path, **more) -> DiffusionTraining:
    return DiffusionTraining(start="tiny-base", cache=str(cache), clips=4, batch=2, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_of_a_widened_model_is_the_plain_ones(kind, cache):
    """The shipped model with new input channels at zero: 33 or 32 of them, bit for bit."""
    plain = DiffusionTask(tiny(cache), 0, 1).losses(0)["loss"]
    task = DiffusionTask(tiny(cache, **KINDS[kind]), 0, 1)
    assert task.module.config.in_channels == CHANNELS[kind]
    assert task.data.kind == kind and torch.equal(task.losses(0)["loss"], plain)
    (sample, _) = task.data.train.training(*task.data.of_micro_step(0))
    assert sample.condition.shape[0] == CHANNELS[kind] - 16 and sample.condition.any()


def test_masks_of_clips_that_change_their_length_in_the_autoencoder_are_refused(cache):
    """13 frames are 4 latents, which are 16 frames: the mask would be drawn for those, the hole for 13."""
    with pytest.raises(ConfigError, match="13 frames come back from the VAE as 16.*8n \\+ 1"):
        DiffusionTask(tiny(cache, frames=13, **KINDS["inpaint"]), 0, 1)


@pytest.mark.parametrize("kind", ["inpaint", "control"])
def test_channels_are_those_that_inference_lays_out(kind, cache):
    task = DiffusionTask(tiny(cache, **KINDS[kind]), 0, 1)
    model = task._model()._assembled(task.module, task.vae, task.text.model)
    coder = Coder(model, torch.float32, sample=False)
    batcher = task.data.held_out
    for clip in range(4):
        found, given = batcher.fixed([clip])[0].condition, batcher.conditions.given(clip)
        if kind == "inpaint":
            mask = torch.from_numpy(given["mask"])[None, None].float() / 255
            expected = conditioning.inpainting(coder, given["video"].to_tensor(), mask).channels
        else:
            expected = conditioning.controlled(coder, given["control"].to_tensor()).channels
        torch.testing.assert_close(found, expected[0], atol=0.02, rtol=0)  # kept as half of bfloat16 products
        assert found.std() > 0.1


def test_a_condition_is_dropped_as_often_as_asked_and_masks_of_a_clip_differ(cache):
    task = DiffusionTask(tiny(cache, condition_dropout=0.5, **KINDS["inpaint"]), 0)
    drawn = [task.data.train.training((0,), range(n, n + 1))[0].condition for n in range(24)]
    empty = [not bool(one.any()) for one in drawn]
    assert 4 <= sum(empty) <= 20
    assert len({one[0].numpy().tobytes() for one in drawn if one.any()}) == 2


def test_only_what_the_steps_read_is_encoded(tmp_path):
    task = DiffusionTask(tiny(tmp_path, **KINDS["inpaint"] | dict(masks_per_clip=50)), 0, 1)
    videos = task.data.train.conditions.videos
    assert len(videos) == 200 and 1 <= sum(key in videos.cache for key in videos.keys) <= 2
    assert task.losses(0)["loss"].isfinite()


def world_run(out: Path, cache: Path, kind: str) -> Run:
    optim = OptimConfig(lr=1e-3, warmup=0, ema=0.5)
    task = tiny(cache, samples=1, sample_steps=2, **KINDS[kind])
    return Run(
        name="world", task=task, out=str(out), steps=3, optim=optim, save_every=1, log_every=1, measure_every=100,
        sample_every=3,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["inpaint", "control"])
def test_a_resumed_run_equals_an_uninterrupted_one_and_its_result_is_read_unasked(kind, tmp_path, cache):
    result = train(world_run(tmp_path / "whole", cache, kind))
    train(world_run(tmp_path / "parts", cache, kind), stop_at=1)
    train(world_run(tmp_path / "parts", cache, kind), stop_at=2)
    train(world_run(tmp_path / "parts", cache, kind))
    whole, parts = (latest_state(tmp_path / name)["module"] for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert whole["patch_embed.proj.weight"][:, 16:].any(), "the new channels have learned"
    assert len(read_video(tmp_path / "whole" / "samples" / "00000003" / "0.mp4").frames) == 17
    model = load_model(result)
    spec = model.spec
    assert (spec.kind, spec.transformer.in_channels) == (kind, CHANNELS[kind])
    assert (spec.frames, spec.height, spec.guidance, spec.licence, spec.name) == (
        17,
        64,
        2.0,
        "Apache-2.0",
        "",
    )
    given = DiffusionTask(tiny(cache, **KINDS[kind]), 0, 1).data.held_out.conditions.given(0)
    settings = dict(steps=1, seed=0)
    made = generate(model, "a red circle", **settings, **given)
    other = given | ({"mask": 255 - given["mask"]} if kind == "inpaint" else {})
    if kind == "control":
        other = {"control": Video(given["control"].frames[:, ::-1].copy(), 8.0)}
    assert made.frames.shape == (17, 64, 64, 3)
    assert not np.array_equal(made.frames, generate(model, "a red circle", **settings, **other).frames)


def test_a_variant_is_trained_on_from_its_result(tmp_path, cache):
    result = train(world_run(tmp_path / "one", cache, "control"))
    task = DiffusionTask(
        DiffusionTraining(start=str(result), cache=str(cache), clips=4, batch=2, control="path"), 0, 1
    )
    assert task.data.kind == "control" and task.losses(0)["loss"].isfinite()
    with pytest.raises(ConfigError, match="task.control: not set, and the model follows a control video"):
        DiffusionTask(DiffusionTraining(start=str(result), cache=str(cache), clips=4, batch=2), 0, 1)
    with pytest.raises(
        ConfigError, match="model_kind inpaint: .* is control; start from a text-to-video model"
    ):
        DiffusionTraining(start=str(result), model_kind="inpaint").completed()


@pytest.mark.parametrize("batching", ["pack", "bucket"])
def test_clips_of_a_folder_are_masked_packed_and_resumed(place, tmp_path, batching):
    more = dict(model_kind="inpaint", masks={"box": 1, "keyframes": 1}, data={"batching": batching})
    train(folder_run(place, tmp_path / "whole", **more))
    train(folder_run(place, tmp_path / "parts", **more), stop_at=2)
    result = train(folder_run(place, tmp_path / "parts", **more))
    whole, parts = (latest_state(tmp_path / name)["module"] for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    model = load_model(result)
    assert model.spec.kind == "inpaint" and model.transformer.config.in_channels == 4 + 5


def test_control_videos_of_a_folder_are_read_and_must_fit(place, tmp_path):
    controls = tmp_path / "controls"
    data = folder_settings(place).data
    plain = DiffusionTask(folder_settings(place), 0)
    for side in (plain.data.train.clips, plain.data.held_out.clips):
        for index in side.indices:
            name = Path(side.source.name(index)).with_suffix(".mkv")
            Video(255 - side.source.pixels(index), 8.0).save(controls / name)
    task = DiffusionTask(folder_settings(place, model_kind="control", control=str(controls)), 0)
    clips, conditions = task.data.train.clips, task.data.train.conditions
    with torch.no_grad():
        pixels = conditions.videos.source.pixels(clips.indices[1])
        latents = task.vae.encode(to_model(torch.from_numpy(pixels)[None])).mode()[0] * 0.7
    found = conditions.channels(1, None, clips.shape(1)[1])
    torch.testing.assert_close(found, latents, atol=0.02, rtol=0)
    Video(np.zeros((9, 48, 48, 3), np.uint8), 8.0).save(controls / "clip1.mkv", overwrite=True)
    with pytest.raises(ConfigError, match="clip1.mp4: its control video has latents of"):
        DiffusionTask(folder_settings(place, model_kind="control", control=str(controls)), 0)
    assert data.folder and task.data.fingerprint({})["clips"] != plain.data.fingerprint({})["clips"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (dict(masks={"box": 1}, model_kind="control"), "masks: has no effect with task.model_kind=control"),
        (dict(control="canny", model_kind="inpaint"), "control: has no effect with task.model_kind=inpaint"),
        (dict(masks={"box": -1}, model_kind="inpaint"), "shares of at least 0"),
        (dict(masks={"boxes": 1}, model_kind="inpaint"), "masks.*boxes"),
        (dict(control="edges", model_kind="control"), "for the tiny world one of canny, path, silhouette"),
        (dict(model_kind="removal"), "model_kind"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(more, says):
    with pytest.raises(ConfigError, match=says):
        DiffusionTraining(start="tiny-base", **more)


def test_an_adapter_on_new_channels_and_what_a_folder_does_not_tell_are_refused(place):
    with pytest.raises(ConfigError, match="an adapter leaves the new input channels at zero"):
        DiffusionTraining(start="tiny-base", model_kind="inpaint", lora=LoraTuning()).completed()
    with pytest.raises(ConfigError, match="nobody says where the things of a folder's clips are"):
        folder_settings(place, model_kind="inpaint", masks={"silhouette": 1})
    with pytest.raises(ConfigError, match="the tiny world alone tells it"):
        folder_settings(place, model_kind="control", control="path")


@pytest.mark.parametrize(("name", "channels"), [("inpaint", 33), ("keyframes", 33), ("control", 32)])
def test_recipes_widen_the_public_models(name, channels):
    for start in ("2b", "5b", "1.5-5b"):
        task = recipe(name).override([f"task.start={start}", "task.data.folder=clips"]).task.completed()
        assert task.transformer.in_channels == channels and task.recompute
        spec = base_of(task)
        assert spec.kind == task.model_kind and spec.transformer.in_channels == channels
    with pytest.raises(ConfigError, match="is i2v; start from a text-to-video model"):
        recipe(name).override(["task.start=5b-i2v", "task.data.folder=clips"]).task.completed()
    world = recipe(f"world-{name}").task.completed()
    assert world.transformer.in_channels == channels and world.start == "tiny-base"

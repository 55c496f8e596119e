"""Training the transformer: any schedule length, clips that are needed and no more, figures that repeat."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from cogvideox.checkpoints import load_model, save_model
from cogvideox.checkpoints.record import read_record
from cogvideox.diffusion import ScheduleConfig
from cogvideox.errors import ConfigError
from cogvideox.parallel.shard import compile_blocks
from cogvideox.training.tasks import diffusion_network
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.diffusion_batches import DiffusionSample, fix_kernel
from cogvideox.transformer import kernels
from cogvideox.transformer.attention import attend_per_clip, full_attention
from cogvideox.transformer.attention_kernels import Kernel
from cogvideox.transformer.kernels import Fastest, use_kernel
from support.models import packed_inputs, small_transformer, write_model_folder

pytestmark = pytest.mark.usefixtures("few_held_out")


def settings(folder: Path, kind: str = "t2v", **more) -> DiffusionTraining:
    toy = write_model_folder(folder / kind, kind)
    values = dict(vae=str(toy), text=str(toy), cache=str(folder / "latents"), schedule=ScheduleConfig())
    values |= dict(clips=2, size=32, frames=9, batch=2)
    return DiffusionTraining(transformer=load_model(toy).transformer.config, **(values | more))


def test_a_schedule_of_another_length_trains_and_is_measured(tmp_path):
    task = DiffusionTask(settings(tmp_path, schedule=ScheduleConfig(num_train_timesteps=500)), 0)
    assert torch.isfinite(task.losses(0)["loss"])
    assert list(task.measure(task.module)) == [f"held_out_{t}" for t in (50, 150, 250, 350, 450)] + [
        "held_out"
    ]


def test_held_out_figures_of_an_image_model_do_not_depend_on_what_was_drawn_before(tmp_path):
    task = DiffusionTask(settings(tmp_path, "i2v"), 0)
    torch.manual_seed(1)
    first = task.measure(task.module)
    torch.manual_seed(2)
    assert task.measure(task.module) == first


def test_parts_stored_in_float16_are_trained_with_in_float32(tmp_path):
    half = load_model(write_model_folder(tmp_path / "whole"), dtype="float16")
    save_model(half, tmp_path / "half")
    config = settings(tmp_path, vae=str(tmp_path / "half"), text=str(tmp_path / "half"))
    task = DiffusionTask(config, 0)
    assert torch.isfinite(task.losses(0)["loss"]) and task.measure(task.module)["held_out"] > 0


@pytest.mark.parametrize(
    ("name", "run"), [("vae", "world-vae"), ("text", "world-text"), ("start", "world-t2v")]
)
def test_a_result_that_is_missing_names_the_run_that_makes_it(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings(tmp_path).model_copy(update={name: f"runs/{run}/model"})
    with pytest.raises(
        ConfigError, match=f"cogvideox train {run}` first, or use the shipped ones: task.{name}=tiny"
    ):
        config.build(0)
    with pytest.raises(ConfigError, match=f"task.{name}: gone: no such folder") as told:
        config.model_copy(update={name: "gone"}).build(0)
    assert run not in str(told.value)


def test_a_model_that_was_trained_on_keeps_its_name(tmp_path):
    """Fine-tuning another model must not make it a tiny one."""
    toy = write_model_folder(tmp_path / "start")
    record = read_record(toy)
    record.model_copy(update={"preset": "5b"}).write(toy)
    task = DiffusionTask(settings(tmp_path, start=str(toy)), 0)
    task.export(task.module, tmp_path / "trained")
    assert (
        read_record(tmp_path / "trained").preset == "5b"
        and load_model(tmp_path / "trained").spec.guidance == 6.0
    )


@pytest.mark.parametrize(
    "more", [{"recompute": True}, {"compile": True}, {"recompute": True, "compile": True}]
)
def test_the_fastest_kernel_is_chosen_once_before_the_first_step(tmp_path, monkeypatch, more):
    """Never inside a checkpointed, compiled or differentiated forward, where the trials would be recorded too."""
    tried, measure = [], kernels._seconds
    monkeypatch.setattr(kernels, "_seconds", lambda *given: tried.append(given[0].name) or measure(*given))
    backend = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(diffusion_network, "compile_blocks", partial(compile_blocks, backend=backend))
    torch._dynamo.reset()
    task = DiffusionTask(settings(tmp_path, kernel="fastest", device="cpu", **more), 0)
    for step in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = task.losses(step)["loss"]
        loss.backward()
        assert torch.isfinite(loss) and tried == ["torch", "torch-float32"]
    assert task.module.proj_out.weight.grad is not None
    assert (backend.frame_count > 0) == bool(more.get("compile"))


def test_packed_clips_choose_a_kernel_for_the_whole_sequence():
    def slowly(q, k, v):
        time.sleep(0.01)
        return full_attention(q, k, v, None)

    whole = []
    quick = Kernel(
        "quick",
        slowly,
        lambda q: True,
        packed=lambda *given: whole.append(1) or attend_per_clip(full_attention, *given),
    )
    network, (clips, texts, times) = small_transformer(), packed_inputs()
    attn_fn = use_kernel(network, Fastest(kernels=(quick,)))
    fix_kernel(attn_fn, network, [DiffusionSample(*each) for each in zip(clips, clips, texts, strict=True)])
    whole.clear()
    network.forward_packed(clips, texts, times)
    assert len(whole) == network.config.num_layers

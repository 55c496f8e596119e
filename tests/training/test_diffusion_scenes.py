"""Training the transformer on known scenes: objects that count more, and a block that is taught what cells show."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox.checkpoints import load_transformer
from cogvideox.checkpoints.hub import find_folder
from cogvideox.errors import ConfigError
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.config import Run
from cogvideox.training.loop import train
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.diffusion_batches import velocity_errors
from cogvideox.training.tasks.diffusion_scenes import CellReader, SceneCells
from cogvideox.training.tasks.diffusion_settings import SceneTargets
from cogvideox.training.tasks.distil import DistilTraining
from cogvideox.training.tasks.distil_methods import FoldGuidance
from cogvideox.world import TIERS
from cogvideox.world.cells import CELL_FACTS

TARGETS = SceneTargets(block=2, weight=0.3, until=0.5)


pytestmark = pytest.mark.usefixtures("few_held_out")


def tiny(cache: Path, **more) -> DiffusionTraining:
    return DiffusionTraining(
        start="tiny-base",
        cache=str(cache),
        clips=4,
        batch=2,
        scene_mix={"pair": 0.5, "transform": 0.5},
        **more,
    )


def test_objects_count_more_and_the_mean_weight_of_a_clip_is_1(cache):
    task = DiffusionTask(tiny(cache, object_weight=4.0), 0, 1)
    clips, samples = task.data.of_micro_step(0)
    weights = task.scenes.weights(clips, 4.0)
    for clip, weight in zip(clips, weights, strict=True):
        covered = task.scenes.covered(clip)
        assert weight.mean() == pytest.approx(1, abs=1e-6)
        ground = float(weight[covered == 0].mean())
        assert covered.max() > 0.5 and torch.allclose(weight, ground * (1 + 4 * covered), rtol=1e-4)
    batch, times = task.data.train.training(clips, samples), task.times(0, samples)
    with torch.no_grad():
        target = task.schedule.velocity(batch[0].clean[None], batch[0].noise[None], times[:1])
        noisy = task.schedule.add_noise(batch[0].clean[None], batch[0].noise[None], times[:1])
        velocity = task.module(noisy, batch[0].text[None].float(), times[:1])
        error = ((velocity - target).square().mean(1)[0] * weights[0]).mean()
        assert velocity_errors(task.module, task.schedule, batch, times, weights)[0] == pytest.approx(
            float(error), rel=1e-5
        )
        ones = [torch.ones_like(weight) for weight in weights]
        plain = velocity_errors(task.module, task.schedule, batch, times)
        assert torch.equal(velocity_errors(task.module, task.schedule, batch, times, ones), plain)
        assert task.losses(0)["loss"] != DiffusionTask(tiny(cache), 0, 1).losses(0)["loss"] == plain.mean()


def test_errors_on_objects_are_measured_story_by_story(cache):
    task = DiffusionTask(tiny(cache, object_weight=1.0), 0, 1)
    figures = task.measure(task.module)
    stories = {name.removeprefix("objects_") for name in figures if name.startswith("objects_")}
    assert stories <= set(TIERS) and len(stories) > 3
    assert figures["objects"] == pytest.approx(
        sum(figures[f"objects_{story}"] for story in stories) / len(stories)
    )
    plain = DiffusionTask(tiny(cache), 0, 1)
    whole = {name: value for name, value in figures.items() if not name.startswith("objects")}
    assert whole == plain.measure(plain.module)
    for parameter in task.module.parameters():
        torch.nn.init.zeros_(parameter)
    assert task.measure(task.module)["objects"] > 3 * figures["objects"]


def test_a_block_is_taught_what_cells_show_for_a_share_of_the_steps(cache):
    task = DiffusionTask(tiny(cache, scene_targets=TARGETS), 0, 4)
    assert isinstance(task.critic, CellReader)
    report = task.losses(0)
    plain = DiffusionTask(tiny(cache), 0, 4).losses(0)["loss"]
    assert torch.equal(report["loss"], plain + 0.3 * report["cells"])
    report["cells"].backward(retain_graph=True)
    blocks = task.module.transformer_blocks
    reached = [block.ff.net[2].weight.grad is not None for block in blocks]
    assert reached == [True] * 3 + [False] * (len(blocks) - 3)
    assert not task.module.transformer_blocks[2]._forward_hooks
    late = task.losses(2)
    assert "cells" not in late and torch.equal(
        late["loss"], DiffusionTask(tiny(cache), 0, 4).losses(2)["loss"]
    )


def test_the_reader_learns_and_a_coarser_patch_reads_means(cache):
    task = DiffusionTask(tiny(cache, scene_targets=TARGETS.changed(until=1.0)), 0, 30)
    optimizer = torch.optim.Adam(task.critic.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = task.losses(0)["cells"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    truth, reader = torch.rand(1, len(CELL_FACTS), 5, 8, 8), CellReader(6)
    fine, coarse = (torch.randn(1, count, 6) for count in (320, 80))
    assert (
        reader.errors(fine, truth, (1, 1, 1)).shape == reader.errors(coarse, truth, (1, 2, 2)).shape == (1,)
    )


def test_resumed_is_uninterrupted_with_a_reader(cache, tmp_path):
    ends = []
    for name, stops in (("whole", [None]), ("parts", [1, None])):
        task = tiny(cache, scene_targets=TARGETS, object_weight=2.0)
        run = Run(name=name, out=str(tmp_path / name), task=task, steps=3, save_every=1, measure_every=9)
        for stop in stops:
            train(run, stop_at=stop)
        ends.append(latest_state(Path(run.out)))
    for part in ("module", "critic"):
        assert ends[0][part].keys() == ends[1][part].keys()
        assert all(torch.equal(ends[0][part][name], ends[1][part][name]) for name in ends[0][part])
    written = load_transformer(tmp_path / "whole" / "model").state_dict()
    assert written.keys() == load_transformer(find_folder("tiny-base")).state_dict().keys()


def test_what_has_no_scenes_or_no_such_block_is_refused(cache):
    with pytest.raises(ConfigError, match="scene_targets.block 6: the network has blocks 0 to 5"):
        DiffusionTask(tiny(cache, scene_targets=SceneTargets(block=6)), 0, 1)
    for more in ({"object_weight": 1.0}, {"scene_targets": TARGETS}):
        with pytest.raises(ConfigError, match="tiny world"):
            DiffusionTraining(start="tiny-base", data={"folder": "clips"}, **more)
        with pytest.raises(ConfigError, match="a student learns what its teacher says"):
            DistilTraining(start="tiny-base", method=FoldGuidance(), **more)


def test_scenes_of_clips_are_those_of_their_numbers(cache):
    task = DiffusionTask(tiny(cache), 0, 1)
    cells = SceneCells(task.data.train.clips)
    assert torch.equal(cells.of(1), cells.of(1)) and not torch.equal(cells.of(0), cells.of(1))

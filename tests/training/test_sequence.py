"""Chains: runs of different tasks, each started from results of earlier ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cogvideox import api
from cogvideox.checkpoints import load_model
from cogvideox.data.clips import to_model
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.digest import digests_of
from cogvideox.training.recipes import recipe
from cogvideox.training.sequence import ChainedRun, train_in_order
from cogvideox.training.tasks.crops import WorldCrops
from cogvideox.transformer import Transformer
from cogvideox.world import render, sample_scene

QUICK = [
    "steps=2", "save_every=1", "measure_every=9", "log_every=1",
]  # fmt: skip
WORLD = ["task.clips=4", "task.batch=2", "task.size=32", "task.frames=9", "optim.name=adamw"]


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr("cogvideox.training.tasks.diffusion_data.HELD_OUT_CLIPS", 2)
    monkeypatch.setattr("cogvideox.training.tasks.diffusion_data.STORY_CLIPS", 7)
    one_clip = to_model(torch.from_numpy(render(sample_scene(0, 0), 32, 9))[None])
    monkeypatch.setattr(WorldCrops, "held_out", lambda _: iter([one_clip]))


def short(out: Path) -> ChainedRun:
    """Four of the runs of the recipe ``tiny``, of two steps each, on small clips."""
    chain = recipe("tiny")
    assert isinstance(chain, ChainedRun)
    last = chain.stages[-1].changed(reads={"task.start": "coarse"})
    chain = chain.changed(stages=(*chain.stages[:3], last))
    settings = [f"out={out}"]
    for number, stage in enumerate(chain.stages):
        more = QUICK + (WORLD if stage.run.task.kind in ("diffusion", "distil") else [])
        if stage.name == "vae":
            more = [
                *QUICK,
                "task.phases=[{until: 2, frames: 1, size: 32, batch: 1}]",
                "task.repeat_from=null",
            ]
        if stage.name == "text":
            more = [*QUICK, "task.scenes=50", "task.batch=8"]
        if stage.run.task.kind == "distil":
            more = [*more, "task.method.guidance=2"]  # it starts from a teacher that has some
        if stage.run.task.kind in ("diffusion", "distil"):
            more = [*more, f"task.cache={out.parent / 'latents'}"]
        settings += [f"stages.{number}.run.{each}" for each in more]
    return chain.override(settings)


def test_the_recipe_tiny_is_one_chain_from_nothing():
    chain = recipe("tiny")
    names = [name for name, _ in chain.named_runs()]
    assert names == ["vae", "text", "coarse", "t2v", "i2v", "steps-16", "steps-8"]
    runs = dict(chain.named_runs())
    assert runs["coarse"].task.start is None and runs["coarse"].task.vae == "runs/tiny/1-vae/model"
    assert (
        runs["t2v"].task.start == "runs/tiny/3-coarse/model"
        and runs["i2v"].task.start == "runs/tiny/4-t2v/model"
    )
    assert runs["steps-16"].task.start == "runs/tiny/4-t2v/model"
    assert (runs["steps-16"].task.method.guidance, runs["steps-8"].task.method.guidance) == (2.0, None)
    assert runs["steps-8"].task.start == "runs/tiny/6-steps-16/model"
    alone = dict(recipe("distil-tiny").named_runs())
    assert alone["steps-16"].task.start == "tiny-base"
    assert alone["steps-8"].task.start == "runs/distil-tiny/1-steps-16/model"


def test_a_chain_makes_models_from_nothing_and_resumes_in_any_run(tmp_path, monkeypatch):
    whole = train_in_order(short(tmp_path / "whole"))
    spec = load_model(whole).spec
    assert spec.kind == "t2v" and len(spec.times) == 8 and spec.guidance == 1.0
    lineage = json.loads((tmp_path / "whole" / "lineage.json").read_text())
    assert [entry["stage"] for entry in lineage][-1] == "steps-8"
    assert lineage[-1]["start"] == {"coarse": lineage[-2]["weights"]} and lineage[0]["start"] == {}
    assert set(lineage[2]["start"]) == {"vae", "text"}

    config, runs = short(tmp_path / "parts"), []

    def stopped(run, **more):
        from cogvideox.training.loop import train

        runs.append(run.name)
        if len(runs) == 3:
            train(run, stop_at=1)
            raise KeyboardInterrupt
        return train(run, **more)

    monkeypatch.setattr("cogvideox.training.sequence.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_in_order(config)
    parts = train_in_order(config)
    assert runs[2] == "tiny/coarse" and digests_of(parts) == digests_of(whole)


def test_the_recipe_small_makes_models_of_the_rich_world(tmp_path):
    chain = recipe("small")
    assert [stage.name for stage in chain.stages][:4] == ["vae", "text", "t2v", "i2v"]
    last = chain.stages[-1].changed(reads={"task.start": "t2v"})
    chain = chain.changed(stages=(*chain.stages[:4], last))
    settings = [f"out={tmp_path / 'small'}", "stages.0.run.task.size=32", "stages.0.run.task.frames=9"]
    phases = [
        {"until": 1, "frames": 1, "size": 32, "batch": 1},
        {"until": 2, "frames": 9, "size": 32, "batch": 1},
    ]
    settings += [f"stages.0.run.task.phases={json.dumps(phases)}", "stages.1.run.task.scenes=50"]
    settings += ["stages.1.run.task.batch=8", "stages.2.run.task.scene_targets.block=1"]
    settings += [f"stages.{number}.run.task.transformer.num_layers=2" for number in (2, 3)]
    for number, stage in enumerate(chain.stages):
        latents = [*WORLD, f"task.cache={tmp_path / 'latents'}", "task.samples=0"]
        more = QUICK + (latents if stage.run.task.kind in ("diffusion", "distil") else [])
        more += ["task.method.guidance=2"] if stage.run.task.kind == "distil" else []
        settings += [f"stages.{number}.run.{each}" for each in more]
    result = train_in_order(chain.override(settings))
    spec = load_model(result).spec
    assert (spec.kind, len(spec.times), spec.guidance) == ("t2v", 8, 1.0)
    assert (spec.height, spec.frames, spec.text_tokens) == (32, 9, 40)
    assert load_model(tmp_path / "small" / "4-i2v" / "model").spec.kind == "i2v"


def test_the_transformer_of_the_recipe_small_has_the_size_it_says():
    with torch.device("meta"):
        network = Transformer(recipe("small-t2v").task.transformer)
    assert 15e6 < sum(weight.numel() for weight in network.parameters()) < 20e6


def test_what_a_chain_cannot_be_is_refused(tmp_path):
    chain = recipe("tiny")
    with pytest.raises(ConfigError, match="no run of that name before text"):
        chain.override(["stages.1.reads={task.start: t2v}"]).named_runs()
    with pytest.raises(ConfigError, match="two are called vae"):
        chain.override(["stages.1.name=vae"]).named_runs()
    with pytest.raises(ConfigError, match="its autoencoder is trained first"):
        api.encode("tiny")
    assert api.training_config("tiny", out=tmp_path).folder == tmp_path


def test_a_result_that_was_changed_is_told(tmp_path):
    config = short(tmp_path / "chain")
    two = config.changed(stages=config.stages[:2])
    train_in_order(two)
    file = tmp_path / "chain" / "lineage.json"
    lineage = json.loads(file.read_text())
    lineage[0]["weights"] = {"vae/other.safetensors": "0"}
    file.write_text(json.dumps(lineage))
    with pytest.raises(CheckpointError, match="is not the result that stands in lineage.json"):
        train_in_order(two)


def test_a_file_with_runs_as_stages_is_a_chain(tmp_path):
    file = tmp_path / "chain.yaml"
    file.write_text(short(tmp_path / "out").to_yaml())
    again = api.training_config(str(file))
    assert isinstance(again, ChainedRun) and again == short(tmp_path / "out")

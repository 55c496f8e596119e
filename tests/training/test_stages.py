"""Progressive training: each stage starts from the one before, a rerun goes on in any of them, nothing is mixed up."""

import json
from pathlib import Path

import pytest
import torch

from cogvideox.checkpoints import load_model
from cogvideox.data.clips import ClipSize
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes import RECIPES, recipe, run_file
from cogvideox.training.sequence import train_in_order
from cogvideox.training.stages import DiffusionRun, StagedRun, TrainingStage
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.diffusion_network import load_config
from cogvideox.training.tasks.folder import FolderData
from support.clip_folders import write_layout
from support.models import write_model_folder


def staged(root: Path, out: str, **more) -> StagedRun:
    toy = root / "toy"
    if not toy.exists():
        write_model_folder(toy)
        write_layout(root / "clips", "csv", count=8, frames=(9, 17), size=32)
    task = DiffusionTraining(
        transformer=load_config(toy), start=str(toy), vae=str(toy), text=str(toy), cache=str(root / "cache"),
        data=FolderData(folder=str(root / "clips"), held_out=0),
    )  # fmt: skip
    optim = OptimConfig(lr=1.0, warmup=0, ema=0)
    base = DiffusionRun(
        name="t", task=task, out=str(root / out), optim=optim, save_every=1, measure_every=100
    )
    small, large = ClipSize(frames=9, short_side=16), ClipSize(frames=17, short_side=32)
    stages = (
        TrainingStage(name="low", steps=2, size=small, lr=1e-2, warmup=0, budget=60),
        TrainingStage(name="high", steps=2, size=large, lr=1e-3, warmup=0, budget=90, rotary="ntk"),
        TrainingStage(
            name="best", steps=1, size=large, lr=1e-4, warmup=0, budget=90, best=0.5, accumulation=2
        ),
    )
    return StagedRun(base=base, **({"stages": stages} | more))


def test_stages_follow_each_other_and_a_rerun_goes_on_where_it_stopped(tmp_path, capsys):
    whole = train_in_order(staged(tmp_path, "whole"))
    config = staged(tmp_path, "parts")
    train(config.run_of(0))
    train(config.run_of(1), stop_at=1)
    capsys.readouterr()
    parts = train_in_order(config)
    assert "1-low: finished at step 2 already" in capsys.readouterr().err
    one, two = (load_model(folder).transformer for folder in (whole, parts))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.config.position_mode == "ntk"
    lineage = json.loads((tmp_path / "parts" / "lineage.json").read_text())
    assert [entry["stage"] for entry in lineage] == ["low", "high", "best"]
    assert lineage[1]["start"] == lineage[0]["weights"] != lineage[1]["weights"]
    assert (
        load_model(tmp_path / "parts" / "1-low" / "model").spec.height == 16
        and load_model(parts).spec.height == 32
    )
    ledger = (tmp_path / "parts" / "3-best" / "ledger.jsonl").read_text()
    used = {json.loads(line)["id"] for line in ledger.splitlines()}
    assert used <= {f"clips/clip{number}.mp4" for number in range(4, 8)}


def test_a_moved_run_goes_on_in_a_later_stage(tmp_path):
    config = staged(tmp_path, "one")
    train(config.run_of(0))
    train(config.run_of(1), stop_at=1)
    (tmp_path / "one").rename(tmp_path / "two")
    moved = train_in_order(config.override([f"base.out={tmp_path / 'two'}"]))
    whole = train_in_order(staged(tmp_path, "whole"))
    one, two = (load_model(folder).transformer for folder in (moved, whole))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_result_that_was_exchanged_is_not_built_on(tmp_path):
    config = staged(tmp_path, "out")
    config = config.model_copy(update={"stages": config.stages[:2]})
    train_in_order(config)
    file = next((tmp_path / "out" / "1-low" / "model" / "transformer").glob("*.safetensors"))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="1-low.*is not the result"):
        train_in_order(config)


def test_scores_are_asked_for_before_the_first_stage(tmp_path):
    config = staged(tmp_path, "run")
    table = Path(config.base.task.data.folder) / "metadata.csv"
    table.write_text(table.read_text().replace("score", "other", 1))  # the name of the column
    with pytest.raises(ConfigError, match="have no score"):
        train_in_order(config)
    assert not list(Path(config.base.out).rglob("run.yaml"))


def test_stages_that_cannot_be_are_refused(tmp_path):
    config = staged(tmp_path, "out")
    with pytest.raises(ConfigError, match="two have one name"):
        config.override(["stages.1.name=low"])
    with pytest.raises(ConfigError, match="base.task.data: missing"):
        config.override(["base.task.data=null"])
    with pytest.raises(ConfigError, match="transformer is null"):
        config.override(["base.task.transformer=null"])
    with pytest.raises(ConfigError, match="base.task.lora: each stage starts from the whole model"):
        config.override(["base.task.lora={}"])
    for setting, name in (
        ("base.steps=9", "steps"), ("base.optim.lr=2", "optim.lr"), ("base.optim={lr: 3, warmup: 7}", "optim.lr"),
        ("base.task.data.size.fps=16", "task.data.size"),
    ):  # fmt: skip
        own = name.rpartition(".")[2]
        with pytest.raises(ConfigError, match=rf"base.{name}: every stage has its own; set stages.0.{own}, "):
            config.override([setting])
    assert config.override(["stages.0.steps=9", "base.seed=1"]).stages[0].steps == 9


def test_a_file_with_stages_is_a_progressive_run(tmp_path):
    config = staged(tmp_path, "out")
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert run_file(tmp_path / "run.yaml") == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole_and_survives_its_own_yaml(name, tmp_path):
    (tmp_path / "run.yaml").write_text(recipe(name).to_yaml())
    assert run_file(tmp_path / "run.yaml") == recipe(name)


def test_the_paper_recipes_follow_tables_5_and_6():
    for name, layers, heads in (("paper-2b", 30, 30), ("paper-5b", 42, 48)):
        run = recipe(name)
        assert [stage.accumulation for stage in run.stages] == [2000, 1000, 250, 100]
        assert [stage.steps for stage in run.stages] == [400_000, 220_000, 120_000, 10_000]
        assert run.stages[3].best == 0.2
        shape = run.base.task.transformer
        assert (shape.num_layers, shape.num_attention_heads) == (layers, heads)
        optim = run.base.optim
        assert (optim.betas, optim.eps, optim.weight_decay, optim.clip) == ((0.9, 0.95), 1e-8, 1e-4, 1.0)
        for stage in run.stages:  # the longest clip of a stage fits a row
            size, wide = stage.size, stage.size.rounded(stage.size.short_side * stage.size.longest)
            patches = ((size.frames - 1) // 4 + 1) * (size.short_side // 16) * (wide // 16)
            assert 226 + patches <= stage.budget

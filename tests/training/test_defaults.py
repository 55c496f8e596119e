"""What nobody has set comes from the model that is started from; what would change nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideox.data.clips import ClipSize
from cogvideox.errors import ConfigError
from cogvideox.training.loop import train
from cogvideox.training.recipes import recipe
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.folder import FolderData
from cogvideox.training.tasks.sizes import SizeSetting
from support.clip_folders import write_layout
from support.folder_runs import run, settings
from support.models import write_model_folder


def task_of(name: str, *changes: str):
    return recipe(name).override(["task.data.folder=clips", *changes]).task.completed()


@pytest.mark.parametrize("name", ["lora", "finetune", "videos-lora"])
def test_nothing_is_trained_on_that_nobody_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("clips", "videos"):
        write_layout(tmp_path / folder, "stems", count=2, frames=(9,), size=32)
    wanted = "videos" if name == "videos-lora" else "folder"
    with pytest.raises(ConfigError, match=f"task.data.{wanted}: not set; name"):
        train(recipe(name))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("start", "fps", "frames", "height", "width", "budget"),
    [
        ("2b", 8, 49, 480, 720, 17_776),
        ("5b-i2v", 8, 49, 480, 720, 17_776),
        ("1.5-5b", 16, 81, 768, 1360, 45_104),
        ("tiny", 8, 17, 64, 64, 1_760),
    ],
)
def test_size_length_rate_and_row_are_those_of_the_model(start, fps, frames, height, width, budget):
    data = task_of("lora", f"task.start={start}").data
    size = data.size.resolved(None)
    assert (size.fps, size.frames, size.height, size.width) == (fps, frames, height, width)
    assert data.budget == budget


def test_one_word_names_the_whole_model_and_what_is_said_stays():
    task = task_of("lora", "task.start=5b", "task.data.size.frames=17", "task.data.size.short_side=256")
    assert (task.vae, task.text) == ("5b", "5b") and task.recompute and task.lora.base == "bfloat16"
    size = task.data.size.resolved(None)
    assert (size.fps, size.frames, size.short_side, size.height) == (8, 17, 256, None)
    small = task_of("lora", "task.vae=elsewhere")
    assert (small.vae, small.text) == ("elsewhere", "tiny-base")
    assert not small.recompute and small.lora.base == "float32"
    assert small.completed() == small


def test_what_a_folder_says_of_itself_is_kept_to(tmp_path):
    write_model_folder(tmp_path / "toy")
    size = task_of("finetune", f"task.start={tmp_path / 'toy'}").data.size.resolved(None)
    assert (size.frames, size.height, size.width) == (9, 32, 48)


def test_a_size_without_a_model_is_that_of_clips():
    assert SizeSetting().resolved(None) == ClipSize()
    assert SizeSetting.of(ClipSize(frames=9, short_side=32)).resolved(None) == ClipSize(
        frames=9, short_side=32
    )
    with pytest.raises(ConfigError, match="set both"):
        SizeSetting(height=64)


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        ("task.frames=17", "task.data.size.frames"),
        ("task.frames=33", "task.data.size.frames"),
        ("task.size=128", "task.data.size.short_side"),
        ("task.batch=2", "task.data.budget"),
        ("task.clips=100", "task.data.best"),
        ("task.clips_seed=3", "seed"),
        ("task.data.recipe=tiny", "task.data.videos"),
    ],
)
def test_a_setting_without_effect_for_a_folder_is_refused_and_the_one_that_has_named(setting, instead):
    with pytest.raises(ConfigError, match=f"{setting.partition('=')[0]}: .*{instead}"):
        recipe("lora").override(["task.data.folder=clips", setting])
    if setting.startswith("task.data"):
        return
    with pytest.raises(ConfigError, match="no effect"):
        recipe("world-stages").override([f"base.{setting}"])


def test_neighbours_of_a_setting_without_effect():
    assert recipe("lora").override(["task.data.batching=batch", "task.batch=2"]).task.batch == 2
    assert recipe("world-t2v").override(["task.batch=2", "task.frames=9"]).task.frames == 9
    for changes, told in (
        (["task.data.batching=batch", "task.data.budget=90"], "task.batch"),
        ([f"task.data.size.{side}=64" for side in ("height", "width", "short_side")], "height and .width"),
        (["task.lora.start=a", "task.lora.rank=8"], "layers and ranks"),
    ):
        with pytest.raises(ConfigError, match=told):
            recipe("lora").override(changes)
    with pytest.raises(ConfigError, match=r"task\.frames: .*no effect"):
        settings(Path("."), frames=33)


def test_two_predecessors_that_are_missing_are_named_with_both_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as told:
        train(recipe("world-t2v"))
    for word in ("train world-vae`", "train world-text`", "task.vae=tiny task.text=tiny"):
        assert word in str(told.value)
    assert not (tmp_path / "runs" / "world-t2v").exists()


def test_a_short_run_in_the_world_encodes_what_its_steps_need(tmp_path, capsys):
    toy = str(write_model_folder(tmp_path / "toy"))
    config = DiffusionTraining(start=toy, clips=16, batch=2, frames=9, size=16, cache=str(tmp_path / "cache"))
    few = config.build(0, steps=2)
    assert "train: 4/4 encoded" in capsys.readouterr().err
    whole = DiffusionTask(config, 0)
    assert "train: 12/12 encoded" in capsys.readouterr().err
    assert few.data_facts() == whole.data_facts() and few.flops(0) == whole.flops(0)
    for call in range(2):
        assert few.losses(call)["loss"].item() == whole.losses(call)["loss"].item()


def test_a_short_run_on_a_folder_encodes_what_its_steps_can_reach(tmp_path, capsys):
    write_model_folder(tmp_path / "toy")
    write_layout(tmp_path / "clips", "stems", count=20, frames=(9,), size=32)
    config = settings(tmp_path, data={"budget": 40, "held_out": 0, "lost": 0})
    few = config.build(0, steps=2)
    assert len(few.data.train.clips) < 20
    assert f"{len(few.data.train.clips)} of 20 clips are prepared" in capsys.readouterr().err
    assert few.data.batches.first_sample(2) <= len(few.data.train.clips)  # none comes twice
    assert len(config.build(0, steps=500).data.train.clips) == 20


def test_a_finished_run_asked_for_more_steps_names_the_ways(tmp_path):
    write_model_folder(tmp_path / "toy")
    write_layout(tmp_path / "clips", "stems", count=3, frames=(9,), size=32)
    done = run(tmp_path, tmp_path / "run", steps=1, data={"held_out": 0})
    result = train(done)
    with pytest.raises(ConfigError) as told:
        train(done.model_copy(update={"steps": 3}))
    for words in ("of 1 steps, 3 asked", f"task.start={result}", "out=", "optimiser, the learning rate"):
        assert words in str(told.value)
    task = done.task.model_copy(update={"start": str(result), "vae": None, "text": None})
    more = done.model_copy(update={"task": task, "steps": 2, "out": str(tmp_path / "more")})
    assert train(more) == tmp_path / "more" / "model"


def test_an_adapter_goes_on_by_a_name_of_its_own(tmp_path):
    write_model_folder(tmp_path / "toy")
    write_layout(tmp_path / "clips", "stems", count=3, frames=(9,), size=32)
    done = run(tmp_path, tmp_path / "run", steps=1, data={"held_out": 0}, lora={"rank": 2})
    result = train(done)
    with pytest.raises(ConfigError, match=f"task.lora.start={result} out="):
        train(done.model_copy(update={"steps": 3}))
    task = done.task.model_copy(update={"lora": done.task.lora.model_copy(update={"start": str(result)})})
    more = done.model_copy(update={"task": task, "steps": 2, "out": str(tmp_path / "more")})
    assert train(more).name == "model"


def test_a_run_that_is_not_finished_says_where_it_ends(tmp_path):
    write_model_folder(tmp_path / "toy")
    write_layout(tmp_path / "clips", "stems", count=3, frames=(9,), size=32)
    half = run(tmp_path, tmp_path / "run", steps=2, data={"held_out": 0})
    train(half, stop_at=1)
    with pytest.raises(ConfigError, match="set steps=2 to go on"):
        train(half.model_copy(update={"steps": 3}))


def test_a_folder_is_named_before_a_task_is_made():
    assert FolderData().folder == ""

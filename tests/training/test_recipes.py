"""Recipes: every setting is explained, old names are accepted for one release."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

import cogvideox
from cogvideox.cli.app import app
from cogvideox.training.recipes import RECIPES, recipe
from cogvideox.training.recipes.settings import recipe_summaries, settings_table


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_has_a_type_and_a_meaning_and_can_be_set_to_what_it_is(name):
    config = recipe(name)
    rows = settings_table(config)
    assert len({row.path for row in rows}) == len(rows) > 20
    assert not [row.path for row in rows if not row.meaning or not row.type or "\n" in row.meaning]
    assert recipe_summaries()[name]
    used = [row for row in rows if row.path in ("steps", "seed", "task.start", "optim.lr", "base.task.text")]
    assert config.override([f"{row.path}={json.dumps(row.value)}" for row in used]) == config


def test_a_recipe_and_settings_under_their_old_names_are_accepted_with_a_warning():
    with pytest.warns(FutureWarning, match="films-lora: is called videos-lora now"):
        old = recipe("films-lora")
    assert (old.name, old.out, old.task.data.folder) == (
        "films-lora",
        "runs/films/lora",
        "runs/films/curated",
    )
    new = recipe("videos-lora")
    for before, now in (
        ("task.data.films=raw", "task.data.videos=raw"),
        ("task.parts=3", "task.accumulation=3"),
    ):
        with pytest.warns(FutureWarning, match="the old name"):
            assert new.override([before]) == new.override([now])
    with pytest.warns(FutureWarning, match="task.image_dropout: is called task.condition_dropout now"):
        assert recipe("lora").override(["task.image_dropout=0.2"]).task.condition_dropout == 0.2
    with pytest.warns(FutureWarning, match="task.stories: is called task.scene_mix now"):
        changed = recipe("world-t2v").override(["task.stories={motion: 1}"])
    assert changed.task.scene_mix == {"motion": 1.0}


def test_the_shipped_models_recipe_leans_its_times_but_where_clips_teach_the_last_detail():
    stages = {stage.name: stage.run for stage in recipe("tiny").stages}
    leaning = {name: stages[name].task.time_shift for name in ("coarse", "t2v", "i2v", "steps-16", "steps-8")}
    assert leaning == {"coarse": 3.0, "t2v": 1.5, "i2v": 1.0, "steps-16": 1.5, "steps-8": 0.5}
    assert (stages["steps-16"].steps, stages["steps-8"].steps) == (700, 1000)
    assert (stages["steps-16"].task.truth_below, stages["steps-8"].task.truth_below) == (0, 200)
    alone = {stage.name: stage.run for stage in recipe("distil-tiny").stages}
    assert alone["steps-8"].task == stages["steps-8"].task


def test_settings_are_listed_with_path_value_type_and_meaning():
    def cogvideox(*words: str) -> str:
        return CliRunner().invoke(app, list(words)).stdout

    listed = cogvideox("settings", "lora", "--find", "gradient norm")
    assert listed.startswith("optim.clip=1.0  (number)\n    gradient clipping: largest")
    rows = {row["path"]: row for row in json.loads(cogvideox("settings", "world-vae", "--json"))}
    coding = rows["task.phases.2.coding"]
    assert (coding["type"], coding["value"]) == ("one of whole, chunked", "chunked")
    assert "paper-5b" in cogvideox("settings")


def test_python_and_the_verb_train_inside_the_process_group_of_torchrun(monkeypatch, tmp_path):
    events = []

    @contextmanager
    def process_group(device):
        events.append(device)
        yield device
        events.append("left")

    def run(config):
        events.append(config.name)
        return tmp_path

    monkeypatch.setattr("cogvideox.parallel.mesh.process_group", process_group)
    monkeypatch.setattr("cogvideox.training.recipes.run", run)
    assert cogvideox.train("world-text", steps=1) == tmp_path
    assert events == ["cpu", "world-text", "left"]
    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(app, ["train", "world-text"]).stdout == ""
    monkeypatch.setenv("RANK", "0")
    assert CliRunner().invoke(app, ["train", "world-text"]).stdout == f"{tmp_path}\n"

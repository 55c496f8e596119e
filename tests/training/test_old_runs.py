"""A run that an older version began goes on: its settings under their old names, its state as it was written.

``data/old_run`` is from before ``parts`` became ``accumulation`` and ``adding`` became ``reduce``: step 2 of 4.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from cogvideox.errors import ConfigError
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.config import Run
from cogvideox.training.loop import train

OLD_RUN = Path(__file__).parent / "data" / "old_run"


def read(file: Path, **settings) -> Run:
    with pytest.warns(FutureWarning) as warnings:
        run = Run.from_yaml(file)
    told = sorted(str(each.message).split(";")[0] for each in warnings)
    assert told == ["setting adding: is called reduce now", "setting parts: is called accumulation now"]
    return run.changed(**settings)


def test_a_run_of_an_older_version_goes_on_to_the_same_weights(tmp_path):
    out = tmp_path / "run"
    shutil.copytree(OLD_RUN, out)
    run = read(out / "run.yaml", out=str(out))
    assert (run.task.accumulation, run.reduce) == (2, "exact")
    with pytest.warns(FutureWarning, match="setting adding: is called reduce now"):
        train(run)
    train(run.changed(out=str(tmp_path / "whole")))
    old, new = latest_state(out), latest_state(tmp_path / "whole")
    assert old.keys() == new.keys() and old["step"] == new["step"] == 4
    for part in (
        "module",
        "average",
    ):  # the old half was computed on another machine: equal up to its rounding
        weights = [state[part] if part == "module" else state[part]["values"] for state in (old, new)]
        assert weights[0].keys() == weights[1].keys()
        for name, weight in weights[0].items():
            torch.testing.assert_close(weight, weights[1][name], rtol=1e-3, atol=1e-4)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    written = yaml.safe_load((out / "run.yaml").read_text())
    assert written["reduce"] == "exact" and written["task"]["accumulation"] == 2
    assert "adding" not in written and "parts" not in written["task"]


@pytest.mark.filterwarnings("ignore:setting .* is called:FutureWarning")
def test_a_setting_that_an_older_run_had_otherwise_is_refused_under_its_name_of_now(tmp_path):
    shutil.copytree(OLD_RUN, tmp_path / "run")
    run = Run.from_yaml(OLD_RUN / "run.yaml").changed(out=str(tmp_path / "run"))
    for name, value, told in (
        ("task.accumulation", 4, "task.accumulation: 2 -> 4"),
        ("reduce", "fast", "reduce: exact -> fast"),
    ):
        with pytest.raises(ConfigError, match=told):
            train(run.changed(**{name: value}))

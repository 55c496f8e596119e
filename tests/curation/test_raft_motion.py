"""Motion measured by RAFT in curation: from the recipe to the record, and what is refused before any film is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.curation.engines import LocalEngine
from cogvideox.curation.pipeline import Pipeline
from cogvideox.curation.recipe import Recipe, tiny
from cogvideox.curation.run import curate
from cogvideox.curation.scores import MotionScore
from cogvideox.curation.thresholds import Thresholds, ThresholdStage
from cogvideox.errors import CheckpointError, ConfigError
from cogvideox.files.digest import sha256_of
from cogvideox.perception.raft import RAFT, SMALL
from support.films import take, write


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    write(root / "a.mp4", take(1, 6))
    return root


def weights(file: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_file(RAFT(SMALL).state_dict(), file)
    return file


def moving(file: Path, **more) -> Recipe:
    """Measures motion by these weights, and nothing else."""
    steps = [{"kind": "motion", "flow": {"name": "raft", "weights": str(file), "updates": 2, **more}}]
    shape = tiny().model_dump(include={"gate", "shots"})
    choices = [Thresholds(stages=(ThresholdStage(name="all", rules=()),)).model_dump()]
    return Recipe.parse({"name": "moving", "steps": steps, "choices": choices, **shape})


def records(out: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return [json.loads(row["record"]) for row in pq.read_table(out / "clips.parquet").to_pylist()]


def test_a_recipe_names_raft_and_the_record_says_which(films, tmp_path):
    file = weights(tmp_path / "raft.safetensors", 0)
    curate(films, tmp_path / "raft", moving(file), LocalEngine(1))
    plain = moving(file).override(["steps.0={kind: motion}"])
    curate(films, tmp_path / "dis", plain, LocalEngine(1))
    (ours,), (usual,) = records(tmp_path / "raft"), records(tmp_path / "dis")
    assert ours["networks"] == {"motion": f"raft-small:{sha256_of(file)[:12]}"}
    assert "networks" not in usual
    assert ours["scores"].keys() == usual["scores"].keys() and ours["scores"] != usual["scores"]
    again = Recipe.from_yaml(tmp_path / "raft" / "recipe.yaml")
    assert again == moving(file) and usual["scores"]["motion"] > 0


def test_other_weights_under_the_same_name_are_measured_again(films, tmp_path):
    recipe = moving(weights(tmp_path / "raft.safetensors", 0))
    pipeline = Pipeline(films, tmp_path / "work", recipe, LocalEngine(1))
    assert (pipeline.measure(), pipeline.measure()) == (1, 0)
    (before,) = pipeline.clips()
    weights(tmp_path / "raft.safetensors", 1)
    assert pipeline.measure() == 1
    (after,) = pipeline.clips()
    assert before.networks != after.networks and before.scores != after.scores


def test_what_cannot_be_used_is_refused_before_any_film_is_read(films, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    for flow, why in {
        "{name: raft}": "steps.4.flow: raft needs weights",
        "{name: raft, weights: none.pth}": "none.pth: no such file",
        f"{{name: raft, weights: {tmp_path}/other.safetensors}}": "not the weights of RAFT",
        "{name: rapt, weights: none.pth}": "steps.4.flow",
    }.items():
        call = [str(films), "--out", str(tmp_path / "out"), "--recipe", "tiny", f"steps.4.flow={flow}"]
        done = CliRunner().invoke(app, ["curate", *call])
        told = done.stderr.strip().splitlines()
        assert done.exit_code in (1, 2) and len(told) == 1 and why in told[0], done.stderr
        assert not (tmp_path / "out").exists()


def test_a_worker_that_lacks_what_the_recipe_names_stops_the_run(films, tmp_path):
    recipe = moving(weights(tmp_path / "raft.safetensors", 0))
    (tmp_path / "raft.safetensors").write_bytes(b"no longer weights")
    with pytest.raises(CheckpointError, match=r"raft\.safetensors: cannot be read"):
        Pipeline(films, tmp_path / "work", recipe, LocalEngine(1)).measure()
    if not torch.cuda.is_available():
        recipe = moving(weights(tmp_path / "raft.safetensors", 0), device="cuda")
        with pytest.raises(ConfigError, match="shows no GPU"):
            Pipeline(films, tmp_path / "work", recipe, LocalEngine(1)).measure()
    assert not list((tmp_path / "work").rglob("*.json"))


def test_workers_load_no_torch_unless_raft_is_asked_for():
    code = (
        "import sys, cogvideox.curation.worker\n"
        "from cogvideox.curation.recipe import default\n"
        "default().check(), default().ready(), default().measuring()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_the_flow_that_needs_no_weights_is_the_usual_one():
    assert MotionScore() == MotionScore.parse({"flow": {"name": "dis"}}) and MotionScore().digests() == ()

"""What is recommended beside an adapter goes along: into a model that takes it in, and with other forms of it."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from typer.testing import CliRunner

from cogvideox.checkpoints import convert, inspect, load_model, read_spec, write_adapter
from cogvideox.checkpoints.adapter import Adapter, Pair
from cogvideox.cli.app import app
from cogvideox.errors import ConfigError, OutputError
from cogvideox.generation.recommended import Recommended, read_recommended, write_recommended
from support.models import write_model_folder

TIMES = (999, 856, 665, 399)
FEW = Recommended(about="of few steps", times=TIMES, sampler="ddim", guidance=1, scale=0.5)


def adapter(path, **settings):
    """An adapter of one layer, with what is recommended for it."""
    out = write_adapter(
        Adapter({"transformer_blocks.0.attn1.to_q": Pair(torch.ones(2, 32), torch.ones(32, 2), 2.0)}), path
    )
    if settings:
        write_recommended(path, Recommended(**settings))
    return out


@pytest.fixture
def model(tmp_path):
    return write_model_folder(tmp_path / "model")


def cli(*arguments):
    ran = CliRunner().invoke(app, [str(each) for each in arguments])
    return ran.exit_code, " ".join(ran.output.split())


def test_a_model_that_takes_an_adapter_in_is_made_for_what_the_adapter_is(model, tmp_path):
    adapter(tmp_path / "few", **FEW.model_dump())
    code, output = cli("convert", model, tmp_path / "out", "--lora", tmp_path / "few")
    assert code == 0, output
    spec = read_spec(tmp_path / "out")
    assert (spec.times, spec.sampler, spec.guidance) == (TIMES, "ddim", 1)
    (note,) = json.loads((tmp_path / "out/cogvideox.json").read_text())["provenance"]["fused"]
    assert note["scale"] == 0.5
    report = inspect(tmp_path / "out", check=True)
    assert report.ok
    more = convert(tmp_path / "out", tmp_path / "more", lora=[(adapter(tmp_path / "plain"), 1.0)])
    assert load_model(more, device="cpu").spec.times == TIMES


def test_steps_become_the_times_that_they_visit(model, tmp_path):
    adapter(tmp_path / "eight", steps=8, sampler="dpmpp_sde", guidance=1)
    assert cli("convert", model, tmp_path / "out", "--lora", tmp_path / "eight")[0] == 0
    spec = read_spec(tmp_path / "out")
    assert spec.times == (999, 874, 749, 624, 499, 374, 249, 124) and spec.sampler == "dpmpp_sde"


def test_what_a_model_cannot_say_of_itself_is_said_aloud(model, tmp_path):
    file = adapter(tmp_path / "a")
    settings = {"guidance": 3.0, "guidance_schedule": "wave", "sampler": "dpmpp_2m"}
    with pytest.warns(
        UserWarning, match="guidance_schedule 'wave', sampler 'dpmpp_2m': recommended, and no setting"
    ):
        out = convert(model, tmp_path / "out", lora=[(file, 1.0)], settings=settings)
    assert read_spec(out).guidance == 3 and not read_spec(out).times
    with pytest.raises(ConfigError, match="let the times fall"):
        convert(model, tmp_path / "bad", lora=[(file, 1.0)], settings={"times": [1, 2]})


def test_adapters_that_disagree_are_refused(model, tmp_path):
    for name, guidance in (("one", 1), ("two", 4)):
        adapter(tmp_path / name, guidance=guidance)
    two = ["--lora", tmp_path / "one", "--lora", tmp_path / "two"]
    code, output = cli("convert", model, tmp_path / "out", *two)
    assert (
        code != 0 and "is made for 1.0" in output and "for 4.0" in output and "cogvideox recommend" in output
    )
    assert not (tmp_path / "out").exists()


def test_a_python_call_without_settings_warns_of_those_beside_an_adapter(model, tmp_path):
    file = adapter(tmp_path / "few", **FEW.model_dump())
    with pytest.warns(UserWarning, match="made for .*times.*, which the model does not get; pass settings="):
        convert(model, tmp_path / "out", lora=[(file, 1.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(model, tmp_path / "asked", lora=[(file, 1.0)], settings={})


def test_a_target_that_is_taken_is_refused_before_an_adapter_is_read(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="out: holds files already"):
        convert(model, tmp_path / "out", lora=[(tmp_path / "gone.safetensors", 1.0)])


@pytest.mark.parametrize("named", ["folder", "file"])
def test_what_is_recommended_goes_to_sat_and_back(named, tmp_path):
    file = adapter(tmp_path / "few", **FEW.model_dump())
    json_file = file.with_suffix(".json")
    json_file.write_text(json.dumps({**json.loads(json_file.read_text()), "other": "somebody's"}))
    sat = convert(tmp_path / "few" if named == "folder" else file, tmp_path / "sat", "sat")
    assert read_recommended(sat) == FEW
    again = sat if named == "folder" else sat / "1/mp_rank_00_model_states.pt"
    back = convert(again, tmp_path / "back")
    assert read_recommended(back) == FEW
    assert json.loads((back / "pytorch_lora_weights.json").read_text()).keys() == {"recommended"}
    assert convert(sat, tmp_path / "back", overwrite=True) == back  # a folder of ours is replaced


def test_a_file_of_any_name_brings_its_settings_and_one_without_brings_none(tmp_path):
    (tmp_path / "any").mkdir()
    file = adapter(tmp_path / "any/style.safetensors", guidance=1)
    for number, source in enumerate((file, tmp_path / "any")):
        assert read_recommended(convert(source, tmp_path / f"out{number}")).guidance == 1
    file.with_suffix(".json").write_text('{"notes": "of another program"}')
    assert not (convert(file, tmp_path / "plain") / "pytorch_lora_weights.json").exists()


def test_settings_that_go_with_a_replaced_adapter_are_said_aloud(tmp_path):
    adapter(tmp_path / "few", **FEW.model_dump())
    plain = adapter(tmp_path / "plain.safetensors")
    with pytest.warns(UserWarning, match="what the replaced adapter is made for, is replaced with it"):
        convert(plain, tmp_path / "few", overwrite=True)
    assert read_recommended(tmp_path / "few") is None


def test_settings_that_are_none_are_refused_by_the_name_of_their_file(tmp_path):
    file = adapter(tmp_path / "few")
    file.with_suffix(".json").write_text('{"recommended": 3}')
    with pytest.raises(ConfigError, match=r"pytorch_lora_weights\.json: recommended is 3"):
        convert(file, tmp_path / "out", "sat")

"""Two models become one whose transformer is the mean of theirs: ``convert --blend``."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvideox.checkpoints import convert, inspect, load_model, save_model
from cogvideox.cli.app import app
from cogvideox.errors import CheckpointError, OutputError
from support.models import golden_model, same, write_model_folder
from support.quantised import fp8

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def tuned(folder, out, amount=0.1):
    """A copy of a model folder whose transformer has learned something else."""
    model = load_model(folder, device="cpu")
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.transformer.parameters():
            weight.add_(torch.randn_like(weight) * amount)
    return save_model(model, out)


@pytest.fixture
def two(tmp_path):
    one = write_model_folder(tmp_path / "one")
    return one, tuned(one, tmp_path / "two")


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_each_weight_is_the_mean_and_all_else_is_the_first_ones(two, tmp_path, share):
    out = convert(two[1], tmp_path / "out", blend=(two[0], share))
    ours, theirs, mean = (load_file(each / WEIGHTS) for each in (two[1], two[0], out))
    assert ours.keys() == mean.keys() and not same(ours, mean)
    for name, weight in mean.items():
        wanted = (1 - share) * ours[name].double() + share * theirs[name].double()
        torch.testing.assert_close(weight.double(), wanted, rtol=1e-5, atol=1e-6)
        assert weight.dtype == ours[name].dtype
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert same(load_file(two[0] / part), load_file(out / part))
    assert load_model(out, device="cpu").spec == load_model(two[1], device="cpu").spec
    assert inspect(out, check=True).ok


@pytest.mark.parametrize(("share", "which"), [(0, 1), (1, 0)])
def test_the_ends_are_the_models_themselves(two, tmp_path, share, which):
    out = convert(two[1], tmp_path / "out", blend=(two[0], share))
    assert same(load_file(out / WEIGHTS), load_file(two[which] / WEIGHTS))


def test_the_record_says_what_was_blended(two, tmp_path):
    out = convert(two[1], tmp_path / "out", blend=(two[0], 0.25))
    (note,) = json.loads((out / "cogvideox.json").read_text())["provenance"]["blended"]
    name = f"{tmp_path.name}/one"
    assert note["name"] == name and note["share"] == 0.25
    assert list(note["files"]) == [WEIGHTS] and len(note["files"][WEIGHTS]) == 64
    assert f"blended   with '{name}', share 0.25" in inspect(out).to_text()
    more = convert(out, tmp_path / "more", blend=(two[1], 0.5))
    notes = json.loads((more / "cogvideox.json").read_text())["provenance"]["blended"]
    assert [each["share"] for each in notes] == [0.25, 0.5]


def test_the_command_line_reads_the_share(two, tmp_path):
    def run(out, blend):
        return CliRunner().invoke(app, ["convert", str(two[1]), str(tmp_path / out), "--blend", blend])

    assert run("a", f"{two[0]}:0.25").exit_code == 0 and run("b", str(two[0])).exit_code == 0
    for out, share in (("a", 0.25), ("b", 0.5)):
        wanted = convert(two[1], tmp_path / f"{out}-wanted", blend=(two[0], share))
        assert same(load_file(tmp_path / out / WEIGHTS), load_file(wanted / WEIGHTS))
    assert run("c", f"{two[0]}:2").exit_code != 0 and not (tmp_path / "c").exists()


def test_quantised_weights_become_plain(two, tmp_path):
    plain = load_file(two[1] / WEIGHTS)
    tensors, metadata, numbers = fp8(plain)
    record = json.loads((two[1] / "cogvideox.json").read_text())
    (two[1] / "cogvideox.json").write_text(json.dumps(record | {"files": {}}))  # of the weights before
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, two[1] / WEIGHTS, metadata)
    mean = load_file(convert(two[1], tmp_path / "out", blend=(two[0], 0.5)) / WEIGHTS)
    theirs = load_file(two[0] / WEIGHTS)
    for name, number in numbers.items():
        wanted = (number.float() + theirs[name].float()) / 2
        torch.testing.assert_close(mean[name].float(), wanted, rtol=1e-2, atol=1e-2)
    assert mean.keys() == plain.keys()


def test_another_autoencoder_is_said_aloud(two, tmp_path):
    file = two[0] / "vae/diffusion_pytorch_model.safetensors"
    save_file({key: value + 0.01 for key, value in load_file(file).items()}, file, {"format": "pt"})
    record = json.loads((two[0] / "cogvideox.json").read_text())
    (two[0] / "cogvideox.json").write_text(json.dumps(record | {"files": {}}))
    with pytest.warns(UserWarning, match="has another autoencoder than"):
        convert(two[1], tmp_path / "out", blend=(two[0], 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(two[1], tmp_path / "same", blend=(two[1], 0.5))


def change(file, **values):
    """Write other values into a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_other_settings_of_the_autoencoder_are_said_aloud(two, tmp_path):
    change(two[0] / "vae/config.json", scaling_factor=0.9)
    with pytest.warns(UserWarning, match=r"has another autoencoder than .* \(settings differ\)"):
        convert(two[1], tmp_path / "out", blend=(two[0], 0.5))
    assert json.loads((tmp_path / "out/vae/config.json").read_text())["scaling_factor"] == 0.7


@pytest.mark.parametrize("what", ["settings", "weights"])
def test_another_text_encoder_is_said_aloud(two, tmp_path, what):
    file = two[0] / "text_encoder/model.safetensors"
    if what == "settings":
        change(two[0] / "text_encoder/config.json", layer_norm_epsilon=1e-5)
    else:
        save_file({key: value + 0.01 for key, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.warns(UserWarning, match=rf"has another text encoder than .* \({what} differ\)"):
        convert(two[1], tmp_path / "out", blend=(two[0], 0.5))


@pytest.mark.parametrize("first", [0, 1])
def test_a_distilled_model_with_one_that_is_not_is_said_aloud(two, tmp_path, first):
    change(two[0] / "cogvideox.json", times=[999, 749, 499, 249], sampler="ddim", guidance=1.0)
    with pytest.warns(UserWarning, match="a mean of a distilled model and one that is not") as noted:
        convert(two[first], tmp_path / "out", blend=(two[1 - first], 0.5))
    assert any("4 steps at guidance 1" in str(each.message) for each in noted)
    assert (load_model(tmp_path / "out", device="cpu").spec.times == ()) is bool(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(two[0], tmp_path / "alike", blend=(two[0], 0.5))


def test_models_of_two_kinds_are_not_blended(tmp_path):
    one, two = (save_model(golden_model(kind), tmp_path / kind) for kind in ("i2v", "control"))
    with pytest.raises(CheckpointError, match="makes videos of kind control, .* of kind i2v: .*one kind"):
        convert(one, tmp_path / "out", blend=(two, 0.5))


@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_refused_by_the_name_of_the_model_that_holds_it(two, tmp_path, which):
    tensors = load_file(two[which] / WEIGHTS)
    tensors["proj_out.bias"][0] = float("nan")
    save_file(tensors, two[which] / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{two[which].name}/transformer: NaN or Inf in .*proj_out"):
        convert(two[1], tmp_path / "out", blend=(two[0], 0.5))


def test_both_may_be_runs(two, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("steps: 1")
    two[0].rename(run / "model")
    for source, other in ((two[1], run), (run, two[1])):
        out = convert(source, tmp_path / f"out-{source.name}", blend=(other, 0.5))
        assert inspect(out).ok


def test_the_share_is_looked_at_before_a_model_is_looked_for(tmp_path):
    for source, other in (("5b", tmp_path), (tmp_path, "5b"), ("nobody/nothing", "nobody/nothing")):
        with pytest.raises(CheckpointError, match=r"share 1\.5: must be from 0 to 1"):
            convert(source, tmp_path / "out", blend=(other, 1.5))


def test_a_target_that_is_taken_is_refused_before_a_model_is_read(two, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for folder in two:
        (folder / WEIGHTS).unlink()
    for other in (two[0], "nobody/nothing"):
        with pytest.raises(OutputError, match="out: holds files already"):
            convert(two[1], tmp_path / "out", blend=(other, 0.5))


def test_blend_given_twice_is_refused(two, tmp_path):
    ran = CliRunner().invoke(
        app,
        ["convert", str(two[1]), str(tmp_path / "out"), "--blend", str(two[0]), "--blend", f"{two[1]}:0.3"],
    )
    assert ran.exit_code != 0 and not (tmp_path / "out").exists()
    assert "two models are blended at a time" in " ".join(ran.output.split())


def test_what_has_no_mean_is_refused_before_anything_is_written(two, tmp_path):
    wider = save_model(golden_model("i2v"), tmp_path / "i2v")
    (wider / WEIGHTS).unlink()  # refused by the settings, before weights are read
    schedule = two[0] / "scheduler/scheduler_config.json"
    refusals = [
        ((wider, 0.5), {}, "its transformer has other shapes than that of"),
        ((two[0], 1.5), {}, r"share 1\.5: must be from 0 to 1"),
        ((two[0], float("nan")), {}, "must be from 0 to 1"),
        ((two[0] / "vae", 0.5), {}, "two model folders are blended"),
        ((two[0], 0.5), {"lora": [("a.safetensors", 1.0)]}, "blend and lora: one after the other"),
        ((two[0], 0.5), {"base": two[0]}, "blend and base: one after the other"),
        ((two[0], 0.5), {"alpha": 2.0, "preset": "2b"}, "blend and alpha, preset: one after the other"),
        ((two[0], 0.5), {"to": "sat"}, "blend: changes a diffusers folder; convert that to 'sat' afterwards"),
    ]
    for blend, more, message in refusals:
        with pytest.raises(CheckpointError, match=message):
            convert(two[1], tmp_path / "out", blend=blend, **more)
    schedule.write_text(json.dumps(json.loads(schedule.read_text()) | {"snr_shift_scale": 3.0}))
    with pytest.raises(CheckpointError, match="noise schedule is not that of"):
        convert(two[1], tmp_path / "out", blend=(two[0], 0.5))
    assert not (tmp_path / "out").exists()
    for read in two:
        with pytest.raises(OutputError, match="which is read"):
            convert(two[1], read, blend=(two[0], 0.5), overwrite=True)

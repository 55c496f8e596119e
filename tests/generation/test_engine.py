"""Ways to run the transformer of a generation: the same numbers, or numbers whose difference is known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.generation import GenerateOptions, Noises, sample_latents
from cogvideox.generation.calibrate_reuse import attempt, observe
from cogvideox.generation.fast_paths import _host_of_modulation, running
from cogvideox.generation.residual_reuse import Calibration, calibration_path, read_calibration
from cogvideox.memory.offload import install
from cogvideox.parallel.sequence import SequenceParallelAttention
from cogvideox.transformer.attention import Attention
from cogvideox.transformer.reuse import measuring, reusing
from support.models import golden_model, golden_text, write_model_folder

SHAPE = (1, 4, 3, 4, 6)
PLAIN = GenerateOptions(prompt="x", seed=42, steps=4, frames=9, modulation="layers", attention="torch")


def latents(options, model=None):
    model = model or golden_model()
    noises = Noises(options.seed, torch.float32, "cpu")
    text = golden_text()
    clip = model.clip_of(SHAPE, text["prompt_embedding"].shape[1])
    with torch.no_grad(), running(model, options, model.schedule.path(options.steps), clip) as engine:
        steps = noises.steps(SHAPE)
        start = noises.initial(SHAPE)
        found = sample_latents(
            model,
            text["prompt_embedding"],
            text["negative_embedding"],
            start,
            options,
            step_noise=steps,
        )
    return found, engine.to_dict()


def of(**changes):
    return PLAIN.changed(**changes)


@pytest.fixture
def table(tmp_path):
    """A calibration by hand: residuals of steps 2 and 4 are those of the steps before, within 0.1 and 0.2."""
    times = tuple(step.t for step in golden_model().schedule.path(4))
    factors, errors = ((), (1.25,), (1, 1), (0.5, 1, 1)), ((), (0.1,), (0.9, 0.9), (0.2, 0.9, 0.9))
    path = tmp_path / "reuse-4.json"
    path.write_text(Calibration(model="toy", times=times, factors=factors, errors=errors).to_json())
    return str(path)


# modulation tables and kernels


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_sde"])
def test_tables_and_the_chosen_kernel_give_the_same_latents(sampler):
    plain, _ = latents(of(sampler=sampler))
    fast, record = latents(of(sampler=sampler, modulation="tables", attention="fastest"))
    assert (fast - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert record["attention"] == {"asked": "fastest", "used": ["torch"]}


def test_what_was_applied_is_undone():
    model = golden_model()
    before = {name: type(module) for name, module in model.transformer.named_modules()}
    attn_fns = [block.attn1.attn_fn for block in model.transformer.transformer_blocks]
    latents(of(modulation="tables", attention="fastest"), model)
    assert {name: type(module) for name, module in model.transformer.named_modules()} == before
    assert [block.attn1.attn_fn for block in model.transformer.transformer_blocks] == attn_fns
    assert "temb" not in vars(model.transformer) and "run_blocks" not in vars(model.transformer)


def test_an_unknown_kernel_is_refused_and_leaves_the_model_whole():
    model = golden_model()
    with pytest.raises(ConfigError, match="did you mean 'sage'"):
        latents(of(attention="saga"), model)
    assert torch.equal(latents(PLAIN, model)[0], latents(PLAIN)[0])


@pytest.mark.parametrize("stream", [False, True])
def test_weights_that_visit_leave_the_modulation_layers_at_home(stream):
    expected, _ = latents(of(modulation="tables"), golden_model(num_layers=3))
    model = golden_model(num_layers=3)
    layers = [block.norm1.linear for block in model.transformer.transformer_blocks]
    homes = [layer.weight for layer in layers]
    install(model, torch.device("cpu"), stream)
    away = []
    model.transformer.transformer_blocks[1].register_forward_hook(
        lambda *_: away.append([layer.weight is not home for layer, home in zip(layers, homes, strict=True)])
    )
    for _ in range(2):  # the second run finds what the first one left
        assert torch.equal(latents(of(modulation="tables"), model)[0], expected)
    assert away and not any(any(each) for each in away)


# reuse of residuals


def test_a_threshold_of_zero_reuses_nothing(table):
    assert Calibration.from_yaml(table).choose(Calibration.from_yaml(table).times, 0.0) == [None] * 4
    model = golden_model()
    with reusing(model.transformer, [None] * 4):
        again, _ = latents(PLAIN, model)
    assert torch.equal(again, latents(PLAIN)[0])


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_sde"])
@pytest.mark.parametrize("way", ["plain", "tables", "sequence", "streamed"])
def test_every_way_of_running_reuses_alike(table, sampler, way):
    model = golden_model()
    reuse = of(sampler=sampler, reuse=0.15, reuse_table=table)
    expected, record = latents(reuse)
    assert record["reuse"] == {"threshold": 0.15, "reused_steps": [1]}
    changes = {"tables": {"modulation": "tables"}, "sequence": {"guidance_pair": "sequence"}}.get(way, {})
    if way == "streamed":
        install(model, torch.device("cpu"), stream=True)
    found, _ = latents(reuse.changed(**changes), model)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (expected - latents(of(sampler=sampler))[0]).abs().max() > 1e-4  # something was reused


def test_the_blocks_of_a_reused_step_are_not_called(table):
    model, calls = golden_model(), []
    model.transformer.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    latents(of(reuse=0.3, reuse_table=table), model)
    assert len(calls) == 2  # steps 2 and 4 reuse


def test_residuals_that_only_grow_are_found_and_reused_exactly():
    """Blocks whose residual is a fixed direction times a number per step: reuse must change nothing."""
    model, direction, sizes = golden_model(), torch.randn(1, 23, 32), [1.0, 1.5, 0.75, 3.0]
    calls = []

    def run_blocks(x, *rest):
        calls.append(1)
        return x + sizes[(len(calls) - 1) % 4] * direction

    model.transformer.run_blocks = run_blocks
    options = of(guidance=1.0)
    with measuring(model.transformer, 2) as found:
        exact, _ = latents(options, model)
    assert found.factors[1] == pytest.approx([1.5], rel=1e-4)
    assert found.factors[3] == pytest.approx([4.0, 2.0], rel=1e-4)
    assert max(sum(found.errors, [])) < 1e-3
    model.transformer.run_blocks = lambda x, *rest: x + direction
    with reusing(model.transformer, [None, 1.5, 0.75, 3.0]):
        reused, _ = latents(options, model)
    torch.testing.assert_close(reused, exact, atol=1e-5, rtol=1e-5)


def test_a_changed_video_takes_the_end_of_a_calibration(table):
    found = read_calibration(table)
    assert found.choose(found.times[2:], 0.3) == [None, 0.5]
    with pytest.raises(ConfigError, match="calibrated for 4 steps .* the run has 2"):
        found.choose(found.times[:2], 0.3)


def test_reuse_without_a_calibration_is_refused():
    with pytest.raises(ConfigError, match="cogvideox calibrate"):
        latents(of(reuse=0.1))


BAD_ROWS = '{"model": "x", "times": [1], "factors": [[1]], "errors": [[1]]}'


@pytest.mark.parametrize("text", ["", "[1]", '{"model": "x"}', BAD_ROWS])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        read_calibration(path)


def test_calibrating_measures_real_runs(tmp_path):
    model = golden_model()
    run = observe(model, PLAIN, **golden_text())
    assert [len(row) for row in run.calibration.factors] == [0, 1, 2, 3]
    path = tmp_path / "reuse.json"
    path.write_text(run.calibration.to_json())
    nothing = attempt(model, [run], 0.0, str(path), **golden_text())
    everything = attempt(model, [run], 1.0, str(path), **golden_text())
    assert (nothing.computed, nothing.psnr, nothing.lpips_stand_in) == (4, 100, 0)
    assert everything.computed < 4 and 0 < everything.psnr < 100 and everything.lpips_stand_in > 0


def cogvideox(*words: str, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    return done


def test_an_unknown_kernel_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(
        "cogvideox.checkpoints.load_model", lambda *_, **__: pytest.fail("weights were loaded")
    )
    said = cogvideox("generate", "a red circle", "--attention", "flash-33", code=2).stderr
    assert "did you mean 'flash-3'" in said


def test_compiling_is_refused_where_several_processes_share_a_video(monkeypatch):
    model = golden_model()
    for module in model.transformer.modules():
        if isinstance(module, Attention):
            module.attn_fn = SequenceParallelAttention(module.attn_fn, None, "ulysses")
    with pytest.raises(ConfigError, match="compile: the transformer is spread over processes"):
        latents(of(compile=True), model)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        "cogvideox.checkpoints.load_model", lambda *_, **__: pytest.fail("weights were loaded")
    )
    said = cogvideox("generate", "a red circle", "--compile", "--memory", "resident", code=2).stderr
    assert "compile: not for several processes" in said


def test_calibrate_and_generate_with_it(tmp_path):
    folder = write_model_folder(tmp_path / "toy")
    ask = ["generate", "a red circle", "--model", folder, "--frames", 9, "--steps", 2, "--reuse", 1]
    said = cogvideox(*ask, "--out", tmp_path / "a.mp4", code=2).stderr
    assert "cogvideox calibrate" in said and "reuse-2.json" in said
    words = ["--prompt", "a red circle", "--steps", 2, "--frames", 9, "--try", "0,1", "--json"]
    lines = cogvideox("calibrate", folder, *words).stdout.splitlines()
    assert lines[0] == str(calibration_path(folder, 2))
    first, second = map(json.loads, lines[1:])
    assert first["computed"] == 2 and second["threshold"] == 1
    cogvideox(*ask, "--out", tmp_path / "b.mp4")
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["run"]["engine"]["reuse"]["threshold"] == 1
    assert record["inputs"]["reuse_table"]["file"] == "reuse-2.json"
    other = cogvideox(*ask, "--steps", 3, "--reuse-table", calibration_path(folder, 2), code=2)
    assert "calibrated for 2 steps" in other.stderr


@pytest.mark.parametrize(("free", "host"), [(100, None), (60, "cpu")])
def test_modulation_layers_are_parked_only_where_memory_is_short(free, host, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 141))
    model = SimpleNamespace(compute_device=None, device=torch.device("cuda"))
    assert _host_of_modulation(model) == host
    model.compute_device = model.device  # they wait in host memory anyway
    assert _host_of_modulation(model) is None

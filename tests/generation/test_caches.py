"""Caches without calibration in whole runs: exact at 0, alike in every way of running, said in the record."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.errors import ConfigError
from cogvideox.generation import GenerateOptions, plan_run
from cogvideox.generation.preflight import request_of
from cogvideox.generation.residual_reuse import TEA_5B, tea_polynomial
from cogvideox.memory.offload import install
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.parallel.sequence import SequenceParallelAttention
from cogvideox.presets import get_preset
from cogvideox.transformer.attention import Attention
from generation.test_engine import latents
from support.models import golden_model, small_preset

OPTIONS = GenerateOptions(prompt="x", seed=42, steps=6, frames=9, modulation="layers", attention="torch")
KINDS = ["first-block", "tea"]
pytestmark = pytest.mark.filterwarnings("ignore:cache tea")


def blocks_run(model):
    """Counts the calls of every block of a model."""
    counts = [0] * len(model.transformer.transformer_blocks)
    for index, block in enumerate(model.transformer.transformer_blocks):

        def count(*_, index=index):
            counts[index] += 1

        block.register_forward_hook(count)
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_of_zero_gives_the_same_bits(kind):
    found, record = latents(OPTIONS.changed(cache=f"{kind}:0"))
    assert torch.equal(found, latents(OPTIONS)[0])
    assert record["cache"]["skipped_steps"] == []


@pytest.mark.parametrize(("kind", "skipped", "counts"), [
    ("first-block", [1, 2, 3, 4, 5], [6, 1]), ("tea", [1, 2, 3, 4], [2, 2]),
])  # fmt: skip
def test_without_a_limit_the_first_residual_stands_for_all(kind, skipped, counts):
    model = golden_model()
    ran = blocks_run(model)
    _, record = latents(OPTIONS.changed(cache=f"{kind}:inf"), model)
    assert record["cache"]["skipped_steps"] == skipped and ran == counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["tables", "sequence", "streamed", "again", "interval"])
def test_every_way_of_running_skips_alike(kind, way):
    options = OPTIONS.changed(cache=f"{kind}:inf")
    if way == "interval":
        options = options.changed(guidance_stop=0.5)
    expected, record = latents(options)
    changes = {"tables": {"modulation": "tables"}, "sequence": {"guidance_pair": "sequence"}}.get(way, {})
    model = golden_model()
    if way == "streamed":
        install(model, torch.device("cpu"), stream=True)
    if way == "again":
        latents(options.changed(seed=1), model)
    found, again = latents(options.changed(**changes), model)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert again["cache"] == record["cache"] and record["cache"]["skipped_steps"]


def test_the_streamed_blocks_of_a_skipped_step_are_the_right_ones():
    """The first block is used at every step, the others at some: streaming must bring each its own weights."""
    options = OPTIONS.changed(cache="first-block:1", steps=12)
    expected, record = latents(options, golden_model(num_layers=5))
    model = golden_model(num_layers=5)
    install(model, torch.device("cpu"), stream=True)
    found, streamed = latents(options, model)
    assert torch.equal(found, expected) and streamed == record
    assert 0 < len(record["cache"]["skipped_steps"]) < 11


def test_polynomials_are_those_of_the_released_models():
    names = {name: tea_polynomial(get_preset(name).transformer)[0] for name in ("2b", "5b", "5b-i2v", "tiny")}
    assert names == {"2b": "2b", "5b": "5b", "5b-i2v": "5b", "tiny": "none"}
    assert tea_polynomial(get_preset("5b").transformer)[1] == TEA_5B
    assert [tea_polynomial(get_preset(f"1.5-5b{more}").transformer)[0] for more in ("", "-i2v")] == [
        "1.5-5b", "1.5-5b-i2v",
    ]  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_a_model_without_a_polynomial_is_said():
    with pytest.warns(UserWarning, match="no polynomial is published for this model"):
        latents(OPTIONS.changed(cache="tea:0.1"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache": "first-bock:0.1"}, "did you mean 'first-block'.*write first-block:0.05 or tea:0.2"),
        ({"cache": "tea:x"}, "the threshold must be a number of at least 0; write tea:0.2"),
        ({"cache": "tea:nan"}, "the threshold must be a number"),
        ({"cache": "tea:-1"}, "the threshold must be a number"),
        ({"cache": "tea", "reuse": 0.1}, "both skip steps; give one of them"),
    ],
)
def test_caches_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        OPTIONS.changed(**settings)


def test_several_processes_have_no_cache():
    model = golden_model()
    for module in model.transformer.modules():
        if isinstance(module, Attention):
            module.attn_fn = SequenceParallelAttention(module.attn_fn, None, "ulysses")
    with pytest.raises(ConfigError, match="cache 'tea': the transformer is spread over processes"):
        latents(OPTIONS.changed(cache="tea"), model)


def test_the_planner_counts_what_is_kept():
    def work(cache):
        spec = small_preset("5b")
        plan = plan_run(
            spec, GenerateOptions(prompt="x", steps=10, frames=17, height=64, width=96, cache=cache)
        )
        request = request_of(spec, plan, encoded=0, dtype=torch.float32, device="cuda")
        return MemoryPrediction(request).work("batched", "chunked").denoise

    plain, tea, first = work(""), work("tea"), work("first-block")
    assert plain < tea <= first < 2 * plain


def test_the_flag_reaches_the_record(tmp_path):
    words = ["generate", "a red circle", "--steps", "4", "--frames", "5", "--out", str(tmp_path / "a.mp4")]
    done = CliRunner().invoke(app, [*words, "--cache", "first-block:0.9"])
    assert done.exit_code == 0, done.stderr
    engine = json.loads((tmp_path / "a.json").read_text())["run"]["engine"]
    assert engine["cache"]["asked"] == "first-block:0.9" and engine["cache"]["skipped_steps"]

"""What a run says of itself: typed in the process, and as the manifest that older versions wrote."""

from __future__ import annotations

import json

import pytest

from cogvideox.errors import ConfigError
from cogvideox.generation import GenerateOptions, Generation, Given, generate, plan_run
from cogvideox.generation.pipeline import Explicit, decode, run, sample
from cogvideox.generation.prompt_enhance import Enhanced
from support.models import golden_model, golden_text

RUN = [
    "way", "height", "width", "fps", "frames", "condition", "text", "times", "guidance", "precision_between_steps",
    "engine", "seconds", "stages", "peak_memory_bytes", "noise",
]  # fmt: skip
TOP = [
    "kind", "digitalSourceType", "created", "seed", "config", "config_hash", "inputs", "versions", "model", "run",
]  # fmt: skip
MODEL = ["name", "kind", "dtype", "device", "transformer", "vae", "schedule", "weights", "adapters"]


def made(**options) -> Generation:
    model = golden_model()
    plan = plan_run(model.spec, GenerateOptions(prompt="a red circle", steps=2, frames=9, **options))
    return run(model, plan, Given(), explicit=Explicit(**golden_text()))


def test_the_manifest_has_the_keys_it_always_had_in_their_order():
    record = made(seed=3).video.manifest
    assert list(record) == TOP and list(record["run"]) == RUN and list(record["model"]) == MODEL
    assert list(record["run"]["frames"]) == ["asked", "made", "latents", "padding", "front", "back", "why"]
    assert list(record["run"]["engine"]) == ["modulation", "compile", "attention"]
    assert list(record["run"]["engine"]["attention"]) == ["asked", "used"]
    assert list(record["run"]["stages"]) == ["text", "encode", "denoise", "decode"]
    assert json.loads(json.dumps(record)) == record
    assert list(record["config"]) == list(GenerateOptions.model_fields)


def test_what_is_known_later_stands_where_it_always_stood():
    later = made(seed=3).noted(enhanced=Enhanced("a", "a b", "rules/1"), batch="0123").video.manifest
    assert list(later) == [*TOP, "batch"] and list(later["run"]) == [*RUN, "enhance"]
    assert later["run"]["enhance"] == {"original": "a", "enhanced": "a b", "by": "rules/1"}


def test_the_record_says_in_types_what_the_manifest_says_in_json():
    generation = made()
    record, manifest = generation.record, generation.video.manifest
    assert record.seed is not None and manifest["seed"] == manifest["config"]["seed"] == record.seed
    assert list(record.times) == manifest["run"]["times"] and len(record.guidance) == 2
    assert record.frames.asked == manifest["run"]["frames"]["asked"] == len(generation.video)
    assert record.engine.kernels and record.stages == manifest["run"]["stages"]


def test_a_plan_is_run_as_it_is():
    """The same frames whether a request goes through generate or was planned before."""
    direct = generate(golden_model(), "a red circle", steps=2, frames=9, seed=3, **golden_text())
    assert (made(seed=3).video.frames == direct.frames).all()


def test_the_two_halves_of_a_run_make_what_the_whole_makes_and_the_second_as_often_as_it_is_wanted():
    model = golden_model()
    plan = plan_run(model.spec, GenerateOptions(prompt="a red circle", steps=2, frames=9, seed=3))
    sampled = sample(model, plan, Given(), explicit=Explicit(**golden_text()))
    whole, halves = made(seed=3), [decode(model, sampled) for _ in range(2)]
    assert all((each.video.frames == whole.video.frames).all() for each in halves)
    for each in halves:
        record, expected = each.video.manifest, whole.video.manifest
        assert list(record["run"]) == list(expected["run"]) and each.record.seconds >= sampled.seconds
        assert list(record["run"]["stages"]) == ["text", "encode", "denoise", "decode"]
        for name in {*RUN} - {"seconds", "stages", "peak_memory_bytes"}:
            assert record["run"][name] == expected["run"][name], name


def test_the_two_halves_tell_of_the_stages_of_the_whole():
    model, told = golden_model(), []
    plan = plan_run(model.spec, GenerateOptions(prompt="a red circle", steps=2, frames=9))
    sampled = sample(model, plan, Given(), told.append, Explicit(**golden_text()))
    assert sampled.plan.options.seed is not None
    decode(model, sampled, told.append)
    assert [(each.stage, each.done) for each in told] == [
        ("text", 0), ("encode", 0), ("denoise", 0), ("denoise", 1), ("denoise", 2), ("decode", 0), ("decode", 1),
    ]  # fmt: skip
    assert [each.seconds for each in told] == sorted(each.seconds for each in told)


def test_a_video_in_segments_has_no_latents_of_the_whole():
    model = golden_model()
    options = GenerateOptions(prompt="a", steps=1, frames=33, window=17, window_schedule="segments")
    with pytest.raises(ConfigError, match="window_schedule segments: .*choose another schedule"):
        sample(model, plan_run(model.spec, options), Given())

"""What a run says of itself: typed in the process, and as the manifest that older versions wrote."""

from __future__ import annotations

import json

from cogvideox.generation import GenerateOptions, Generation, Given, generate, plan_run
from cogvideox.generation.pipeline import Explicit, run
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

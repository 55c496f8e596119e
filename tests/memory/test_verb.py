"""The verb plan, and generate that follows it."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from cogvideox.checkpoints.lora import add_lora, save_lora
from cogvideox.cli import app
from cogvideox.presets import get_preset
from cogvideox.transformer import Transformer
from support.models import write_model_folder


def cogvideox(*words: str, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr)
    return done


def test_a_plan_as_json():
    found = json.loads(cogvideox("plan", "tiny", "--device", "cpu", "--memory-limit", "4GB", "--json").stdout)
    assert found["policy"]["residence"] == "resident" and found["options"][0]["fits"]
    assert set(found["predicted"]) == {"text", "denoise", "decode"}
    assert 1e7 < found["predicted_peak_bytes"] < 1e9


def test_a_plan_counts_adapters(tmp_path):
    adapted = Transformer(get_preset("tiny").transformer)
    add_lora(adapted, 8)
    file = save_lora(adapted, tmp_path / "adapter.safetensors")

    def weights(*flags):
        asked = ("plan", "tiny", "--device", "cpu", "--memory-limit", "4GB", "--json", *flags)
        return json.loads(cogvideox(*asked).stdout)["options"][0]["stages"]["denoise"]["weights"]

    size = sum(tensor.nbytes for tensor in load_file(file).values())
    assert weights("--lora", f"{file}:0.5") - weights() == size
    asked = ("plan", "tiny", "--train", "lora", "--lora", file)
    assert "for generate" in cogvideox(*asked, code=2).stderr
    assert "no such file" in cogvideox("plan", "tiny", "--lora", tmp_path / "none", code=1).stderr


def test_a_plan_names_the_folder_of_a_model_that_is_no_preset(tmp_path):
    write_model_folder(tmp_path / "mine")
    (tmp_path / "mine" / "cogvideox.json").unlink()
    found = json.loads(
        cogvideox("plan", str(tmp_path / "mine"), "--device", "cpu", "--memory-limit", "4GB", "--json").stdout
    )
    assert found["request"]["model"] == "mine"


def test_a_plan_says_how_long_it_takes_here():
    asked = ("plan", "tiny", "--device", "cpu", "--memory-limit", "4GB")
    found = json.loads(cogvideox(*asked, "--steps", "10", "--json").stdout)
    assert set(found["seconds"]) == {"text", "denoise", "decode"} and found["seconds"]["denoise"] > 0
    assert "measured here" in found["seconds_stand_on"]
    last = cogvideox(*asked, "--steps", "10").stdout.strip().splitlines()[-1]
    assert last.startswith("time of 10 steps: about ") and "decode" in last and "measured here" in last


def test_the_time_on_a_card_elsewhere_stands_on_what_is_printed():
    asked = ("plan", "5b", "--device", "cuda", "--memory-limit", "40GB")
    h100, a100 = (json.loads(cogvideox(*asked, "--card", card, "--json").stdout) for card in ("H100", "A100"))
    assert "35% of an A100's printed 312 TFLOPs" in a100["seconds_stand_on"]
    assert a100["seconds"]["denoise"] == pytest.approx(h100["seconds"]["denoise"] * 989 / 312)
    assert 60 < sum(h100["seconds"].values()) < 120  # published: 88 to 113
    whole = json.loads(cogvideox("plan", "2b", "--device", "cuda", "--card", "A100", "--json").stdout)
    assert whole["limit_bytes"] == 80e9, "a card that is named has its memory"
    assert "choose one of H200" in cogvideox(*asked, "--card", "GTX", code=2).stderr
    assert (
        "add --device cuda" in cogvideox("plan", "tiny", "--device", "cpu", "--card", "H100", code=2).stderr
    )


def test_what_cannot_fit_is_refused_before_anything_is_loaded(monkeypatch):
    import cogvideox.checkpoints as checkpoints

    monkeypatch.setattr(checkpoints, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    done = cogvideox("generate", "a red circle", "--memory-limit", "1MB", "--device", "cpu", code=2)
    assert "nothing fits 0.001 GB" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = cogvideox("plan", "tiny", "--memory-limit", "1MB", "--device", "cpu", code=2)
    assert "no smaller video fits" in done.stderr


@pytest.mark.parametrize("limit", ["0GB", "-1GB", "much"])
def test_a_limit_is_a_size(limit):
    assert "not a size" in cogvideox("plan", "tiny", "--memory-limit", limit, code=2).stderr


def test_the_record_says_what_was_done_about_memory(tmp_path):
    out = tmp_path / "made.mp4"
    cogvideox(
        "generate", "a red circle", "--steps", "1", "--out", out, "--memory-limit", "4GB", "--device", "cpu"
    )
    found = json.loads(out.with_suffix(".json").read_text())["run"]["memory"]
    assert found["limit_bytes"] == 4 * 10**9 and found["policy"]["residence"] == "resident"


def test_the_verb_names_what_int8_weights_need(monkeypatch):
    import cogvideox.memory as memory

    monkeypatch.setattr(memory, "has_torchao", lambda: False)
    asked = ("plan", "tiny", "--device", "cpu", "--frames", "9", "--no-guidance", "--memory-limit", "4GB")
    assert "int8" not in cogvideox(*asked).stdout  # they cannot be chosen here, and need not be
    lines = cogvideox(*asked[:-1], "1MB", code=2).stdout.splitlines()
    low = [line for line in lines if line.lstrip().startswith("all") and "int8 weights" in line]
    assert low and all("needs pip install 'cogvideox[lowp]'" in line and "  no " in line for line in low)


def test_a_plan_checks_the_card_before_it_counts(monkeypatch):
    import cogvideox.generation.preflight as preflight

    monkeypatch.setattr(preflight, "plan_memory", lambda *_, **__: pytest.fail("it counted first"))
    said = cogvideox("plan", "5b", "--device", "cuda", "--card", "RTX9999", code=2).stderr
    assert "RTX9999" in said and "choose one of H200" in said
    assert "add --device cuda" in cogvideox("plan", "5b", "--device", "cpu", "--card", "H100", code=2).stderr


def test_a_plan_does_not_time_a_text_encoder_that_is_elsewhere():
    asked = ("plan", "5b", "--device", "cuda", "--card", "H100", "--frames", "9", "--no-guidance")
    text = cogvideox(*asked, "--text-device", "cpu").stdout
    assert "which another device reads, is not counted" in text and "(denoise" in text
    assert "(text " in cogvideox(*asked).stdout


def test_an_adapter_of_another_model_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file

    import cogvideox.checkpoints as checkpoints

    monkeypatch.setattr(checkpoints, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    name = "transformer.transformer_blocks.0.attn1.to_q.lora_"
    wide = {f"{name}A.weight": torch.ones(2, 1920), f"{name}B.weight": torch.ones(1920, 2)}
    save_file(wide, tmp_path / "wide.safetensors", {"lora_alpha": "2"})
    for more in ((), ("--dry-run",)):
        done = cogvideox(
            "generate",
            "a red circle",
            "--lora",
            tmp_path / "wide.safetensors",
            "--device",
            "cpu",
            *more,
            code=1,
        )
        assert "made for another model" in done.stderr and "1920" in done.stderr


def test_a_plan_counts_branches_of_guidance_and_what_a_cache_keeps():
    def planned(*more):
        asked = ("plan", "tiny-base", "--device", "cpu", "--memory-limit", "4GB", "--steps", "10", "--json")
        found = json.loads(cogvideox(*asked, *more).stdout)
        return found["options"][0]["stages"]["denoise"]["work"], found["seconds"]["denoise"]

    (plain, seconds), (third, longer) = planned(), planned("--stg-scale", "1")
    assert third > 1.2 * plain and longer > 1.2 * seconds
    assert planned("--guidance-stop", "0.3")[1] < 0.9 * seconds
    assert planned("--cache", "first-block")[0] > plain
    said = cogvideox("plan", "tiny", "--train", "lora", "--stg-scale", "1", code=2).stderr
    assert "--stg-scale: for generate; leave it out with --train" in said

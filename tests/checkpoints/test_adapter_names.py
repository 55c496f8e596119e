"""One adapter in the spellings of many trainers is one adapter; what is no LoRA is named as what it is."""

from __future__ import annotations

import json
import time
import warnings

import pytest
import torch
from safetensors.torch import save_file

from cogvideox.checkpoints import inspect, load_lora, read_adapter
from cogvideox.checkpoints.adapter_names import Layers, layers_of, take_apart
from cogvideox.errors import CheckpointError
from support.loras import ALPHA, ATTENTION, LAYERS, RANK, WIDTH, dotted, kohya, matrices, processors, sat
from support.models import small_model

FSDP = "_fsdp_wrapped_module."
SPELLINGS = {
    "diffusers": dotted("transformer."),
    "the layers' names alone": dotted(""),
    "PEFT": dotted("base_model.model."),
    "PEFT of a whole pipeline": dotted("base_model.model.transformer."),
    "PEFT inside diffusers": dotted("transformer.base_model.model."),
    "an adapter's name inside": dotted("transformer.", "lora_A.default.weight", "lora_B.default.weight"),
    "another adapter's name": dotted("", "lora_A.my-style.weight", "lora_B.my-style.weight"),
    "no .weight": dotted("transformer.", "lora_A", "lora_B"),
    "ComfyUI": dotted("diffusion_model."),
    "ComfyUI, whole": dotted("model.diffusion_model."),
    "DataParallel": dotted("module."),
    "DataParallel in PEFT": dotted("base_model.model.module."),
    "torch.compile": dotted("_orig_mod."),
    "FSDP": dotted(FSDP, respell=lambda layer: layer.replace(".attn1.", f".{FSDP}attn1.")),
    "a checkpointed block": dotted(
        "transformer.", respell=lambda layer: layer.replace(".attn1", "._checkpoint_wrapped_module.attn1")
    ),
    "base_layer": dotted("transformer.", respell=lambda layer: layer + ".base_layer"),
    "lora.down and lora.up": dotted("transformer.", "lora.down.weight", "lora.up.weight"),
    "lora_linear_layer": dotted("unet.", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "lora_down with dots": dotted("diffusion_model.", "lora_down.weight", "lora_up.weight"),
    "kohya": kohya("lora_unet_"),
    "kohya, transformer": kohya("lora_transformer_"),
    "kohya, dit": kohya("lora_dit_"),
    "VideoX-Fun": kohya("lora_unet__"),
    "VideoX-Fun by PEFT": kohya("lora_unet__", a="lora_A.default.weight", b="lora_B.default.weight"),
    "kohya without a prefix": kohya(""),
    "processors": processors("transformer."),
    "processors of a unet": processors("unet."),
    "to_out without its number": dotted("transformer.", respell=lambda layer: layer.removesuffix(".0")),
    "blocks": dotted("", respell=lambda layer: layer.removeprefix("transformer_")),
    "a distilled student": dotted("student_model."),
    "capitals": dotted("Transformer.", respell=lambda layer: layer.replace("transformer_b", "TransformerB")),
    "SAT": sat("model.diffusion_model."),
    "SAT without its prefix": sat(""),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_adapter_in_any_spelling_is_one_adapter(spelling, tmp_path):
    metadata = None if "alpha" in str(list(SPELLINGS[spelling])) else {"lora_alpha": str(ALPHA)}
    is_sat = "SAT" in spelling
    save_file(SPELLINGS[spelling], tmp_path / "a.safetensors", None if is_sat else metadata)
    model = small_model("5b")
    for adapter in (
        read_adapter(tmp_path / "a.safetensors"),
        load_lora(model, tmp_path / "a.safetensors"),
    ):
        assert sorted(adapter.pairs) == sorted(LAYERS)
        for layer, (a, b) in matrices().items():
            pair = adapter.pairs[layer]
            assert torch.equal(pair.a, a)
            assert torch.equal(pair.b * pair.alpha, b * ALPHA)
        assert not adapter.passed_over
    assert inspect(tmp_path / "a.safetensors").ok


def test_every_layer_of_every_model_is_found_under_kohyas_name():
    for name in ("2b", "5b", "1.5-5b-i2v"):
        names = layers_of(small_model(name).transformer)
        layers = Layers(names)
        assert "patch_embed.proj" in names and len(names) > 20
        for layer in names:
            for spelled in (f"lora_unet_{layer.replace('.', '_')}", f"a.b.{layer}"):
                target, _ = layers.find(spelled)
                assert target.layers == (layer,)


def test_q_k_and_v_in_one_are_cut_apart(tmp_path):
    torch.manual_seed(0)
    a, b = torch.randn(RANK, WIDTH), torch.randn(3 * WIDTH, RANK)
    name = "model.diffusion_model.transformer.layers.1.attention.query_key_value"
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_alpha": "4"})
    pairs = read_adapter(tmp_path / "a.safetensors").pairs
    for place, leaf in enumerate(ATTENTION[:3]):
        pair = pairs[f"transformer_blocks.1.{leaf}"]
        assert torch.equal(pair.a, a) and torch.equal(pair.b, b[place * WIDTH : (place + 1) * WIDTH])


def test_a_text_encoders_layers_are_passed_over_and_told(tmp_path):
    beside = {
        f"{name}.{side}.weight": torch.randn(shape)
        for name in (
            "text_encoder.encoder.block.0.layer.0.SelfAttention.q",
            "text_encoder.encoder.block.1.layer.0.SelfAttention.q",
        )
        for side, shape in (("lora_A", (4, 16)), ("lora_B", (16, 4)))
    }
    file = tmp_path / "a.safetensors"
    save_file(dotted("transformer.") | beside, file, {"lora_alpha": "2"})
    with pytest.warns(UserWarning, match="passed over: 2 layers of a text encoder"):
        load_lora(small_model("5b"), file)
    assert "2 layers of a text encoder" in inspect(file).to_text()
    kohyas = {
        f"lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_{side}.weight": torch.randn(4, 4)
        for side in ("down", "up")
    }
    save_file(kohya("lora_unet_") | kohyas, file)
    assert read_adapter(file).passed_over == ("1 layers of a text encoder",)
    save_file(kohyas, file)
    with pytest.raises(CheckpointError, match="a text encoder alone"):
        read_adapter(file)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("transformer_blocks.0.attn1.to_q.hada_w1_a", "LoHa"),
        ("lora_unet_transformer_blocks_0_attn1_to_q.lokr_w1", "LoKr"),
        ("lora_unet_transformer_blocks_0_attn1_to_q.lora_mid.weight", "LoCon"),
        ("diffusion_model.transformer_blocks.0.attn1.to_q.diff", "full differences"),
        ("diffusion_model.transformer_blocks.0.attn1.to_q.diff_b", "full differences"),
        ("transformer_blocks.0.attn1.to_q.oft_blocks", "OFT"),
        ("base_model.model.transformer_blocks.0.attn1.to_q.ia3_l", "IA3"),
        ("transformer_blocks.0.attn1.to_q.lora_E", "AdaLoRA"),
        ("base_model.model.proj_out.modules_to_save.default.weight", "whole layers"),
        ("emb_params", "an embedding"),
    ],
)
def test_other_kinds_of_adapters_are_named_as_what_they_are(name, told, tmp_path):
    for beside in ({}, dotted("transformer.")):
        save_file({name: torch.ones(4, 4), **beside}, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match=told):
            read_adapter(tmp_path / "a.safetensors")
    report = inspect(tmp_path / "a.safetensors")
    assert not report.ok and told in report.kind


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("controlnet.", "does not have"),
        ("transformer.single_", "does not have"),
        ("vae.encoder.", "does not have"),
    ],
)
def test_layers_of_other_networks_are_not_taken_for_ours(before, told, tmp_path):
    save_file(dotted(before), tmp_path / "a.safetensors", {"lora_alpha": "2"})
    with pytest.raises(CheckpointError, match=told):
        read_adapter(tmp_path / "a.safetensors")


def test_an_unusual_word_before_some_layers_alone_is_another_network(tmp_path):
    some = {name: tensor for name, tensor in dotted("transformer.").items() if ".0.attn1" in name}
    odd = {name: tensor for name, tensor in dotted("temporal.").items() if ".1.attn1" in name}
    save_file({**some, **odd}, tmp_path / "a.safetensors", {"lora_alpha": "2"})
    with pytest.raises(CheckpointError, match="temporal"):
        read_adapter(tmp_path / "a.safetensors")


def test_two_names_of_one_layer_are_both_named(tmp_path):
    save_file(dotted("transformer.") | dotted("diffusion_model."), tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"two names: transformer\.\S+, diffusion_model|two names: diff"
    ):
        read_adapter(tmp_path / "a.safetensors")
    default = dotted("", "lora_A.default.weight", "lora_B.default.weight")
    save_file(default | dotted("", "lora_A.x.weight", "lora_B.x.weight"), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="two of one kind"):
        read_adapter(tmp_path / "a.safetensors")


def test_a_name_that_fits_two_layers_of_the_model_names_both():
    with pytest.raises(CheckpointError, match=r"two layers of this model, blocks\.to_q and blocks\.toq"):
        Layers(["blocks.to_q", "blocks.toq"]).find("lora_unet_blocks_to_q")
    twelve = Layers(["a.1.12.q", "a.11.2.q"])
    assert twelve.find("x_a_1_12_q")[0].layers == ("a.1.12.q",)
    assert twelve.find("x_a_11_2_q")[0].layers == ("a.11.2.q",)


def one_layer(alpha_tensor=None, a=None, b=None, **more):
    a = torch.randn(RANK, WIDTH) if a is None else a
    b = torch.randn(WIDTH, RANK) if b is None else b
    tensors = {f"transformer.{LAYERS[0]}.lora_A.weight": a, f"transformer.{LAYERS[0]}.lora_B.weight": b}
    if alpha_tensor is not None:
        tensors[f"transformer.{LAYERS[0]}.alpha"] = alpha_tensor
    return tensors | {f"transformer.{LAYERS[0]}.{key}": value for key, value in more.items()}


def peft_says(**values):
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": v for key, v in values.items()})}


TOO_DEEP = '{"transformer.lora_alpha": ' + "[" * 5000 + "]" * 5000 + "}"
ODD = {
    "alpha nan": (one_layer(torch.tensor(float("nan"))), None, "not a finite number"),
    "alpha inf": (one_layer(torch.tensor(float("inf"))), None, "not a finite number"),
    "alpha huge": (one_layer(torch.tensor(1e30)), None, "not a finite number"),
    "alpha of two": (one_layer(torch.ones(2)), None, "is not one number"),
    "alpha bool": (one_layer(torch.tensor(True)), None, "is not one number"),
    "metadata nan": (one_layer(), {"lora_alpha": "nan"}, "not a finite number"),
    "metadata inf": (one_layer(), peft_says(lora_alpha=float("inf")), "Infinity"),
    "metadata huge": (one_layer(), {"lora_adapter_metadata": '{"transformer.lora_alpha": 1e999}'}, "large"),
    "metadata text": (one_layer(), peft_says(lora_alpha="much"), "not a finite number"),
    "metadata true": (one_layer(), peft_says(lora_alpha=True), "not a finite number"),
    "not JSON": (one_layer(), {"lora_adapter_metadata": "{'r': 4}"}, "not JSON"),
    "a list": (one_layer(), {"lora_adapter_metadata": "[1, 2]"}, "not a JSON object"),
    "too deep": (one_layer(), {"lora_adapter_metadata": TOO_DEEP}, "nested too deeply"),
    "a doubled key": (one_layer(), {"lora_adapter_metadata": '{"lora_alpha": 2, "lora_alpha": 4}'}, "twice"),
    "a pattern": (one_layer(), peft_says(lora_alpha=4, alpha_pattern={"([a-z_0-9.]+)+!": 8}), "regular expr"),
    "patterns no table": (one_layer(), peft_says(lora_alpha=4, alpha_pattern=["x"]), "not a JSON object"),
    "another rank": (one_layer(), peft_says(lora_alpha=4, r=8), "has rank 4, .* says 8"),
    "rank of a layer": (one_layer(), peft_says(lora_alpha=4, r=4, rank_pattern={"to_q": 9}), "says 9"),
    "rank zero": (one_layer(), peft_says(lora_alpha=4, r=0), "not a rank"),
    "rslora of text": (one_layer(), peft_says(lora_alpha=4, use_rslora="yes"), "neither true nor false"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_settings_are_named_and_alpha_given_makes_good(case, tmp_path):
    tensors, metadata, told = ODD[case]
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match=told) as caught:
        read_adapter(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 1000
    assert any(
        told[:12] in problem or "says" in problem for problem in inspect(tmp_path / "a.safetensors").problems
    )
    assert read_adapter(tmp_path / "a.safetensors", alpha=4).alphas == [4.0]
    assert time.monotonic() - begun < 5


def integers(shape):
    return torch.ones(shape, dtype=torch.int8)


HOSTILE = {
    "integers": (one_layer(a=integers((RANK, WIDTH)), b=integers((WIDTH, RANK))), "int8, not floating point"),
    "NaN": (one_layer(a=torch.full((RANK, WIDTH), float("nan"))), "NaN or Inf"),
    "ranks differ": (one_layer(b=torch.randn(WIDTH, 5)), "do not fit each other"),
    "rank nought": (one_layer(a=torch.randn(0, WIDTH), b=torch.randn(WIDTH, 0)), "do not fit each other"),
    "a huge rank": (one_layer(a=torch.ones(100_000, 1), b=torch.ones(1, 100_000)), "rank 100,000; at most"),
    "numbers": (one_layer(a=torch.tensor(1.0)), "do not fit each other"),
    "an up convolution": (one_layer(b=torch.randn(WIDTH, RANK, 3, 3)), "convolution of this kind"),
    "norms of inputs": (one_layer(dora_scale=torch.ones(1, WIDTH)), "wd_on_output"),
    "a bias too long": (one_layer(**{"lora_B.bias": torch.ones(7)}), "a bias"),
    "no up": ({f"{LAYERS[0]}.lora_A.weight": torch.ones(4, 4)}, "not whole"),
    "alpha alone": ({f"{LAYERS[0]}.alpha": torch.tensor(1.0)}, "no matrices"),
    "a very long name": ({"x" * 100_000 + ".lora_A.weight": torch.ones(4, 4)}, "not tensors of a LoRA"),
    "many unknown": (
        {f"x{n}.{'y' * 80}.lora_{side}.weight": torch.ones(1, 1) for n in range(10_000) for side in "AB"},
        "10000 in all",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_no_time(case, tmp_path):
    tensors, told = HOSTILE[case]
    save_file(tensors, tmp_path / "a.safetensors", {"lora_alpha": "2"})
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match=told) as caught:
        read_adapter(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 2500
    if case not in ("alpha alone", "a very long name"):  # no adapters by their names
        assert inspect(tmp_path / "a.safetensors").problems
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e12])
def test_an_alpha_given_must_be_a_number_too(alpha, tmp_path):
    save_file(one_layer(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a finite number"):
        read_adapter(tmp_path / "a.safetensors", alpha=alpha)


@pytest.mark.parametrize(
    ("tensors", "metadata", "alpha", "source"),
    [
        (kohya("lora_unet_"), None, ALPHA, "tensors of the file"),
        (dotted("lora_unet__", "lora_down.weight", "lora_up.weight"), None, RANK, "convention of VideoX-Fun"),
        (dotted("transformer.", "lora.down.weight", "lora.up.weight"), None, RANK, "alpha = rank"),
        (dotted("diffusion_model."), None, RANK, "convention of ComfyUI"),
        (sat(""), None, 1.0, "convention of SAT"),
        (dotted(""), peft_says(lora_alpha=8, r=4, use_rslora=True), 16.0, "rank-stabilised"),
        (dotted(""), {"lora_config": '{"r": 4, "lora_alpha": 6}'}, 6.0, "lora_config"),
        (dotted(""), {"ss_network_alpha": "3"}, 3.0, "ss_network_alpha"),
    ],
)
def test_alpha_is_that_of_the_origin_and_says_where_it_is_from(tensors, metadata, alpha, source, tmp_path):
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    model = small_model("5b")
    adapter = load_lora(model, tmp_path / "a.safetensors")
    assert adapter.alphas == [alpha] and source in adapter.alpha_from
    assert model.adapters[0]["alpha_from"] == adapter.alpha_from
    assert model.adapters[0]["origin"] == adapter.origin
    assert adapter.alpha_from in inspect(tmp_path / "a.safetensors").to_text()


@pytest.mark.parametrize("before", ["transformer.", "", "base_model.model."])
def test_names_that_several_origins_share_need_alpha(before, tmp_path):
    save_file(dotted(before), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="does not say its alpha"):
        read_adapter(tmp_path / "a.safetensors")


def test_names_of_tensors_are_taken_apart_or_left():
    assert take_apart("a.b.lora_A.default.weight").layer == "a.b"
    for name in ("lora_A.weight", "a.lora_A.b.c.d.weight", "a.weight", "a.lora_A.bias", "a.matrix_A.x", ""):
        assert take_apart(name) is None


def test_an_adapter_that_loads_warns_of_nothing(tmp_path):
    save_file(kohya("lora_unet__"), tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_lora(small_model("5b"), tmp_path / "a.safetensors")

"""Adapters: rank, alpha and scale survive every form, and taking one off leaves no trace."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing._internal.two_tensor import TwoTensor

from cogvideox.checkpoints import (
    add_lora,
    attach_lora,
    convert,
    extract_lora,
    inspect,
    load_lora,
    load_model,
    lora_names,
    merge_lora,
    read_adapter,
    save_lora,
    scale_lora,
    unload_lora,
    write_adapter,
)
from cogvideox.checkpoints.adapter import Adapter, Pair
from cogvideox.checkpoints.adapter_names import layers_of
from cogvideox.errors import CheckpointError, ConfigError, OutputError
from support.models import same, small_model, write_model_folder
from support.quantised import fp8

WIDTH = 32


def some_adapter(rank=4, alpha=2.0, blocks=(0, 1), leaves=("to_q", "to_k", "to_v", "to_out.0")):
    torch.manual_seed(3)
    return Adapter(
        {
            f"transformer_blocks.{i}.attn1.{leaf}": Pair(
                torch.randn(rank, WIDTH), torch.randn(WIDTH, rank), alpha
            )
            for i in blocks
            for leaf in leaves
        }
    )


@torch.no_grad()
def output(model):
    torch.manual_seed(1)
    return model.transformer(torch.randn(1, 16, 3, 8, 12), torch.randn(1, 6, 12), torch.tensor([500.0]))


def equal(one, two):
    assert one.pairs.keys() == two.pairs.keys()
    for name, pair in one.pairs.items():
        other = two.pairs[name]
        assert torch.equal(pair.a, other.a) and torch.equal(pair.b, other.b) and pair.alpha == other.alpha
        assert pair.a.dtype == other.a.dtype


@pytest.mark.parametrize("form", ["diffusers", "peft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_equals_read(form, dtype, tmp_path):
    pairs = some_adapter().pairs
    adapter = Adapter(
        {name: Pair(pair.a.to(dtype), pair.b.to(dtype), pair.alpha) for name, pair in pairs.items()}
    )
    write_adapter(adapter, tmp_path / "a", form)
    equal(read_adapter(tmp_path / "a"), adapter)


def test_layers_may_differ_in_rank_and_alpha(tmp_path):
    mixed = Adapter(
        {
            **some_adapter(4, 2.0, blocks=(0,)).pairs,
            **some_adapter(2, 8.0, blocks=(1,), leaves=("to_q",)).pairs,
        }
    )
    equal(read_adapter(write_adapter(mixed, tmp_path / "a")), mixed)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_sat_keeps_what_an_adapter_does(alpha, tmp_path):
    adapter = some_adapter(alpha=alpha)
    sat = convert(write_adapter(adapter, tmp_path / "a"), tmp_path / "sat", "sat")
    back = read_adapter(sat)
    for name, pair in adapter.pairs.items():
        other = back.pairs[name]
        assert other.alpha == 1.0
        assert torch.equal(pair.b * pair.scaling, other.b * other.scaling) and torch.equal(pair.a, other.a)
    assert (convert(sat, tmp_path / "b", "diffusers") / "pytorch_lora_weights.safetensors").is_file()
    assert inspect(sat).kind == "SAT lora"


def test_a_file_without_alpha_is_refused_until_it_is_given(tmp_path):
    file = write_adapter(some_adapter(), tmp_path / "a.safetensors")
    save_file(load_file(file), file)
    with pytest.raises(CheckpointError, match=r"does not say its alpha \(rank 4\)"):
        read_adapter(file)
    assert {pair.alpha for pair in read_adapter(file, alpha=4).pairs.values()} == {4.0}


def test_alpha_tensors_and_kohya_names_are_understood(tmp_path):
    pair = some_adapter().pairs["transformer_blocks.0.attn1.to_out.0"]
    save_file(
        {
            "lora_unet_transformer_blocks_0_attn1_to_out_0.lora_down.weight": pair.a,
            "lora_unet_transformer_blocks_0_attn1_to_out_0.lora_up.weight": pair.b,
            "lora_unet_transformer_blocks_0_attn1_to_out_0.alpha": torch.tensor(2.0),
        },
        tmp_path / "k.safetensors",
    )
    equal(read_adapter(tmp_path / "k.safetensors"), Adapter({"transformer_blocks.0.attn1.to_out.0": pair}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.update({"text_encoder.x": torch.zeros(1)}), "text_encoder.x"),
        (lambda t: t.pop("transformer.transformer_blocks.0.attn1.to_q.lora_B.weight"), "pair is not whole"),
        (
            lambda t: t.update(
                {"transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.zeros(3, 3)}
            ),
            "do not fit",
        ),
    ],
)
def test_wrong_tensors_are_named(change, told, tmp_path):
    file = write_adapter(some_adapter(), tmp_path / "a.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"lora_alpha": "2"})
    with pytest.raises(CheckpointError, match=told):
        read_adapter(file)


def test_an_adapter_for_another_model_changes_nothing(tmp_path):
    model = small_model("5b")
    before = output(model)
    far = some_adapter(blocks=(0, 9))
    with pytest.raises(CheckpointError, match="transformer_blocks.9"):
        attach_lora(model, far)
    wide = Adapter({"proj_out": Pair(torch.zeros(4, 7), torch.zeros(9, 4), 1.0)})
    with pytest.raises(CheckpointError, match=r"proj_out \(9, 7\), here \(64, 32\)"):
        attach_lora(model, wide)
    assert lora_names(model) == [] and torch.equal(output(model), before)


def test_unloading_restores_the_model_bit_for_bit(tmp_path):
    model = small_model("5b")
    before, weights = output(model), {k: v.clone() for k, v in model.transformer.state_dict().items()}
    load_lora(model, write_adapter(some_adapter(), tmp_path / "style.safetensors"))
    assert lora_names(model) == ["style"]
    assert not torch.equal(output(model), before)
    assert weights.keys() <= model.transformer.state_dict().keys()
    unload_lora(model)
    assert torch.equal(output(model), before) and same(model.transformer.state_dict(), weights)


def test_merged_equals_attached_and_scale_is_linear():
    model = small_model("5b")
    attach_lora(model, some_adapter(), "a", scale=0.5)
    attached = output(model)
    merge_lora(model)
    assert lora_names(model) == []
    torch.testing.assert_close(output(model), attached, atol=1e-4, rtol=1e-4)
    double = small_model("5b")
    attach_lora(double, some_adapter(alpha=1.0), "a")
    torch.testing.assert_close(output(double), attached, atol=1e-5, rtol=1e-5)
    scale_lora(double, 0.0)
    assert torch.equal(output(double), output(small_model("5b")))


def test_several_adapters_add_up_and_go_one_by_one():
    model = small_model("5b")
    attach_lora(model, some_adapter(), "a")
    only_a = output(model)
    attach_lora(model, some_adapter(rank=2), "b", scale=0.3)
    assert lora_names(model) == ["a", "b"]
    with pytest.raises(CheckpointError, match="already"):
        attach_lora(model, some_adapter(), "a")
    with pytest.raises(CheckpointError, match="name one of them"):
        extract_lora(model)
    unload_lora(model, "b")
    assert torch.equal(output(model), only_a)


@pytest.mark.parametrize("dora_first", [False, True])
def test_dora_among_others_is_merged_in_order_or_not_at_all(dora_first):
    """DoRA scales what came before it: merging another order would change the output (5.5 was seen)."""
    model, layer = small_model("5b"), "transformer_blocks.0.attn1.to_q"
    plain = some_adapter()
    magnitude = torch.linspace(0.5, 2.0, plain.pairs[layer].b.shape[0])
    dora = Adapter({layer: replace(plain.pairs[layer], magnitude=magnitude)})
    for name in ("dora", "plain") if dora_first else ("plain", "dora"):
        attach_lora(model, dora if name == "dora" else plain, name)
    attached = output(model)
    second = "plain" if dora_first else "dora"
    with pytest.raises(CheckpointError, match=f"merge '{'dora' if dora_first else 'plain'}' first, or all"):
        merge_lora(model, second)
    assert torch.equal(output(model), attached)
    merge_lora(model)
    torch.testing.assert_close(output(model), attached, atol=1e-4, rtol=1e-4)


def test_a_fresh_adapter_starts_as_the_identity_and_trains_alone(tmp_path):
    model = small_model("5b")
    before = output(model)
    trained = add_lora(model, rank=4, alpha=2)
    assert len(trained) == 2 * 4 * 2 and all(p.requires_grad for p in trained)
    assert sum(p.requires_grad for p in model.transformer.parameters()) == len(trained)
    assert torch.equal(output(model), before)
    torch.manual_seed(0)
    for p in trained:
        p.data.add_(torch.randn_like(p))
    after = output(model)
    file = save_lora(model, tmp_path / "out")
    fresh = small_model("5b")
    load_lora(fresh, file)
    assert torch.equal(output(fresh), after)
    with pytest.raises(OutputError, match="overwrite"):
        save_lora(model, tmp_path / "out")


def test_the_same_seed_makes_the_same_adapter():
    one, two = (add_lora(small_model("5b"), rank=2, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_untrained_adapter_warns(tmp_path):
    model = small_model("5b")
    add_lora(model, rank=2)
    file = save_lora(model, tmp_path / "a")
    with pytest.warns(UserWarning, match="changes nothing"):
        load_lora(small_model("5b"), file)
    assert any("changes nothing" in problem for problem in inspect(file).problems)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_lora(small_model("5b"), write_adapter(some_adapter(), tmp_path / "b"))


def test_mistakes_in_making_one_are_told():
    model = small_model("5b")
    with pytest.raises(ConfigError, match="rank 0"):
        add_lora(model, rank=0)
    with pytest.raises(ConfigError, match="no linear layer"):
        add_lora(model, rank=2, targets=["nothing"])
    with pytest.raises(ConfigError, match=r"targets to_qq: .*did you mean 'to_q'"):
        add_lora(model, rank=2, targets=["to_q", "to_qq"])  # the others match
    assert not lora_names(model)
    with pytest.raises(CheckpointError, match="name one of them"):
        extract_lora(model)
    with pytest.raises(CheckpointError, match="have no place"):
        write_adapter(
            Adapter({"proj_out": Pair(torch.zeros(1, 32), torch.zeros(64, 1), 1.0)}), "nowhere", "sat"
        )


def test_low_bit_weights_take_no_adapter_in():
    model = small_model("5b")
    attach_lora(model, some_adapter(), "a")
    layer = model.transformer.transformer_blocks[0].attn1.to_q
    assert isinstance(layer, torch.nn.Linear)  # what stores weights in fewer bits looks for linear layers
    weight = layer.weight
    layer.weight = torch.nn.Parameter(TwoTensor(weight.data, weight.data), requires_grad=False)
    with pytest.raises(CheckpointError, match="merge before"):
        merge_lora(model)
    assert lora_names(model) == ["a"]


def test_the_norm_of_changes_is_that_of_the_product():
    adapter = some_adapter(blocks=(0,), leaves=("to_q",))
    pair = next(iter(adapter.pairs.values()))
    assert adapter.delta_norm() == pytest.approx(float((pair.b @ pair.a).norm() * 0.5), rel=1e-5)


def test_metadata_is_what_peft_reads(tmp_path):
    from safetensors import safe_open

    file = write_adapter(some_adapter(), tmp_path / "a")
    with safe_open(file, "pt") as opened:
        values = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert values["transformer.r"] == 4 and values["transformer.lora_alpha"] == 2.0


def test_adapters_of_one_file_name_are_told_apart_by_their_folders(tmp_path):
    model = small_model("5b")
    files = [write_adapter(some_adapter(), tmp_path / folder) for folder in ("la", "lb", "x/lb")]
    assert len({file.name for file in files}) == 1
    for file in files:
        load_lora(model, file)
    assert lora_names(model) == ["pytorch_lora_weights", "lb", "lb_2"]
    with pytest.raises(CheckpointError, match="already"):
        load_lora(model, files[0], name="lb")


def test_inspecting_an_adapter_that_does_not_say_its_alpha_tells_the_rest(tmp_path):
    file = write_adapter(some_adapter(), tmp_path / "a.safetensors")
    save_file(load_file(file), file)
    report = inspect(file)
    assert report.ok and report.config["lora"] == {
        "layers": 8,
        "ranks": [4],
        "alphas": [],
        "norm_of_changes": None,
        "origin": "diffusers",
        "alpha_from": "",
        "variants": [],
        "applied": {"attn1.to_k": 2, "attn1.to_out.0": 2, "attn1.to_q": 2, "attn1.to_v": 2},
        "passed_over": [],
    }
    assert "8 layers, rank 4, alpha not said" in report.to_text()


def test_a_folder_with_one_adapter_of_any_name_converts(tmp_path):
    (tmp_path / "l").mkdir()
    file = write_adapter(some_adapter(), tmp_path / "l" / "mine.safetensors")
    save_file(load_file(file), file)
    with pytest.raises(CheckpointError, match="does not say its alpha"):
        convert(tmp_path / "l", tmp_path / "out", "diffusers")
    with pytest.warns(UserWarning, match="preset 2b has no effect"):
        convert(tmp_path / "l", tmp_path / "out", "diffusers", "2b", alpha=2)
    equal(read_adapter(tmp_path / "out"), some_adapter(alpha=2.0))


def test_a_model_knows_which_adapters_it_carries():
    model = small_model("2b")
    add_lora(model, rank=2, alpha=4, name="one")
    add_lora(model, rank=3, name="two")
    scale_lora(model, 0.5, "one")
    merge_lora(model, "one")
    unload_lora(model, "two")
    facts = {"name": "one", "rank": [2], "alpha": [4.0], "scale": 0.5, "merged": True}
    assert model.adapters == [facts]


# into the weights


def test_a_folder_takes_adapters_into_its_weights_and_keeps_all_else(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    model = load_model(folder, device="cpu")
    names = [name for name in layers_of(model.transformer) if "attn1.to_" in name]
    pairs = {}
    for name in names:
        out, into = model.transformer.get_submodule(name).weight.shape
        pairs[name] = Pair(torch.randn(2, into), torch.randn(out, 2), 1.0)
    one, two = (write_adapter(Adapter(pairs), tmp_path / f"{each}.safetensors") for each in ("one", "two"))
    out = convert(folder, tmp_path / "out", lora=[(one, 0.8), (two, "-0.3")])
    for scale, file in ((0.8, one), (-0.3, two)):
        load_lora(model, file, scale)
    merge_lora(model)
    fused = load_model(out, device="cpu")
    assert same(fused.transformer.state_dict(), model.transformer.state_dict())
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        if (folder / part).is_file():
            assert same(load_file(folder / part), load_file(out / part))
    assert fused.spec == load_model(folder, device="cpu").spec and inspect(out, check=True).ok
    held = json.loads((out / "cogvideox.json").read_text())["provenance"]["fused"]
    assert [(each["name"], each["scale"], each["merged"]) for each in held] == [
        ("one", 0.8, True),
        ("two", -0.3, True),
    ]
    assert all(len(each["sha256"]) == 64 and each["alpha_from"] for each in held)
    assert "adapters  in the weights: 'one' at 0.8, 'two' at -0.3" in inspect(out).to_text()
    more = convert(out, tmp_path / "more", lora=[(one, 0.5)])
    held = json.loads((more / "cogvideox.json").read_text())["provenance"]["fused"]
    assert [(each["name"], each["scale"]) for each in held] == [("one", 0.8), ("two", -0.3), ("one", 0.5)]


@pytest.mark.parametrize("fused", [3, {"a": 1}, [], [1, "x"], [{"name": "x" * 9000, "scale": ["y"] * 99}]])
def test_what_others_wrote_about_adapters_is_shown_short(fused, tmp_path):
    folder = write_model_folder(tmp_path / "model")
    record = json.loads((folder / "cogvideox.json").read_text())
    record["provenance"] = {"fused": fused}
    (folder / "cogvideox.json").write_text(json.dumps(record))
    lines = inspect(folder).to_text().splitlines()
    shown = [line for line in lines if "in the weights" in line]
    assert len(shown) == int(bool(fused) and isinstance(fused[0] if isinstance(fused, list) else 0, dict))
    assert all(len(line) < 300 for line in shown)


def test_quantised_weights_become_plain_where_adapters_are_added(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors, metadata, numbers = fp8(load_file(weights))
    record = json.loads((folder / "cogvideox.json").read_text())
    (folder / "cogvideox.json").write_text(json.dumps(record | {"files": {}}))  # of the weights before
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights, metadata)
    layer = "transformer_blocks.0.attn1.to_q"
    out, into = numbers[f"{layer}.weight"].shape
    pair = Pair(torch.randn(2, into), torch.randn(out, 2), 1.0)
    file = write_adapter(Adapter({layer: pair}), tmp_path / "a.safetensors")
    fused = load_model(convert(folder, tmp_path / "out", lora=[(file, 0.5)]), device="cpu", text=False)
    for name, weight in fused.transformer.state_dict().items():
        expected = numbers[name] + (0.25 * pair.b @ pair.a if name == f"{layer}.weight" else 0)
        torch.testing.assert_close(weight.float(), expected, atol=2e-2, rtol=1e-2)
        assert type(weight) is torch.Tensor


def test_what_cannot_take_adapters_in_is_refused(tmp_path):
    folder, file = (
        write_model_folder(tmp_path / "model"),
        write_adapter(some_adapter(), tmp_path / "a.safetensors"),
    )
    for source, how, told in (
        (folder, {"lora": [(file, "1@0-0.5")]}, "changes over the steps; give it one number"),
        (folder, {"lora": [(file, 1)], "to": "sat"}, "convert that to 'sat' afterwards"),
        (folder, {"lora": [(file, 1)], "base": folder, "preset": "2b"}, "lora and base, preset: one after"),
        (file, {"lora": [(file, 1)]}, "adapters are added to a model folder"),
        (folder, {"lora": [(tmp_path / "gone.safetensors", 1)]}, "no such file"),
    ):
        with pytest.raises(CheckpointError, match=told):
            convert(source, tmp_path / "out", **how)
        assert not (tmp_path / "out").exists()

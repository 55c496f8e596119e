"""What is predicted adds up, follows the policy, and refuses with what would fit."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from cogvideox.checkpoints.lora import add_lora, load_lora, save_lora
from cogvideox.errors import ConfigError, InputError
from cogvideox.generation.options import GenerateOptions
from cogvideox.generation.plan import plan_run
from cogvideox.generation.preflight import request_of
from cogvideox.memory import Policy, Request, plan, require, settle
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.memory.policy import RESIDENCES, policies
from cogvideox.memory.request import AdapterBytes
from cogvideox.memory.stages import _sampling, decoding, denoising, peak_of
from cogvideox.memory.weights import TextShape, bytes_of, weigh
from cogvideox.presets import T5_OF_THE_WORLD, T5_XXL, get_preset
from cogvideox.spec import ModelSpec
from cogvideox.text.t5 import T5Config, T5Encoder
from cogvideox.transformer import Transformer
from cogvideox.transformer.modulation import ModulationTable, tabulated
from support.models import small_preset

TINY = get_preset("tiny")
TOKENS = 226


def request(**changes) -> Request:
    spec = replace(small_preset("5b"), text_settings=T5_OF_THE_WORLD)
    plain = Request(spec=spec, frames=17, latents=5, height=64, width=96, dtype=torch.float32)
    return replace(plain, device="cuda", **changes)


def test_sampling_carried_on_is_sampling_counted():
    row = request().spec
    deep = replace(row, transformer_settings={**row.transformer_settings, "num_layers": 5})
    asked = request(spec=deep, steps=5)
    assert denoising(asked, "batched") == pytest.approx(_sampling(asked, "batched", 5, 5), rel=0.01)


def test_decoding_carried_on_is_decoding_counted():
    asked = request(frames=57, latents=15)
    vae = asked.vae()
    z = torch.empty(1, 16, 15, 8, 12, device="meta")
    assert decoding(asked, "chunked") == pytest.approx(peak_of(asked, lambda: vae.decode(z)), rel=0.05)


def test_the_pair_in_sequence_needs_less():
    assert denoising(request(), "sequence") < 0.7 * denoising(request(), "batched")


def test_weights_in_one_byte_are_widened_and_their_products_scaled():
    plain, weights, products = (denoising(request(), "batched", kind) for kind in (None, "full", "int8"))
    layer = request().transformer(1).transformer_blocks[0].ff.net[0].proj
    tokens = TOKENS + 5 * 4 * 6
    widest = 2 * tokens * layer.out_features * torch.float32.itemsize
    assert plain + widest / 2 < weights <= plain + widest + layer.weight.nbytes
    assert weights <= products


def test_resident_layers_of_modulation_are_counted_where_half_the_device_is_free():
    found = {
        limit: {
            stage.name: stage.weights for stage in MemoryPrediction(request()).option(Policy(), limit).stages
        }
        for limit in (10**6, 10**12)
    }
    parked, kept = found.values()
    assert parked["decode"] == kept["decode"] and parked["denoise"] < kept["denoise"]


def test_weights_are_those_of_the_networks():
    asked = request()
    found = weigh(asked, TextShape.of(T5_OF_THE_WORLD), "stored")
    whole = asked.transformer(asked.spec.transformer.num_layers)
    assert (found.transformer.total, found.vae) == (bytes_of(whole), bytes_of(asked.vae()))
    assert weigh(asked, None, "int8").transformer.total < found.transformer.total


def test_tables_stand_on_the_device_and_their_layers_wait_where_they_can():
    asked = request(steps=7)
    found = weigh(asked, None, "stored")
    whole = asked.transformer(asked.spec.transformer.num_layers)
    with tabulated(whole, asked.times):
        tables = sum(module.table.nbytes for module in whole.modules() if isinstance(module, ModulationTable))
        assert found.denoiser.total == bytes_of(whole) + tables
    assert weigh(replace(asked, device="cpu"), None, "stored").denoiser.total == bytes_of(whole) + tables
    assert weigh(replace(asked, tables=False), None, "stored").denoiser == found.transformer


def test_a_kept_residual_is_half_a_pair_when_the_pair_runs_in_sequence():
    residual = (5 * 4 * 6 + TOKENS) * request().spec.transformer.width * 4
    plain, kept = (_sampling(request(reuse=reuse), "sequence", 2, 3) for reuse in (False, True))
    assert 0 < kept - plain <= residual  # less what the first branch has answered by then


def test_the_text_encoder_weighs_what_is_predicted():
    with torch.device("meta"):
        network = T5Encoder(T5Config(**T5_OF_THE_WORLD))
    assert TextShape.of(T5_OF_THE_WORLD).network(torch.float32).total == bytes_of(network)
    assert TextShape.of(T5_XXL).network(torch.bfloat16).total == pytest.approx(9.52e9, rel=0.01)


def test_every_policy_saves_what_it_promises():
    prediction = MemoryPrediction(request())
    resident, phases, stream = (
        prediction.option(Policy(place), None).peak for place in ("resident", "phases", "stream")
    )
    assert resident > phases >= stream


def test_on_a_cpu_weights_wait_in_their_files_and_are_not_rounded_there():
    assert {policy.residence for policy in policies(True, True, False)} == {"resident", "phases", "disk"}
    assert {policy.residence for policy in policies(False, True, False)} == set(RESIDENCES)
    assert all(
        policy.storage == "stored" for policy in policies(True, True, True) if policy.from_files(on_cpu=True)
    )


def test_a_2b_on_a_cpu_fits_in_6_gb_by_phases_and_in_3_5_by_blocks_from_disk():
    spec = get_preset("2b")
    asked = Request(spec=spec, frames=9, latents=3, height=240, width=352, dtype=torch.bfloat16, device="cpu")
    prediction = MemoryPrediction(asked)
    resident, phases, disk = (
        prediction.option(Policy(place), None) for place in ("resident", "phases", "disk")
    )
    assert resident.peak > 13.5e9 and phases.peak < 5e9 and disk.peak < 2.5e9  # beside Python and torch
    assert disk.cast_from == "float16" and disk.price.endswith("; casts float16 weights as it reads them")
    found = settle(asked, int(8e9))
    assert found.choice is not None and found.choice.policy == Policy("phases")


def test_void_at_its_native_size_is_streamed_in_less_than_8_gb_and_quantised_weights_take_what_they_weigh():
    base = get_preset("1.5-5b")
    vae = base.vae.changed(first_latent_alone=True, invert_scale_latents=False)
    network = base.transformer.changed(in_channels=48)
    facts = dict(vae=vae, schedule=base.schedule, kind="removal", height=384, width=672, frames=85)
    spec = ModelSpec.of_configs(transformer=network, text_settings=base.text_settings, **facts)
    made = dict(frames=85, latents=22, height=384, width=672, dtype=torch.bfloat16, device="cuda", given=85)
    first = Request(spec=spec, guided=False, steps=30, **made)
    assert MemoryPrediction(first).option(Policy("stream"), None).peak < 5.5e9
    inner = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
    held = {f"transformer_blocks.*.{name}.weight": 3072 * 3072 * 18 // 32 for name in inner}
    held |= {
        f"transformer_blocks.*.ff.net.{name}.weight": 4 * 3072 * 3072 * 18 // 32 for name in ("0.proj", "2")
    }
    low = replace(first, spec=replace(spec, stored_bytes={"transformer": held}))
    wide, packed = (weigh(each, None, "stored").transformer for each in (first, low))
    assert wide.block - packed.block == 12 * 3072 * 3072 * 2 - 12 * 3072 * 3072 * 18 // 32
    assert wide.total - packed.total == 42 * (wide.block - packed.block)
    with pytest.raises(ConfigError, match="quantised already"):
        plan(low, None, storage="int8")


def test_what_is_exact_comes_first():
    exact = [policy.exact for policy in policies(False, True, True)]
    assert exact == sorted(exact, reverse=True)


def test_the_cheapest_that_fits_is_chosen():
    least = min(option.peak for option in plan(request()).options if option.policy.exact)
    limit = int(least / 0.89)  # a tenth is kept free
    found = plan(request(), limit)
    assert found.choice is not None and found.choice is not found.options[0]
    assert found.choice is next(option for option in found.options if option.fits)
    assert "would need" in found.why
    assert require(settle(request(), limit)).policy == found.choice.policy


def test_what_fits_many_times_over_is_not_counted():
    found = settle(request(), 10**12)
    assert found.choice is not None and found.choice.bound and found.choice.policy == Policy()
    counted = MemoryPrediction(request()).option(Policy(), None)
    assert all(a.peak >= b.peak for a, b in zip(found.choice.stages, counted.stages, strict=True))


def test_equal_requests_are_counted_once(monkeypatch):
    asked = request(frames=9, latents=3, steps=7)
    first = plan(asked)

    def again(*_: object) -> None:
        raise AssertionError("an equal request was counted again")

    for name in ("weigh", "encoding", "denoising", "decoding"):
        monkeypatch.setattr(sys.modules[MemoryPrediction.__module__], name, again)
    assert plan(request(frames=9, latents=3, steps=7)).options == first.options
    with pytest.raises(AssertionError, match="counted again"):
        plan(request(frames=9, latents=3, steps=8))


def test_what_cannot_fit_is_refused_with_what_does():
    asked = request(frames=97, latents=25)
    least = min(option.peak for option in plan(asked).options)
    with pytest.raises(InputError, match=r"nothing fits .* nearest that fits: \d+ frames of \d+x\d+"):
        require(settle(asked, int(least * 0.8)))
    with pytest.raises(InputError, match="use a larger device"):
        require(settle(asked, 1000))


def test_plan_and_generate_agree_without_torchao_and_name_the_extra():
    asked = request(guided=False)
    asked = replace(asked, device="cpu")
    place = "resident"  # less than int8 weights take is to be had from files, too
    options = plan(asked, 1, place, low_bit=False).options  # where nothing fits, all are shown
    plain, low = (
        min((o for o in options if (o.policy.storage == "int8") == wanted), key=lambda o: o.peak)
        for wanted in (False, True)
    )
    assert (plain.needs, low.needs) == ("", "cogvideox[lowp]") and low.peak < plain.peak and not low.fits
    limit = int((low.peak + plain.peak) / 2 / 0.9)  # int8 weights alone fit
    for found in (
        plan(asked, limit, place, low_bit=False),
        settle(asked, limit, place, low_bit=False),
    ):  # the verbs' two ways
        assert found.choice is None and found.least.policy.storage == "stored"
        with pytest.raises(InputError, match=r"int8 weights would fit: .*, pip install 'cogvideox\[lowp\]'"):
            require(found)
    for found in (plan(asked, limit, place), settle(asked, limit, place)):
        assert require(found).policy.storage == "int8"


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'stream'"):
        settle(request(), 10**9, "streem")


def test_streaming_counts_the_host_memory_that_it_locks():
    prediction = MemoryPrediction(request())
    layers = request().spec.transformer.num_layers
    block = bytes_of(request().transformer(1).transformer_blocks[0])
    text = prediction.weights("stored").text
    assert prediction.option(Policy("stream"), None).pinned == layers * block + text.total - text.around
    assert prediction.option(Policy("phases"), None).pinned == 0
    on_cpu = MemoryPrediction(replace(request(), device="cpu"))
    assert on_cpu.option(Policy("stream"), None).pinned == 0


def test_a_text_encoder_that_is_read_apart_is_counted_so():
    spec = get_preset("5b")
    asked = Request(
        spec=spec, frames=9, latents=3, height=240, width=352, dtype=torch.bfloat16, device="cuda"
    )
    beside, files, elsewhere = (
        MemoryPrediction(replace(asked, text=text)).option(Policy(), None)
        for text in ("resident", "files", "elsewhere")
    )
    t5 = TextShape.of(T5_XXL).network(torch.bfloat16)
    assert beside.stages[1].weights - elsewhere.stages[0].weights == t5.total
    assert files.stages[0].weights - files.stages[1].weights > 0.9 * (t5.around + t5.block)
    assert [stage.name for stage in elsewhere.stages] == ["denoise", "decode"]
    assert elsewhere.peak < files.peak < beside.peak


def test_adapters_are_counted_as_they_lie_in_memory(tmp_path):
    """As many bytes as two adapters add to a real network, around its blocks and in the largest of them."""
    spec = replace(small_preset("5b"), text_settings=T5_OF_THE_WORLD)
    model = Transformer(spec.transformer)
    before = bytes_of(model), bytes_of(model.transformer_blocks[0])
    files = []
    for number, rank in enumerate((3, 5)):
        adapted = Transformer(spec.transformer)
        add_lora(adapted, rank, targets=("to_q", "to_k", "proj_out"))
        files.append(save_lora(adapted, tmp_path / f"{number}.safetensors"))
        load_lora(model, files[-1], alpha=rank)
    asked = request_of(
        spec, plan_run(spec, GenerateOptions()), encoded=0, dtype=torch.float32, device="cuda", adapters=files
    )
    plain = replace(asked, adapters=AdapterBytes())
    block = bytes_of(model.transformer_blocks[0]) - before[1]
    assert asked.adapters.block == block > 0
    assert asked.adapters.around == bytes_of(model) - before[0] - spec.transformer.num_layers * block > 0
    for storage in ("stored", "int8"):
        more, less = (weigh(each, None, storage).transformer for each in (asked, plain))
        assert more.total - less.total == bytes_of(model) - before[0] and more.block - less.block == block

"""The files that people have: each LoRA in its trainer's spelling, each kind of checkpoint loads or is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvideox.checkpoints import inspect, load_lora, load_model, save_model, write_sat
from cogvideox.checkpoints.published import published, published_as
from cogvideox.errors import CheckpointError
from support.loras import ALPHA, LAYERS, RANK, WIDTH, dotted, kohya, matrices, processors, sat
from support.models import golden_model, small_model

HALF, ONE = RANK / 2, 1.0
DOWN, UP = "lora_down.weight", "lora_up.weight"


def hub(name, file="pytorch_lora_weights.safetensors"):
    """Where the hub's client keeps a file of a repository."""
    return f"models--{name.replace('/', '--')}/snapshots/{'c' * 40}/{file}"


def said(**settings):
    """The metadata of diffusers' files."""
    return {
        "lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})
    }


def sides(tensors, **more):
    """Further tensors of each layer, by what comes behind its name."""
    layers = {name.rpartition(".lora_A")[0] for name in tensors if ".lora_A" in name}
    return tensors | {f"{layer}.{name}": tensor.clone() for layer in layers for name, tensor in more.items()}


def without_alpha(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}


def of_rank(rank):
    """What CogKit writes, with matrices of another rank."""
    return {
        f"{layer}.lora_{side}.weight": torch.ones((rank, WIDTH) if side == "A" else (WIDTH, rank)) * 0.01
        for layer in LAYERS
        for side in "AB"
    }


def with_patch(tensors):
    patch = {"A": torch.randn(RANK, 16, 2, 2), "B": torch.randn(WIDTH, RANK, 1, 1)}
    return tensors | {
        f"transformer.patch_embed.proj.lora_{side}.weight": each for side, each in patch.items()
    }


DIFFUSERS, MAGNITUDE = dotted("transformer."), torch.linspace(0.5, 2, WIDTH)
TEXT = {f"lora_te_encoder_block_0_layer_0_SelfAttention_q.{side}": torch.ones(4, 4) for side in (DOWN, UP)}
FROZEN = {
    "model.diffusion_model.transformer.layers.0.attention.dense.original.weight": torch.ones(WIDTH, WIDTH)
}
SAT_FILE = sat("model.diffusion_model.")
LORAS = {
    # name: file, tensors, metadata, and alpha with where it is from, or what the refusal says
    "diffusers, new": (
        "a.safetensors",
        DIFFUSERS,
        said(r=4, lora_alpha=2),
        (2, "metadata lora_adapter_metadata"),
    ),
    "diffusers, old": ("a.safetensors", DIFFUSERS, None, "does not say its alpha (rank 4)"),
    "CogVideo finetune": ("a.safetensors", DIFFUSERS, None, "CogVideo's own trainer takes half the rank"),
    "finetrainers": (
        "a.safetensors",
        DIFFUSERS,
        {"lora_config": '{"r": 4, "lora_alpha": 6}'},
        (6, "lora_config"),
    ),
    "finetrainers, 1.5": (
        hub("finetrainers/CogVideoX-1.5-crush-smol-v0"),
        DIFFUSERS,
        None,
        (RANK, "crush-smol-v0: rank"),
    ),
    "finetrainers extraction": ("a.safetensors", with_patch(DIFFUSERS), None, (RANK, "extracted difference")),
    "cogvideox-factory": (
        hub("a-r-r-o-w/cogvideox-disney-adamw-3000-0.0003"),
        DIFFUSERS,
        None,
        (RANK, ": rank"),
    ),
    "cogvideox-factory, half": (
        hub("a-r-r-o-w/cogvideox-disney-adamw-4000-0.0003-constant"),
        DIFFUSERS,
        None,
        (HALF, ": half"),
    ),
    "CogKit": ("adapter_model.safetensors", of_rank(128), None, (64, "convention of CogKit: 64")),
    "CogKit, another rank": (
        "adapter_model.safetensors",
        of_rank(8),
        None,
        "does not say its alpha (rank 8)",
    ),
    "SAT export": ("orbit.safetensors", DIFFUSERS, None, r"SAT (DimensionX and other exports) 1"),
    "DimensionX": (
        hub("ShuoChen20/DimensionX_4_orbit_camera_lora"),
        DIFFUSERS,
        None,
        (ONE, "DimensionX_4_orbit_camera_lora: 1"),
    ),
    "DimensionX, Kijai": (
        hub("Kijai/CogVideoX-loras", "DimensionX_orbit_left_lora_rank256_bf16.safetensors"),
        DIFFUSERS,
        None,
        (ONE, "rank256_bf16.safetensors: 1"),
    ),
    "another file beside it": (
        hub("Kijai/CogVideoX-loras", "other.safetensors"),
        DIFFUSERS,
        None,
        "does not say its alpha",
    ),
    "SAT": ("a.pt", SAT_FILE, None, (ONE, "convention of SAT: 1")),
    "SAT with frozen weights": ("a.pt", SAT_FILE | FROZEN, None, (ONE, "convention of SAT: 1")),
    "VideoX-Fun": ("a.safetensors", kohya("lora_unet__"), None, (ALPHA, "tensors of the file")),
    "VideoX-Fun without alpha": (
        "a.safetensors",
        without_alpha(kohya("lora_unet__")),
        None,
        (RANK, "convention of VideoX-Fun"),
    ),
    "VideoX-Fun with a text encoder": (
        "a.safetensors",
        kohya("lora_unet__") | TEXT,
        None,
        (ALPHA, "tensors of the file"),
    ),
    "VideoX-Fun by PEFT": (
        "a.safetensors",
        without_alpha(kohya("lora_unet__", a="lora_A.default.weight", b="lora_B.default.weight")),
        None,
        "does not say its alpha",
    ),
    "reward": (
        hub("alibaba-pai/CogVideoX-Fun-V1.1-Reward-LoRAs", "CogVideoX-Fun-V1.1-2b-InP-HPS2.1.safetensors"),
        kohya("lora_unet__"),
        None,
        (ALPHA, "tensors of the file"),
    ),
    "ComfyUI": ("a.safetensors", dotted("diffusion_model."), None, (RANK, "convention of ComfyUI")),
    "ComfyUI with alpha": (
        "a.safetensors",
        sides(dotted("diffusion_model."), alpha=torch.tensor(ALPHA)),
        None,
        (ALPHA, "tensors of the file"),
    ),
    "TDM": (hub("Luo-Yihong/TDM_CogVideoX-2B_LoRA"), DIFFUSERS, None, (RANK, "TDM_CogVideoX-2B_LoRA: rank")),
    "BLADE": (hub("GYP666/BLADE"), DIFFUSERS, None, (RANK, "GYP666/BLADE: rank")),
    "NimVideo": (hub("NimVideo/cogvideox1.5-5b-prompt-camera-motion"), DIFFUSERS, None, (RANK, ": rank")),
    "ExVideo, its own names": (
        hub("ECNU-CILab/ExVideo-CogVideoX-LoRA-129f-v1"),
        dotted("", respell=lambda layer: layer.removeprefix("transformer_")),
        None,
        (RANK, ": rank"),
    ),
    "diffusers before PEFT": ("a.safetensors", processors("transformer."), None, (RANK, "alpha = rank")),
    "rank-stabilised": (
        "a.safetensors",
        DIFFUSERS,
        said(r=4, lora_alpha=8, use_rslora=True),
        (16, "rank-stabilised"),
    ),
    "DoRA of PEFT": (
        "a.safetensors",
        sides(DIFFUSERS, lora_magnitude_vector=MAGNITUDE),
        said(r=4, lora_alpha=2, use_dora=True),
        (2, "metadata"),
    ),
    "DoRA of kohya": (
        "a.safetensors",
        sides(dotted("diffusion_model."), dora_scale=MAGNITUDE[:, None], alpha=torch.tensor(ALPHA)),
        None,
        (ALPHA, "tensors of the file"),
    ),
    "DoRA over the outputs": (
        "a.safetensors",
        sides(dotted("diffusion_model."), dora_scale=MAGNITUDE[None]),
        None,
        "wd_on_output",
    ),
    "LoHa": (
        "a.safetensors",
        {"lora_unet__transformer_blocks_0_attn1_to_q.hada_w1_a": torch.ones(4, 4)},
        None,
        "LoHa (LyCORIS)",
    ),
    "IA3": (
        "a.safetensors",
        {"transformer.transformer_blocks.0.attn1.to_q.ia3_l": torch.ones(4)},
        None,
        "IA3",
    ),
}


def written(folder, file, tensors, metadata):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt":
        torch.save({"module": tensors}, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


@pytest.mark.filterwarnings("ignore:.*passed over")
@pytest.mark.parametrize("name", LORAS)
def test_a_lora_has_the_strength_its_origin_means_or_is_refused_by_name(name, tmp_path):
    file, tensors, metadata, outcome = LORAS[name]
    path = written(tmp_path, file, tensors, metadata)
    model = small_model("5b")
    if isinstance(outcome, str):
        with pytest.raises(CheckpointError) as error:
            load_lora(model, path)
        assert outcome in str(error.value) and "\n" not in str(error.value)
        assert not model.adapters
        return
    alpha, source = outcome
    weights = {layer: model.transformer.get_submodule(layer).weight.detach().clone() for layer in LAYERS}
    adapter = load_lora(model, path)
    assert adapter.alphas == [alpha] and source in adapter.alpha_from
    record = model.adapters[0]
    assert record["alpha_from"] == adapter.alpha_from and record["origin"] == adapter.origin
    assert record.get("repository", "") == (
        "/".join(file.split("/")[0].split("--")[1:]) if "--" in file else ""
    )
    assert inspect(path).ok
    if "CogKit" in name:
        return
    given = matrices()
    for layer in LAYERS:
        layer_on = model.transformer.get_submodule(layer)
        a, b = given[layer]
        changed = (
            weights[layer] + (alpha / RANK) * (b * (ALPHA if "SAT" in name and file == "a.pt" else 1)) @ a
        )
        if "DoRA" in name:
            changed *= (MAGNITUDE / changed.norm(dim=1))[:, None]
        x = torch.randn(3, WIDTH)
        expected = torch.nn.functional.linear(x, changed, layer_on.bias)
        torch.testing.assert_close(layer_on(x).detach(), expected, atol=1e-4, rtol=1e-4)


def test_the_table_of_loras_is_whole():
    assert len(LORAS) >= 20
    known = {entry.hub.partition(":")[0] for entry in published()["adapters"] if entry.alpha is not None}
    assert {
        "/".join(file.split("/")[0].split("--")[1:]) for file, *_ in LORAS.values() if "--" in file
    } & known
    for entry in published()["adapters"]:
        assert published_as(*entry.hub.partition(":")[::2]) is entry


# kinds of checkpoints


def folder_of(model, path, **changes):
    """A model folder as others publish it: no record of ours; ``index``: its pipeline, else settings of its network."""
    save_model(model, path)
    (path / "cogvideox.json").unlink()
    for name, values in (
        ("model_index.json", changes.pop("index", {})),
        ("transformer/config.json", changes),
    ):
        file = path / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return path


def pipeline(name):
    return {"index": {"_class_name": name}}


def bare_transformer(path):
    """finetrainers/crush-smol-v0."""
    return Path(shutil.copytree(folder_of(small_model("5b"), path / "m") / "transformer", path / "crush"))


def transformer_folder(path):
    """thu-ml/CogVideoX-RIFLEx-diffusers."""
    (path / "riflex").mkdir()
    shutil.copytree(folder_of(small_model("5b"), path / "m") / "transformer", path / "riflex" / "transformer")
    return path / "riflex"


def kijais_folder(path):
    """Kijai/CogVideoX-5b-1.5."""
    folder = folder_of(small_model("1.5-5b"), path / "m")
    (folder / "model_index.json").unlink()
    (folder / "transformer").rename(folder / "transformer_T2V")
    return folder


def single_file(path):
    """Kijai/CogVideoX-comfy."""
    save_file(small_model("5b").transformer.state_dict(), path / "CogVideoX_5b_bf16.safetensors")
    return path / "CogVideoX_5b_bf16.safetensors"


def sat_release(path):
    from cogvideox.checkpoints.sat import keymap

    weights = keymap("transformer").to_foreign(small_model("5b").transformer.state_dict())
    write_sat(path / "sat" / "transformer", "transformer", weights)
    return path / "sat"


def tensors_in(path, **shapes):
    save_file(
        {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()},
        path / "x.safetensors",
    )
    return path / "x.safetensors"


CHECKPOINTS = {
    # name: how it is made, and the kind it loads as, or words that name it
    "2B": (lambda path: folder_of(small_model("2b"), path / "m"), "t2v"),
    "5B": (lambda path: folder_of(small_model("5b"), path / "m"), "t2v"),
    "1.5": (lambda path: folder_of(small_model("1.5-5b"), path / "m"), "t2v"),
    "5B-I2V": (
        lambda path: folder_of(
            small_model("5b-i2v"), path / "m", **pipeline("CogVideoXImageToVideoPipeline")
        ),
        "i2v",
    ),
    "1.5-I2V": (lambda path: folder_of(small_model("1.5-5b-i2v"), path / "m"), "i2v"),
    "LiFT, unknown keys": (
        lambda path: folder_of(small_model("2b"), path / "m", index={"_note": "x"}, _other=1),
        "t2v",
    ),
    "Fun InP": (
        lambda path: folder_of(golden_model("inpaint"), path / "m", add_noise_in_inpaint_model=True),
        "inpaint",
    ),
    "Fun InP V1.5": (lambda path: folder_of(golden_model("inpaint", patch_size_t=2), path / "m"), "inpaint"),
    "Fun Control": (
        lambda path: folder_of(
            golden_model("control"), path / "m", **pipeline("CogVideoXFunControlPipeline")
        ),
        "control",
    ),
    "VOID in a folder": (
        lambda path: folder_of(golden_model("removal", patch_size_t=2), path / "m"),
        "removal",
    ),
    "VOID alone": (lambda path: tensors_in(path, patch_embed__proj__weight=(3072, 384)), "Netflix VOID"),
    "Fun InP alone": (
        lambda path: tensors_in(path, patch_embed__proj__weight=(3072, 33, 2, 2)),
        "CogVideoX-Fun InP",
    ),
    "transformer in the root": (
        bare_transformer,
        "CogVideoXTransformer3DModel' alone; it runs with --transformer",
    ),
    "transformer alone in a folder": (transformer_folder, "its transformer runs with --transformer"),
    "1.5 with other folder names": (kijais_folder, "transformer_T2V"),
    "a single file": (single_file, "a single file of weights"),
    "SAT": (sat_release, "model_index.json is missing"),
    "ControlNet": (
        lambda path: tensors_in(path, controlnet_encode_first__0__weight=(96, 192, 1, 1)),
        "ControlNet",
    ),
    "taecvx": (
        lambda path: tensors_in(path, encoder__0__weight=(64, 3, 3, 3), decoder__1__weight=(256, 16, 3, 3)),
        "taecvx",
    ),
    "TheMatrix stage 4": (
        lambda path: folder_of(small_model("2b"), path / "m", control_dim=768),
        "TheMatrix",
    ),
    "channels nobody knows": (lambda path: folder_of(small_model("5b"), path / "m", in_channels=21), "21"),
}
KINDS = {"t2v", "i2v", "inpaint", "control", "removal"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_loads_as_its_kind_or_is_named(name, tmp_path):
    make, outcome = CHECKPOINTS[name]
    path = make(tmp_path)
    if outcome in KINDS:
        model = load_model(path, device="cpu", text=False)
        assert model.spec.kind == outcome and inspect(path).task == outcome
        return
    with pytest.raises(CheckpointError) as error:
        load_model(path, device="cpu")
    assert outcome in str(error.value) and "\n" not in str(error.value)

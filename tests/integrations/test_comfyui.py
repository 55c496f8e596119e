"""The ComfyUI nodes make what the package makes: same frames, same records, same refusals, bit for bit."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import cogvideox
from cogvideox import generate
from cogvideox.checkpoints import add_lora, load_lora, save_lora
from cogvideox.errors import CheckpointError, CogVideoXError, ConfigError, InputError, PromptError
from cogvideox.video import video_info
from support.comfyui import (
    PACK,
    PREFIX,
    SHORT,
    WORDS,
    WORKFLOWS,
    ComfyUI,
    Interrupted,
    InvalidWorkflow,
    of_type,
    put_inputs,
    short,
    to_prompt,
)  # fmt: skip
from support.models import write_controlnet, write_model_folder

ROOT = PACK.parents[1]


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    """A ComfyUI that has loaded the pack from its folder."""
    host = ComfyUI(tmp_path / "ComfyUI")
    before = set(sys.modules)
    for name, module in host.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    host.load(PACK)
    yield host
    for name in set(sys.modules) - before:
        if "integrations/comfyui" in name:
            del sys.modules[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Golden models of each kind, 32x48 pixels and 9 frames."""
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model_folder(root / kind, kind) for kind in ("t2v", "inpaint", "control")}


def listed(comfyui):
    return {name: comfyui.schema(name).listed() for name in comfyui.nodes}


def example(comfyui, name):
    """An example workflow in the form of the API."""
    return to_prompt(json.loads((PACK / "example_workflows" / name).read_text()), listed(comfyui))


def video_of(comfyui, prompt, results):
    """What a decode node gave: video, images, fps."""
    [name] = [name for name, node in prompt.items() if node["class_type"] == PREFIX + "Decode"]
    return results[name].args


# what it makes


def test_text_to_video_makes_what_generate_makes_and_its_tags_hold_the_record_and_the_workflow(comfyui):
    workflow = json.loads((PACK / "example_workflows" / "text_to_video.json").read_text())
    prompt = short(to_prompt(workflow, listed(comfyui)))
    video, images, fps = video_of(comfyui, prompt, comfyui.run(prompt, workflow))
    expected = generate(cogvideox.load("tiny"), WORDS, **SHORT)
    assert (video.frames == expected.frames).all() and fps == expected.fps
    assert images.shape == (17, 64, 64, 3) and images.dtype == torch.float32
    assert torch.equal(images, torch.from_numpy(expected.frames).float() / 255)
    path = comfyui.root / "output" / "cogvideox" / "video_00001_.mp4"
    record = video_info(path).manifest
    assert (
        record == json.loads(path.with_suffix(".json").read_text()) == json.loads(json.dumps(video.manifest))
    )
    assert record["seed"] == 3 and record["config"]["prompt"] == WORDS and record["run"]["memory"]["policy"]
    assert record["config"] == expected.manifest["config"]
    with av.open(str(path)) as container:
        tags = {name.lower(): value for name, value in container.metadata.items()}
    assert json.loads(tags["prompt"]) == prompt and json.loads(tags["workflow"]) == workflow


def test_image_to_video_makes_what_generate_makes(comfyui):
    picture, _, _ = put_inputs(comfyui.root, 64, 64)
    prompt = short(example(comfyui, "image_to_video.json"))
    video, _, _ = video_of(comfyui, prompt, comfyui.run(prompt))
    expected = generate(cogvideox.load("tiny-i2v"), WORDS, image=picture, **SHORT)
    assert (video.frames == expected.frames).all() and video.manifest["run"]["way"] == "i2v"


def test_inpainting_makes_what_generate_makes(comfyui, folders):
    _, given, hole = put_inputs(comfyui.root)
    prompt = short(example(comfyui, "inpaint.json"), folders["inpaint"])
    video, _, fps = video_of(comfyui, prompt, comfyui.run(prompt))
    expected = generate(cogvideox.load(folders["inpaint"]), WORDS, video=given, mask=hole, **SHORT)
    assert (video.frames == expected.frames).all() and fps == given.fps
    assert video.manifest["run"]["way"] == "inpaint"


def test_a_control_video_makes_what_generate_makes(comfyui, folders):
    _, given, _ = put_inputs(comfyui.root)
    prompt = short(example(comfyui, "inpaint.json"), folders["control"])
    conditions = of_type(prompt, "Conditions")
    conditions["control"] = conditions.pop("video")
    del conditions["mask"]
    video, _, _ = video_of(comfyui, prompt, comfyui.run(prompt))
    expected = generate(cogvideox.load(folders["control"]), WORDS, control=given, **SHORT)
    assert (video.frames == expected.frames).all()


@pytest.mark.parametrize("memory", ["phases", "disk"])
def test_a_memory_policy_changes_where_weights_wait_and_no_pixel(comfyui, folders, memory):
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"])
    of_type(prompt, "LoadModel")["memory"] = memory
    video, _, _ = video_of(comfyui, prompt, comfyui.run(prompt))
    expected = generate(cogvideox.load(folders["t2v"]), WORDS, **SHORT)
    assert (video.frames == expected.frames).all()
    assert video.manifest["run"]["memory"]["policy"]["residence"] == memory


def test_settings_of_the_widgets_and_of_the_json_reach_the_video(comfyui, folders):
    further = json.dumps({"guidance_rescale": 0.5, "sample_image": False})
    settings = {
        "guidance": 3.0,
        "width": 64,
        "height": 48,
        "frames": 5,
        "sampler": "dpmpp_2m",
        "options": further,
    }
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"], **settings)
    of_type(prompt, "Text")["negative_prompt"] = "a blue square"
    video, _, _ = video_of(comfyui, prompt, comfyui.run(prompt))
    expected = generate(
        cogvideox.load(folders["t2v"]), WORDS, negative_prompt="a blue square", guidance=3.0, width=64, height=48,
        frames=5, sampler="dpmpp_2m", guidance_rescale=0.5, sample_image=False, **SHORT,
    )  # fmt: skip
    assert video.frames.shape == (5, 48, 64, 3) and (video.frames == expected.frames).all()
    assert video.manifest["config"] == expected.manifest["config"]


@pytest.fixture(scope="module")
def lora(folders, tmp_path_factory):
    """An adapter of the golden model that changes its videos."""
    model = cogvideox.load(folders["t2v"])
    add_lora(model.transformer, rank=2, alpha=2.0)
    torch.manual_seed(0)
    for name, value in model.transformer.named_parameters():
        if "lora" in name.lower() or value.requires_grad:
            value.data = torch.randn_like(value) * 0.3
    return Path(save_lora(model, tmp_path_factory.mktemp("lora") / "some.safetensors"))


def test_adapters_make_what_load_lora_makes_and_are_found_among_comfyuis_loras(comfyui, folders, lora):
    (comfyui.root / "models" / "loras" / "some.safetensors").write_bytes(lora.read_bytes())
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"])
    plain = video_of(comfyui, prompt, comfyui.run(prompt))[0]
    prompt["9"] = {"class_type": PREFIX + "Adapter", "inputs": {}}
    prompt["9"]["inputs"] = {
        "model": of_type(prompt, "Sample")["model"],
        "adapter": "some.safetensors",
        "strength": 0.5,
    }
    of_type(prompt, "Sample")["model"] = ["9", 0]
    video = video_of(comfyui, prompt, comfyui.run(prompt))[0]
    model = cogvideox.load(folders["t2v"])
    load_lora(model, lora, 0.5)
    assert (video.frames == generate(model, WORDS, **SHORT).frames).all()
    assert (video.frames != plain.frames).any() and video.manifest["model"]["adapters"]


def test_a_controlnet_makes_what_generate_makes_also_after_a_run_without_it(comfyui, folders, tmp_path):
    _, given, _ = put_inputs(comfyui.root)
    prompt = short(example(comfyui, "inpaint.json"), folders["t2v"])
    conditions = of_type(prompt, "Conditions")
    del conditions["mask"], conditions["video"]
    comfyui.run(prompt)
    conditions["control"] = ["4", 0]
    net = f"{write_controlnet(tmp_path / 'net')}:0.8"
    of_type(prompt, "Sample")["options"] = json.dumps({"control_net": [net]})
    video, _, _ = video_of(comfyui, prompt, comfyui.run(prompt))
    expected = generate(cogvideox.load(folders["t2v"]), WORDS, control=given, control_net=(net,), **SHORT)
    assert (video.frames == expected.frames).all() and video.manifest["run"]["control_nets"]


# how it runs


def test_only_what_changed_runs_again_and_weights_stay(comfyui, folders):
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"])
    results = comfyui.run(prompt)
    chosen = next(
        results[name].args[0] for name, node in prompt.items() if node["class_type"].endswith("LoadModel")
    )
    [loaded] = chosen.models.kept.values()
    of_type(prompt, "Save")["format"] = "gif"
    comfyui.run(prompt)
    assert comfyui.executed == [PREFIX + "Save"]
    of_type(prompt, "Text")["prompt"] = "a blue square"
    comfyui.run(prompt)
    assert comfyui.executed == [PREFIX + each for each in ("Text", "Sample", "Decode", "Save")]
    assert [*chosen.models.kept.values()] == [loaded]


def test_a_model_that_was_trained_further_is_loaded_again(comfyui, tmp_path):
    folder = write_model_folder(tmp_path / "changing")
    prompt = short(example(comfyui, "text_to_video.json"), folder)
    comfyui.run(prompt)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.touch()
    comfyui.run(prompt)
    assert PREFIX + "LoadModel" in comfyui.executed and PREFIX + "Text" not in comfyui.executed


@pytest.mark.parametrize("preview", [True, False])
def test_every_step_moves_the_bar_and_shows_a_picture_where_one_is_wanted(comfyui, folders, preview):
    comfyui.run(short(example(comfyui, "text_to_video.json"), folders["t2v"], steps=3, preview=preview))
    steps = [each for each in comfyui.progress if each[1] == 3]
    assert [each[0] for each in steps] == [1, 2, 3]
    if not preview:
        assert not any(picture for _, _, picture in steps)
        return
    for _, _, (kind, picture, size) in steps:
        assert kind == "JPEG" and picture.size == (6, 4) and size == 512  # as small as the latents


def test_cancelling_stops_at_the_next_step_and_the_model_works_on(comfyui, folders):
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"], steps=4)
    comfyui.interrupt_after = 2
    with pytest.raises(Interrupted):
        comfyui.run(prompt)
    assert [each[0] for each in comfyui.progress] == [1, 2]
    video = video_of(comfyui, prompt, comfyui.run(prompt))[0]
    expected = generate(cogvideox.load(folders["t2v"]), WORDS, steps=4, seed=3)
    assert (video.frames == expected.frames).all()


@pytest.mark.parametrize("kind", ["mp4", "mkv", "gif", "png"])
def test_files_are_numbered_and_never_overwritten(comfyui, folders, kind):
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"], preview=False)
    of_type(prompt, "Save").update(format=kind, filename_prefix="deep/er/name", record=kind != "mkv")
    for number in (1, 2):
        [ui] = [each.ui for each in comfyui.run(prompt).values() if each.ui]
        [shown] = ui["images"]
        assert shown == {"filename": f"name_0000{number}_.{kind}", "subfolder": "deep/er", "type": "output"}
        path = comfyui.root / "output" / "deep" / "er" / shown["filename"]
        assert path.stat().st_size > 100 and path.with_suffix(".json").exists() == (kind != "mkv")
    if kind == "mkv":
        with av.open(str(path)) as container:
            assert WORDS not in json.dumps(dict(container.metadata)) and "COMMENT" in container.metadata


# what it refuses


def refused(comfyui, prompt, error, match):
    with pytest.raises(error, match=match):
        comfyui.run(prompt)
    assert PREFIX + "Decode" not in comfyui.executed


@pytest.mark.parametrize(
    ("node", "settings", "error", "match"),
    [
        ("LoadModel", {"model": "no/such/folder"}, CheckpointError, "no/such/folder"),
        ("LoadModel", {"memory_limit": "much"}, ConfigError, "memory-limit 'much': not a size"),
        ("LoadModel", {"memory": "magic"}, InvalidWorkflow, "memory: 'magic' is not in"),
        ("Text", {"prompt": ""}, PromptError, "prompt: empty"),
        ("Text", {"prompt": "a\0b"}, PromptError, "prompt"),
        ("Sample", {"width": 50}, CogVideoXError, "width"),
        ("Sample", {"steps": 5000}, InvalidWorkflow, "5000 is not within 0 and 1000"),
        ("Sample", {"options": "[1]"}, ConfigError, "write a JSON object"),
        ("Sample", {"options": '{"stepps": 3}'}, ConfigError, "stepps.*steps"),
        ("Sample", {"options": "{"}, CogVideoXError, "options"),
        ("Sample", {"frames": 4096, "width": 8192, "height": 8192}, CogVideoXError, "."),
        ("Save", {"filename_prefix": "../../outside"}, ValueError, "outside"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_packages_own_words(
    comfyui, folders, node, settings, error, match
):
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"])
    of_type(prompt, node).update(settings)
    with pytest.raises(error, match=match):
        comfyui.run(prompt)


def test_what_the_model_does_not_take_is_refused_before_weights_are_read(comfyui, folders):
    put_inputs(comfyui.root)
    prompt = short(example(comfyui, "inpaint.json"), folders["t2v"])
    refused(comfyui, prompt, InputError, "mask: the model .* makes a video from")
    prompt = short(example(comfyui, "inpaint.json"), folders["t2v"])
    conditions = of_type(prompt, "Conditions")
    conditions["image"] = conditions.pop("video")
    refused(comfyui, prompt, InputError, "image: a batch of 9 images; connect one, or the batch to video")


def test_a_seed_of_comfyui_is_a_seed_of_ours(comfyui, folders):
    prompt = short(example(comfyui, "text_to_video.json"), folders["t2v"], seed=2**64 - 1)
    assert video_of(comfyui, prompt, comfyui.run(prompt))[0].manifest["seed"] == 2**64 - 1


# pixels


def test_pixels_go_there_and_back_bit_for_bit(comfyui):
    values = sys.modules[[name for name in sys.modules if name.endswith("comfyui.values")][0]]
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert (values.frames_of(values.images_of(every)) == every).all()
    with_alpha = torch.cat([values.images_of(every), torch.zeros(1, 16, 16, 1)], dim=3)
    assert (values.frames_of(with_alpha) == every).all()
    beyond = torch.tensor([-1.0, 2.0, 0.5]).view(1, 1, 1, 3)
    assert values.frames_of(beyond).tolist() == [[[[0, 255, 128]]]]
    for shape in ((4, 6), (1, 4, 6), (3, 4, 6)):
        mask = values.mask_of(torch.ones(shape))
        assert mask.shape[-2:] == (4, 6) and mask.ndim == 3 and (mask == 255).all()


# the pack


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_links_of_an_example_lead_from_outputs_to_inputs_of_their_type(comfyui, path):
    """What the page draws, beside what the API runs."""
    workflow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(workflow["links"]) == workflow["last_link_id"] and len(nodes) == workflow["last_node_id"]
    for number, source, slot, target, place, kind in workflow["links"]:
        out, into = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in out["links"] and into["link"] == number and out["type"] == into["type"] == kind
    for node in nodes.values():
        schema = comfyui.schema(node["type"])
        known = {each.id for each in schema.inputs}
        assert {each["name"] for each in node["inputs"]} <= known
        given = [each.type for each in schema.outputs]
        assert [each["type"] for each in node["outputs"]][: len(given)] == given


def test_each_node_has_a_name_of_its_own_and_is_in_both_documents(comfyui):
    ours = [comfyui.schema(name) for name in comfyui.nodes if name.startswith(PREFIX)]
    assert len(ours) == 7 and all(each.display_name.startswith("CogVideoX: ") for each in ours)
    for page in (ROOT / "docs" / "comfyui.md", PACK / "README.md"):
        text = page.read_text()
        assert not [
            each.display_name for each in ours if each.display_name.removeprefix("CogVideoX: ") not in text
        ]


def test_the_packs_metadata_name_what_it_needs_and_the_package_does_not_know_comfyui():
    project = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert project["project"]["name"] == "cogvideox-comfyui"
    assert any(each.startswith("cogvideox") for each in project["project"]["dependencies"])
    assert project["project"]["dependencies"] == (PACK / "requirements.txt").read_text().split()
    assert {"PublisherId", "DisplayName"} <= set(project["tool"]["comfy"])
    for path in (ROOT / "src").rglob("*.py"):
        assert "import comfy" not in path.read_text() and "from comfy" not in path.read_text()

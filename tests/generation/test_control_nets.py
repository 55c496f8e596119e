"""ControlNets in whole runs: exact where they do nothing, alike in every way of running, refused if they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cogvideox.checkpoints import load_controlnet, load_model
from cogvideox.checkpoints.controlnet import read_controlnet_config
from cogvideox.cli import app
from cogvideox.errors import CheckpointError, ConfigError, FrameError, InputError
from cogvideox.files.digest import sha256_of
from cogvideox.generation import GenerateOptions, generate, plan_run
from cogvideox.generation.control_net_entry import ControlNetEntry
from cogvideox.generation.given import read_given
from cogvideox.generation.preflight import plan_memory, request_of
from cogvideox.memory.offload import install, offload
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.memory.seconds import efforts
from cogvideox.memory.stages import _sampling, denoising
from cogvideox.memory.weights import bytes_of
from cogvideox.parallel.sequence import SequenceParallelAttention
from cogvideox.transformer.attention import Attention
from cogvideox.video import Video, read_video
from support.models import (
    golden_controlnet,
    golden_frames,
    golden_model,
    golden_text,
    write_controlnet,
    write_model_folder,
)

VIDEO = Video(golden_frames(9), 8.0)
SETTINGS = dict(steps=4, seed=5, attention="torch", **golden_text())


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> str:
    return str(write_controlnet(tmp_path_factory.mktemp("net") / "canny"))


def made(net: str, how: str = "", model=None, **settings) -> Video:
    asked = dict(control=VIDEO, control_net=f"{net}{how}") if net else {}
    return generate(model or golden_model(), "x", **(SETTINGS | asked | settings))


def same(one: Video, two: Video) -> bool:
    return np.array_equal(one.frames, two.frames)


# what is typed


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("canny", ControlNetEntry("canny")),
        ("a/b:0.8", ControlNetEntry("a/b", 0.8)),
        ("a/b@0.1-0.6", ControlNetEntry("a/b", 1.0, 0.1, 0.6)),
        ("C:\\nets\\hed:2@0-1", ControlNetEntry("C:\\nets\\hed", 2.0)),
        ("x:0.5@0.0-0.5=my edges.mp4", ControlNetEntry("x", 0.5, 0.0, 0.5, "my edges.mp4")),
    ],
)
def test_an_entry_has_strength_range_and_video(text, entry):
    assert ControlNetEntry.read(text) == entry


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a ControlNet"),
        ("x:much", "'much' is not a number"),
        ("x:11", "strength 11 must be 0 to 10"),
        ("x:nan", "strength nan must be 0 to 10"),
        ("x@0.6-0.2", "from 0.6 to 0.2 must be shares"),
        ("x@0-3", "from 0 to 3 must be shares"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_to_write_it(text, why):
    with pytest.raises(ConfigError, match=rf"{why}.*write FOLDER:0\.8@0\.0-0\.6"):
        GenerateOptions(control_net=text)


# what it does


def test_strength_zero_and_steps_out_of_range_give_the_plain_video_bit_for_bit(net):
    plain = made("")
    assert same(made(net, ":0"), plain)
    assert same(made(net, "@0.8-0.9"), plain), "of 4 steps none begins between 0.8 and 0.9"
    assert not same(made(net, ":0.8"), plain) and not same(made(net, "@0.7-0.8"), plain)


def test_several_add_up_and_each_may_have_a_video_of_its_own(net, tmp_path):
    twice = made(net, control_net=[f"{net}:0.3", f"{net}:0.5"])
    assert np.abs(twice.frames.astype(int) - made(net, ":0.8").frames.astype(int)).max() <= 1
    other = tmp_path / "other.mp4"
    Video(golden_frames(9)[:, ::-1].copy(), 8.0).save(other)
    alone = made("", control_net=f"{net}:0.8={other}")
    assert same(alone, made(net, f":0.8={other}")) and not same(alone, made(net, ":0.8"))


def test_a_picture_is_a_control_for_all_frames(net, tmp_path):
    still = golden_frames(1)[0]
    whole = Video(np.repeat(still[None], 9, axis=0), 8.0)
    assert same(made(net, control=still), made(net, control=whole))
    file = tmp_path / "still.png"
    Image.fromarray(still).save(file)
    assert same(made(net, control=str(file)), made(net, control=still))


def test_an_image_and_a_video_to_change_go_with_it(net):
    image = golden_frames(1)[0]
    model = golden_model("i2v")
    assert not same(made(net, model=model, image=image), made("", model=model, image=image))
    assert same(made(net, ":0", model=model, image=image), made("", model=model, image=image))
    assert same(made(net, ":0", video=VIDEO, strength=0.5), made("", video=VIDEO, strength=0.5))


WAYS = {
    "sequence": dict(guidance_pair="sequence"),
    "layers": dict(modulation="layers"),
    "cache first-block": dict(cache="first-block:0"),
    "cache tea": dict(cache="tea:0"),
}


@pytest.mark.filterwarnings("ignore:cache tea")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_running_gives_the_same(net, way):
    one, two = made(net, ":0.8@0-0.5").frames.astype(int), made(net, ":0.8@0-0.5", **WAYS[way]).frames
    assert np.abs(one - two).max() <= 1


@pytest.mark.filterwarnings("ignore:cache tea")
def test_its_video_is_cut_with_the_windows_of_a_long_video(net):
    """Each window is the plain run of a video of its own: a control that changes elsewhere does not reach it."""
    long = Video(golden_frames(25), 8.0)
    changed = Video(np.concatenate([long.frames[:17], 255 - long.frames[17:]]), 8.0)
    settings = dict(window=9, steps=1, guidance=1.0, window_overlap=4, frames=25)
    one, two = (made(net, control=video, **settings).frames for video in (long, changed))
    plain = made("", **settings).frames
    assert not np.array_equal(one[:8], plain[:8])
    assert np.array_equal(one[:8], two[:8]) and not np.array_equal(one[20:], two[20:])


def test_a_cache_leaves_its_blocks_out_too(net):
    model = golden_model()
    model.control_nets[net] = load_controlnet(net)
    ran = []
    for block in model.control_nets[net].transformer_blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    made(net, model=model)
    whole, ran[:] = len(ran), []
    video = made(net, model=model, cache="first-block:inf")
    assert video.manifest["run"]["engine"]["cache"]["skipped_steps"] == [1, 2, 3]
    assert len(ran) == whole // 2 + 1, "of a skipped step one block of the two runs"


def test_a_long_video_in_windows_is_steered_too(net):
    long = Video(golden_frames(25), 8.0)
    windows = dict(control=long, window=9, window_overlap=4, steps=2)
    plain = made("", frames=25, **{name: value for name, value in windows.items() if name != "control"})
    assert same(made(net, ":0", **windows), plain)
    assert not same(made(net, ":0.8", **windows), plain)
    back = Video(long.frames[::-1].copy(), 8.0)
    assert not same(made(net, ":0.8", **windows), made(net, ":0.8", **(windows | {"control": back})))


def test_every_residence_gives_the_bits_of_resident_weights(net, tmp_path):
    folder = write_model_folder(tmp_path / "model")
    asked = dict(control=VIDEO, control_net=f"{net}:0.8", seed=5, steps=2)
    expected = generate(load_model(folder), "a red square moves", **asked)
    for stream in (False, True):
        model = load_model(folder)
        model.control_nets[net] = load_controlnet(net)
        install(model, torch.device("cpu"), stream=stream)
        assert same(generate(model, "a red square moves", **asked), expected), stream
    for residence in ("phases", "disk"):
        model = load_model(folder, read_weights=False, compute_device="cpu")
        model.control_nets[net] = load_controlnet(net, read_weights=False)
        offload(model, "cpu", residence)
        assert same(generate(model, "a red square moves", **asked), expected), residence


def test_at_the_stage_of_the_transformer_both_networks_are_on_the_device(net):
    model = golden_model()
    model.control_nets[net] = load_controlnet(net)
    both = [model.transformer, model.control_nets[net]]
    homes = [next(each.parameters()) for each in both]
    install(model, torch.device("cpu"), stream=False)
    seen = []
    for network in (model.transformer, model.vae.decoder):
        network.register_forward_hook(
            lambda *_: seen.append(
                [next(each.parameters()) is home for each, home in zip(both, homes, strict=True)]
            )
        )
    made(net, model=model)
    assert seen[0] == [False, False] and seen[-1] == [True, True]


def test_weights_that_visit_take_no_control_net_afterwards(net):
    model = install(golden_model(), torch.device("cpu"), stream=False)
    with pytest.raises(ConfigError, match="put the ControlNet on it before that"):
        made(net, model=model)


# what it is counted as


def test_its_weights_and_its_work_are_counted(net):
    model, network = golden_model(), golden_controlnet()
    spec = model.spec

    def request(control_net=()):
        plan = plan_run(spec, GenerateOptions(steps=4, control_net=control_net))
        return request_of(spec, plan, encoded=0, dtype=torch.float32, device="cpu")

    plain, with_net = request(), request(f"{net}:0.8")
    one, two = (MemoryPrediction(each).weights("stored") for each in (plain, with_net))
    assert two.transformer.total - one.transformer.total == bytes_of(network)
    block = bytes_of(network.transformer_blocks[0])
    assert two.transformer.streamed - one.transformer.streamed == bytes_of(
        network
    )  # two blocks are all it has
    assert two.denoiser.block - one.denoiser.block == block
    work = [MemoryPrediction(each).work("batched", "chunked").denoise for each in (plain, with_net)]
    assert work[0] < work[1] < 2 * work[0]
    cost = [efforts(each, 4)["denoise"].products for each in (plain, with_net)]
    assert cost[1] == 2 * cost[0], "two blocks of the same width beside two"


def test_work_beside_a_control_net_carried_on_is_work_counted():
    model = golden_model(num_layers=6, num_attention_heads=8)
    nets = (golden_controlnet(128, num_layers=4).config,) * 2
    plan = plan_run(model.spec, GenerateOptions(steps=5, frames=49))
    asked = request_of(model.spec, plan, encoded=0, dtype=torch.float32, device="cpu")
    asked = replace(asked, control_nets=nets)
    assert denoising(asked, "batched") == pytest.approx(_sampling(asked, "batched", 6, 5), rel=0.01)


def test_plan_counts_it_from_the_command_line(net, tmp_path):
    folder = write_model_folder(tmp_path / "model")
    runner = CliRunner()
    plain = json.loads(runner.invoke(app, ["plan", str(folder), "--json", "--device", "cpu"]).stdout)
    done = runner.invoke(app, ["plan", str(folder), "--json", "--device", "cpu", "--control-net", net])
    assert done.exit_code == 0, done.stderr
    more = json.loads(done.stdout)["options"][0]["peak_bytes"] - plain["options"][0]["peak_bytes"]
    assert more >= bytes_of(golden_controlnet())
    assert plan_memory(folder, device="cpu", control_net=net).request.control_nets


# what is refused, before a weight is read


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (dict(out=48), "width 48, the transformer has 32"),
        (dict(vae_channels=8), "latent channels 8, the transformer has 4"),
        (dict(text_embed_dim=16), "text width 16, the transformer has 24"),
        (dict(patch_size=1), r"patches \[1, 1, 1\], the transformer has \[1, 2, 2\]"),
        (dict(num_attention_heads=1, attention_head_dim=32), "head size 32, the transformer has 16"),
        (dict(downscale_coef=4), r"folds 4 pixels and 4 frames into a latent, the model \(8, 4\)"),
    ],
)
def test_a_control_net_of_another_model_is_refused_with_both_values(settings, why, tmp_path):
    net = write_controlnet(tmp_path / "other", golden_controlnet(**settings))
    with pytest.raises(ConfigError, match=rf"control_net .*other: .*{why}.*trained for another model"):
        plan_run(golden_model().spec, GenerateOptions(control_net=str(net)))


def test_bad_combinations_are_refused(net):
    spec = golden_model().spec
    with pytest.raises(InputError, match="no control video; give one for all with control"):
        read_given(GenerateOptions(control_net=net))
    with pytest.raises(InputError, match=r"control: the model .* or give a ControlNet with control_net"):
        made("", control=VIDEO)
    with pytest.raises(
        InputError, match=r"control_net: the model toy \(control\) makes a video from a control"
    ):
        made(net, model=golden_model("control"))
    with pytest.raises(InputError, match="image: missing"):
        made(net, model=golden_model("i2v"))
    with pytest.raises(InputError, match="control_net and video_use 'continue'"):
        made(net, video=VIDEO, video_use="continue")
    with pytest.raises(InputError, match="control_net and window_schedule 'segments'"):
        long = dict(control=Video(golden_frames(25), 8.0), window=9)
        made(net, window_schedule="segments", **long)
    with pytest.raises(FrameError, match="frames 9: a control video has 5"):
        options = GenerateOptions(control_net=net, frames=9)
        plan_run(spec, options, read_given(options, video=VIDEO, control=Video(golden_frames(5), 8.0)))
    with pytest.raises(ConfigError, match="control_net and compile"):
        GenerateOptions(control_net=net, compile=True)
    with pytest.warns(
        UserWarning, match="control_preprocessor 'canny' has no effect without a control video"
    ):
        made("", control_preprocessor="canny")
    with pytest.raises(CheckpointError, match="no such folder, preset or hub id"):
        plan_run(spec, GenerateOptions(control_net="no-such-net"))


def test_several_processes_are_refused(net):
    model = golden_model()
    for module in model.transformer.modules():
        if isinstance(module, Attention):
            module.attn_fn = SequenceParallelAttention.__new__(SequenceParallelAttention)
    with pytest.raises(ConfigError, match="make the video by one process"):
        made(net, model=model)


# what the record and the preview say


def test_the_record_names_each_net_its_files_strength_and_steps(net, tmp_path):
    other = tmp_path / "edges.mp4"
    VIDEO.save(other)
    video = made(net, control_net=[f"{net}:0.8@0.0-0.6", f"{net}:0.5={other}"])
    digest = {"diffusion_pytorch_model.safetensors": sha256_of(f"{net}/diffusion_pytorch_model.safetensors")}
    assert video.manifest["run"]["control_nets"] == [
        {"name": "canny", "weights": digest, "strength": 0.8, "start": 0.0, "stop": 0.6},
        {"name": "canny", "weights": digest, "strength": 0.5, "start": 0.0, "stop": 1.0},
    ]
    assert video.manifest["config"]["control_net"] == ["canny:0.8@0-0.6", "canny:0.5@0-1=edges.mp4"]
    assert str(tmp_path) not in json.dumps(video.manifest)
    assert "control_nets" not in made("").manifest["run"]


def test_from_the_command_line_it_is_made_and_previewed(net, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    write_model_folder(tmp_path / "model")
    pixels = np.zeros((9, 32, 48, 3), np.uint8)
    pixels[:, 8:24, 16:32] = 255
    Video(pixels, 8.0).save("square.mp4")
    asked = [
        "--model",
        "model",
        "--control",
        "square.mp4",
        "--control-preprocessor",
        "canny",
        "--control-net",
    ]
    done = CliRunner().invoke(app, ["preview", "seen.mp4", *asked, net, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["use"] == "control_net"
    seen = read_video("seen.mp4").frames[4].mean(-1)
    assert seen[16, 24] < 32 and seen[8:24, 15:17].max() > 128, "edges, not the square"
    done = CliRunner().invoke(
        app,
        [
            "generate",
            "a red square moves",
            *asked,
            f"{net}:0.8",
            "--steps",
            "1",
            "--seed",
            "1",
            "--out",
            "a.mp4",
        ],
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["run"]["control_nets"][0]["strength"] == 0.8


def test_lines_of_a_batch_name_their_own(net, tmp_path):
    folder = write_model_folder(tmp_path / "model")
    VIDEO.save(tmp_path / "in.mp4")
    lines = [
        {
            "prompt": "a red square",
            "name": "one",
            "control-net": f"{net}:0.8",
            "control": str(tmp_path / "in.mp4"),
        },
        {"prompt": "a red square", "name": "two"},
    ]
    source = tmp_path / "lines.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    flags = ["--batch", str(source), "--out", str(tmp_path / "out"), "--model", str(folder), "--steps", "1"]
    done = CliRunner().invoke(app, ["generate", *flags, "--seed", "3"])
    assert done.exit_code == 0, done.stderr
    records = [json.loads((tmp_path / "out" / f"{name}.json").read_text())["run"] for name in ("one", "two")]
    assert ["control_nets" in record for record in records] == [True, False]


# files


def test_a_single_file_is_recognised_by_its_shapes(net, tmp_path):
    file = tmp_path / "hed.safetensors"
    file.write_bytes((write_controlnet(tmp_path / "a") / "diffusion_pytorch_model.safetensors").read_bytes())
    alone, folder = read_controlnet_config(file), read_controlnet_config(net)
    names = ("num_layers", "width", "attention_head_dim", "vae_channels", "downscale_coef", "out_proj_dim")
    assert all(getattr(alone, name) == getattr(folder, name) for name in names)
    assert same(made(str(file), ":0.8"), made(net, ":0.8"))

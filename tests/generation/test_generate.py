"""Generate: exactly what was asked for, repeatably, with failures that name their cause."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cogvideox.errors import (
    ConfigError,
    FrameError,
    InputError,
    MediaError,
    NumericsError,
    PromptError,
    SizeError,
)  # fmt: skip
from cogvideox.generation import GenerateOptions, Given, Noises, generate, plan_frames, plan_run, plan_size
from cogvideox.text import TextEmbedding
from cogvideox.vae import VAEConfig
from cogvideox.video import Video
from support.golden import fill
from support.models import TEXT_LEN, TEXT_WIDTH, golden_frames, golden_model, golden_text

QUICK = GenerateOptions(steps=2, frames=9, seed=42)


def make(model=None, options=QUICK, on_step=None, **more):
    return generate(model or golden_model(), options, on_step, **(golden_text() | more))


# frames and sizes


@settings(max_examples=200, deadline=None)
@given(
    asked=st.integers(1, 400),
    patch=st.sampled_from([1, 2]),
    anchor=st.sampled_from(["middle", "start"]),
    lead=st.sampled_from([0, 1, 9, 17]),
)
def test_plans_make_a_legal_count_and_cut_to_exactly_what_was_asked(asked, patch, anchor, lead):
    plan, vae = plan_frames(asked, 4, patch, anchor, lead), VAEConfig()
    assert plan.generated - plan.front - plan.back == asked
    assert (plan.generated - 1) % (8 * patch) == 0
    assert plan.latents % patch == 0
    assert vae.pixel_frames(plan.latents - plan.padding) == plan.generated  # what the decoder returns
    assert vae.latent_frames(plan.generated) == plan.latents - plan.padding
    assert plan.generated - asked - lead < 8 * patch  # never more than needed
    assert plan.front >= lead
    if anchor == "start":
        assert plan.front == lead
    elif not lead:
        assert 0 <= plan.back - plan.front <= 1  # as much at the end as at the start


@pytest.mark.parametrize(
    ("asked", "patch", "made", "latents", "padding"),
    [(49, 1, 49, 13, 0), (81, 2, 81, 22, 1), (161, 2, 161, 42, 1), (48, 1, 49, 13, 0), (1, 1, 1, 1, 0)],
)
def test_released_lengths_are_made_as_released(asked, patch, made, latents, padding):
    plan = plan_frames(asked, 4, patch)
    assert (plan.generated, plan.latents, plan.padding) == (made, latents, padding)


def test_the_plan_says_why():
    assert plan_frames(9).why == "9 frames: as asked"
    assert "8n + 1, so 25 are made and cut: 1 at the end" in plan_frames(24).why
    assert "longer than the 49 frames" in plan_frames(60, trained=49).why


@pytest.mark.parametrize("asked", [0, -3])
def test_no_frames_are_refused(asked):
    with pytest.raises(FrameError, match=str(asked)):
        plan_frames(asked)


def test_sizes_off_the_grid_are_refused_with_their_neighbours():
    with pytest.raises(SizeError, match="height 758: .* 16; try 752 or 768"):
        plan_size(758, 1360, (768, 1360))
    with pytest.raises(SizeError, match="width 0"):
        plan_size(768, 0, (768, 1360))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1000, 1000), (768, 768)),
        ((900, 1600), (768, 1360)),
        ((1600, 900), (1360, 768)),
        ((300, 400), (768, 1024)),
    ],
)
def test_free_sizes_follow_the_image_with_the_usual_short_side(shape, size):
    assert plan_size(None, None, (768, 1360), shape=shape) == size


def test_learned_positions_fix_the_size():
    model = golden_model("i2v", use_learned_positional_embeddings=True)
    with pytest.raises(SizeError, match="48x48.*32x48"):
        plan_run(model.spec, GenerateOptions(height=48, width=48))


# options


def test_contradicting_options_name_both_values():
    with pytest.raises(ConfigError, match="frames 9 and seconds 2"):
        GenerateOptions.parse({"frames": 9, "seconds": 2})
    with pytest.raises(ConfigError, match="image and video"):
        GenerateOptions.parse({"image": "a.png", "video": "b.mp4"})
    with pytest.raises(ConfigError, match="did you mean 'guidance'"):
        GenerateOptions.parse({"guidanse": 3})


def test_options_without_effect_warn():
    with pytest.warns(UserWarning, match="tile_height has no effect"):
        GenerateOptions(tile_height=32, tile_width=32)
    with pytest.warns(UserWarning, match="join has no effect"):
        GenerateOptions(join=True)


@pytest.mark.parametrize(
    "values",
    [
        {"fps": 1000},
        {"fps": 0.0001},
        {"fps": float("inf"), "seconds": 1},
        {"fps": float("nan")},
        {"guidance": float("inf")},
        {"seconds": float("inf")},
        {"frames": 5000},
        {"steps": 2000},
        {"height": 1_000_000},
    ],
    ids=str,
)
def test_what_no_model_can_make_is_no_option(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        GenerateOptions.parse(values)


def test_text_that_is_none_is_refused_before_any_work():
    model = golden_model()
    model.text = Words()
    for name in ("prompt", "negative_prompt"):
        options = GenerateOptions(**{"prompt": "a dog", name: "\ud800"})
        with pytest.raises(PromptError, match="not valid text at position 0"):
            generate(model, options)


def test_settings_without_effect_on_a_run_warn():
    before = Given(video=Video(golden_frames(9), 8))
    for values, begins in (
        ({"strength": 0.5}, None),
        ({"context_frames": 17}, None),
        ({"context_frames": 17}, before),
        ({"strength": 0.5, "video_use": "continue"}, before),
        ({"negative_prompt": "blue", "guidance": 1.0}, None),
        ({"guidance_schedule": "wave", "guidance": 1.0}, None),
        ({"negative_prompt": "blue", "zero_negative": True}, None),
    ):
        with pytest.warns(UserWarning, match=f"{next(iter(values))}.* has no effect"):
            plan_run(golden_model().spec, GenerateOptions(**values), begins)


def test_too_many_frames_are_refused_however_they_are_asked_for():
    with pytest.raises(FrameError, match="seconds 3000: 24000 frames"):
        plan_run(golden_model().spec, GenerateOptions(seconds=3000))


def test_tiles_are_checked_before_any_work():
    with pytest.raises(SizeError, match="tile height 20: must be a multiple of 8"):
        plan_run(golden_model().spec, GenerateOptions(vae_coding="tiled", tile_height=20, tile_width=40))


@pytest.mark.parametrize("tile", [(None, None), (16, 16), (32, 24)])
def test_any_whole_tile_size_can_be_coded(tile):
    values = {"vae_coding": "tiled", "tile_height": tile[0], "tile_width": tile[1]}
    options = GenerateOptions(steps=1, frames=9, height=48, width=64, **values)
    assert make(options=options).frames.shape == (9, 48, 64, 3)


def test_options_and_plans_load_no_torch():
    code = (
        "import sys; from cogvideox.generation.options import GenerateOptions; "
        "from cogvideox.generation.frame_plan import plan_frames; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )


def test_a_video_of_the_shipped_model_reads_in_no_compiler(tmp_path):
    """torch imports its compiler when layers run or draw on the meta device: a third of the time to a file."""
    code = (
        "import sys; from cogvideox.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch._dynamo' in sys.modules, 'sympy' in sys.modules)"
    )
    arguments = [
        "generate",
        "a red circle",
        "--steps",
        "1",
        "--frames",
        "9",
        "--out",
        str(tmp_path / "video.mp4"),
    ]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "video.mp4").is_file(), done.stderr
    assert done.stdout.splitlines()[-1] == "False False"


def test_every_option_has_a_description():
    assert all(field.description for field in GenerateOptions.model_fields.values())


# what comes out


def test_the_video_has_the_asked_frames_size_and_rate():
    options = GenerateOptions(steps=1, frames=7, height=32, width=32, fps=12)
    video = make(options=options)
    assert (len(video), video.height, video.width, video.fps) == (7, 32, 32, 12)


def test_seconds_are_frames_at_the_rate():
    assert plan_run(golden_model().spec, GenerateOptions(seconds=2)).frames.asked == 16
    assert plan_run(golden_model().spec, GenerateOptions(seconds=2, fps=4)).frames.asked == 8


def test_without_a_length_the_model_decides():
    assert plan_run(golden_model().spec, GenerateOptions()).frames.generated == 9
    assert plan_run(golden_model(patch_size_t=2).spec, GenerateOptions()).frames.latents == 6


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_sde"])
def test_the_same_seed_gives_the_same_video(sampler):
    options = QUICK.override([f"sampler={sampler}"])
    one, two = make(options=options), make(options=options)
    assert np.array_equal(one.frames, two.frames)
    assert not np.array_equal(one.frames, make(options=options.override(["seed=43"])).frames)


def test_without_a_seed_one_is_drawn_for_each_run_and_recorded():
    options = GenerateOptions(steps=1, frames=9, sampler="dpmpp_sde")
    videos = [make(options=options) for _ in range(2)]
    seeds = [video.manifest["seed"] for video in videos]
    assert seeds[0] != seeds[1] and not np.array_equal(videos[0].frames, videos[1].frames)
    assert [video.manifest["config"]["seed"] for video in videos] == seeds
    again = make(options=options.override([f"seed={seeds[0]}"]))
    assert np.array_equal(again.frames, videos[0].frames)
    torch.manual_seed(0)
    random.seed(0)  # a program that seeds its own random numbers still gets a new video each time
    assert make(options=options).manifest["seed"] not in seeds


def test_a_run_with_a_generator_has_no_seed():
    video = make(generator=torch.Generator().manual_seed(1), options=GenerateOptions(steps=1, frames=9))
    assert video.manifest["seed"] is None and video.manifest["run"]["noise"] == "explicit generator"
    with pytest.raises(ConfigError, match="seed: missing"):
        Noises(None, torch.float32, "cpu")


def test_the_first_noise_can_be_given():
    start = Noises(42, torch.float32, "cpu").initial((1, 4, 3, 4, 6))
    assert np.array_equal(make(initial_latents=start).frames, make().frames)
    with pytest.raises(SizeError, match="initial_latents"):
        make(initial_latents=start[:, :, :2])


def test_an_explicit_generator_draws_like_the_public_pipelines():
    g = torch.Generator().manual_seed(1)
    expected = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(1)).transpose(1, 2)
    assert torch.equal(Noises(0, torch.float32, "cpu", g).initial((1, 4, 3, 4, 6)), expected)


@pytest.mark.parametrize("explicit", [True, False])
def test_step_noise_can_be_drawn_again(explicit):
    noises = Noises(0, torch.float32, "cpu", torch.Generator().manual_seed(1) if explicit else None)
    shape = (1, 4, 3, 4, 6)
    noises.initial(shape)
    first = noises.steps(shape)
    values = [first(draws) for draws in (1, 2, 1)]
    again = noises.steps(shape)
    assert all(torch.equal(value, again(draws)) for value, draws in zip(values, (1, 2, 1), strict=True))


def test_guidance_of_one_needs_no_negative_prompt():
    text = {"prompt_embedding": golden_text()["prompt_embedding"]}
    assert len(generate(golden_model(), QUICK.override(["guidance=1.0"]), **text)) == 9


def test_zeros_can_stand_for_the_negative_prompt():
    zeros = make(negative_embedding=torch.zeros(1, TEXT_LEN, TEXT_WIDTH))
    chosen = generate(
        golden_model(),
        QUICK.override(["zero_negative=true"]),
        prompt_embedding=golden_text()["prompt_embedding"],
    )
    assert np.array_equal(zeros.frames, chosen.frames)


def test_latents_can_stay_float32_while_the_model_is_bfloat16():
    model = golden_model().to(dtype=torch.bfloat16, vae_dtype=torch.float32)
    seen = []
    decode = model.stream_decode
    model.stream_decode = lambda latents, *more: seen.append(latents.dtype) or decode(latents, *more)
    make(model)
    make(model, QUICK.override(["latents=float32"]))
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("coding", ["chunked", "whole", "tiled"])
def test_every_coding_gives_the_same_shape(coding):
    values = {"vae_coding": coding, "steps": 1, "frames": 9, "height": 32, "width": 64}
    if coding == "tiled":
        values |= {"tile_height": 48, "tile_width": 40}
    assert make(options=GenerateOptions(**values)).frames.shape == (9, 32, 64, 3)


# image, video, continuation


def test_an_image_of_any_shape_starts_a_video(tmp_path):
    path = tmp_path / "folder-with-a-name" / "picture.png"
    path.parent.mkdir()
    Image.fromarray(golden_frames(1, 50, 70)[0]).save(path)
    video = make(golden_model("i2v"), GenerateOptions(steps=1, frames=5, image=str(path)))
    assert len(video) == 5
    assert video.manifest["run"]["frames"]["front"] == 0  # the image stays the first frame
    assert video.manifest["inputs"]["image"]["file"] == "picture.png"
    assert "folder-with-a-name" not in str(video.manifest)


def test_a_text_model_keeps_a_given_image_as_its_first_frame():
    model, picture = golden_model(), golden_frames(1)[0]
    options = GenerateOptions(steps=2, frames=9, sample_image=False, seed=1)
    seen, decode = [], model.stream_decode
    model.stream_decode = lambda latents, *more: seen.append(latents) or decode(latents, *more)
    make(model, options, image=picture)
    known = model.encode_video(Video(picture[None], 1).to_tensor(), sample=False)
    torch.testing.assert_close(seen[0][:, :, :1], known)


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_a_changed_video_keeps_its_length_and_rate(kind):
    video = make(
        golden_model(kind), GenerateOptions(steps=4, strength=0.5), video=Video(golden_frames(6), 10)
    )
    assert (len(video), video.fps) == (6, 10)
    assert len(video.manifest["run"]["times"]) == 2


def test_less_strength_stays_closer_to_the_given_video():
    given, model = Video(golden_frames(9), 8), golden_model()
    coded = model.encode_video(given.to_tensor(), sample=False)
    distance = {}
    for strength in (0.25, 1.0):
        options = GenerateOptions(steps=4, strength=strength, sample_image=False, seed=1)
        seen, decode = [], golden_model().stream_decode
        model.stream_decode = lambda z, *more, seen=seen, decode=decode: seen.append(z) or decode(z, *more)
        make(model, options, video=given)
        distance[strength] = (seen[0] - coded).square().mean().item()
    assert distance[0.25] < distance[1.0]


def test_more_frames_than_the_given_video_are_refused():
    with pytest.raises(FrameError, match="frames 9: the given video has 6"):
        make(video=Video(golden_frames(6), 8))


def test_a_strength_that_leaves_no_step_is_refused():
    with pytest.raises(ConfigError, match="strength 0.1 of 2 steps"):
        make(options=GenerateOptions(steps=2, strength=0.1), video=Video(golden_frames(9), 8))


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
@pytest.mark.parametrize("patch_size_t", [None, 2])
def test_a_continuation_gives_the_asked_new_frames(kind, patch_size_t):
    model, before = golden_model(kind, patch_size_t), Video(golden_frames(11), 8)
    options = GenerateOptions(steps=1, frames=5, video_use="continue")
    assert len(make(model, options, video=before)) == 5
    joined = make(model, options.override(["join=true"]), video=before)
    assert len(joined) == 16
    assert np.array_equal(joined.frames[:11], before.frames)
    assert joined.manifest["run"]["way"] == "continuation"


def test_a_continuation_by_default_fills_the_length_of_the_model():
    plan = plan_run(
        golden_model(patch_size_t=2).spec,
        GenerateOptions(video_use="continue"),
        Given(video=Video(golden_frames(9), 8)),
    )
    assert (plan.context, plan.frames.generated, plan.frames.asked) == (9, 17, 8)


def test_missing_or_contradicting_inputs_are_refused():
    with pytest.raises(InputError, match="image: missing"):
        make(golden_model("i2v"))
    with pytest.raises(InputError, match="continue"):
        make(options=QUICK.override(["video_use=continue"]))
    with pytest.raises(InputError, match="one of them"):
        make(image=golden_frames(1)[0], video=Video(golden_frames(9), 8))
    with pytest.raises(MediaError, match="float64"):
        make(image=np.zeros((8, 8, 3)))
    with pytest.raises(MediaError, match="no such file"):
        make(options=GenerateOptions(image="missing.png"))


# words


class Words:
    """A text encoder that knows no language."""

    def __init__(self, cut: str = "", bad: bool = False):
        self.model, self.cut, self.bad = torch.nn.Identity(), cut, bad

    def encode(self, prompts):
        values = torch.cat([fill(prompt, (1, TEXT_LEN, TEXT_WIDTH)) for prompt in prompts])
        values = values * float("nan") if self.bad else values
        return TextEmbedding(values, [7] * len(prompts), TEXT_LEN, [self.cut] * len(prompts))


def test_prompts_are_embedded_and_counted():
    model = golden_model()
    model.text = Words()
    video = generate(model, QUICK.override(["prompt=a dog"]))
    assert video.manifest["run"]["text"]["prompt"] == {"tokens": 7, "budget": TEXT_LEN}
    assert not np.array_equal(video.frames, generate(model, QUICK.override(["prompt=a cat"])).frames)


def test_words_that_were_cut_are_said():
    model = golden_model()
    model.text = Words(cut="in the rain")
    with pytest.warns(UserWarning, match="in the rain"):
        video = generate(model, QUICK.override(["prompt=a dog"]))
    assert video.manifest["run"]["text"]["prompt"]["cut"] == "in the rain"


def test_a_model_without_text_encoder_asks_for_an_embedding():
    with pytest.raises(PromptError, match="prompt_embedding"):
        generate(golden_model(), QUICK.override(["prompt=a dog"]))


def test_an_empty_prompt_is_refused():
    with pytest.raises(PromptError, match="empty"):
        generate(golden_model(), QUICK)


def test_a_given_video_needs_no_prompt():
    model = golden_model()
    model.text = Words()
    assert len(generate(model, GenerateOptions(steps=2), video=Video(golden_frames(9), 8))) == 9


# progress, numerics, record


def test_progress_names_every_stage_and_step():
    seen = []
    make(on_step=seen.append)
    steps = [(p.stage, p.done, p.total) for p in seen]
    assert steps == [
        ("text", 0, 1),
        ("encode", 0, 1),
        ("denoise", 0, 2),
        ("denoise", 1, 2),
        ("denoise", 2, 2),
        ("decode", 0, 1),
        ("decode", 1, 1),
    ]
    assert seen[3].estimate.shape == (1, 4, 3, 4, 6)


def test_an_exception_in_the_callback_stops_the_run_at_once():
    class Stop(Exception):
        pass

    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.stage == "denoise" and progress.done:
            raise Stop

    with pytest.raises(Stop):
        make(on_step=stop)
    assert seen[-1].done == 1


def test_nan_weights_are_traced_to_their_layer():
    model = golden_model()
    model.transformer.transformer_blocks[1].ff.net[2].weight.data[0, 0] = float("nan")
    with pytest.raises(
        NumericsError, match=r"latents: transformer\.transformer_blocks\.1\.ff\.net\.2 .*weight holds"
    ):
        make(model)


def test_overflow_is_traced_to_its_layer_and_seen_once_by_the_callback():
    model, seen = golden_model(), []
    model.transformer.transformer_blocks[0].attn1.to_v.weight.data.fill_(1e38)
    with pytest.raises(NumericsError, match=r"transformer\.transformer_blocks\.0\.attn1\.to_v"):
        make(model, on_step=lambda p: seen.append(p.stage))
    assert seen.count("denoise") == 3  # its beginning and two steps


def test_a_bad_decoder_is_traced_to_its_layer():
    model = golden_model()
    model.vae.decoder.mid_block.resnets[0].conv1.conv.weight.data[0] = float("inf")
    with pytest.raises(NumericsError, match=r"pixels: vae\.decoder\.mid_block\.resnets\.0.*conv1"):
        make(model)


def test_a_bad_embedding_is_not_blamed_on_the_transformer():
    model = golden_model()
    model.text = Words(bad=True)
    with pytest.raises(NumericsError, match="text embedding"):
        generate(model, QUICK.override(["prompt=a dog"]))


def test_without_the_check_broken_pixels_still_do_not_pass():
    model = golden_model()
    model.transformer.proj_out.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericsError):
        make(model, QUICK.override(["check_numerics=false"]))


def test_hooks_are_gone_after_a_failure():
    model = golden_model()
    model.transformer.proj_out.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericsError):
        make(model)
    assert not any(module._forward_hooks for part in model.networks().values() for module in part.modules())


def test_a_model_in_training_is_evaluated_and_goes_on_training():
    model = golden_model(dropout=0.5)
    expected = make(model).frames
    model.transformer.train()
    assert np.array_equal(make(model).frames, expected)
    assert model.transformer.training and not model.vae.training


def test_the_manifest_holds_everything_that_decides_the_numbers():
    record = make().manifest
    assert record["kind"] == "generate" and record["seed"] == 42
    assert record["config"]["sampler"] == "ddim" and record["config"]["previous"] == "released"
    assert record["model"]["name"] == "toy" and record["model"]["schedule"]["snr_shift_scale"] == 1.0
    run = record["run"]
    assert run["times"] == [999, 499] and run["guidance"] == [6.0, 6.0]
    assert run["frames"]["why"] == "9 frames: as asked"
    assert run["peak_memory_bytes"]["process"] > 1_000_000
    assert run["seconds"] > 0 and "torch" in record["versions"]


def test_guidance_that_nobody_asked_for_is_the_models_own():
    """A number in the model's record; what was used stands in the video's."""
    model = golden_model()
    assert model.spec.guidance == 6.0  # as the released models
    model.spec = replace(model.spec, guidance=2.5)
    own = generate(model, GenerateOptions(steps=2, seed=1), **golden_text())
    assert own.manifest["config"]["guidance"] == 2.5
    same = generate(model, GenerateOptions(steps=2, guidance=2.5, seed=1), **golden_text())
    other = generate(model, GenerateOptions(steps=2, guidance=6.0, seed=1), **golden_text())
    assert np.array_equal(own.frames, same.frames) and not np.array_equal(own.frames, other.frames)

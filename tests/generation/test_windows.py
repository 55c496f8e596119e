"""Long videos in windows: one window is the plain run, every way of running gives the same, settings are checked."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cogvideox.cli import app
from cogvideox.diffusion import Windows
from cogvideox.errors import ConfigError, FrameError, PromptError
from cogvideox.generation import GenerateOptions, Given, generate, plan_run
from cogvideox.generation.pipeline import Explicit, run
from cogvideox.generation.preflight import request_of
from cogvideox.generation.windows import window_frames
from cogvideox.memory.offload import install
from cogvideox.memory.plan import MemoryPrediction
from cogvideox.memory.seconds import efforts
from cogvideox.presets import get_preset
from cogvideox.transformer.calls import sampler_call
from cogvideox.video import Video, read_video
from support.golden import fill
from support.models import golden_frames, golden_model, golden_text, small_preset

PLAIN = GenerateOptions(
    prompt="x", seed=42, steps=3, frames=25, window=0, modulation="layers", attention="torch"
)
LONG = PLAIN.changed(window=9, window_schedule="static")


def made(options, model=None, given=None, text=None):
    """Frames and record of a run."""
    model = model or golden_model()
    plan = plan_run(model.spec, options, given)
    generation = run(model, plan, given or Given(), explicit=Explicit(**(text or golden_text())))
    return generation.video.frames, generation.record


def asked(model):
    """Notes, for each call of a network, the window and what it was given."""
    calls = []
    model.transformer.register_forward_hook(
        lambda module, args, out: calls.append(
            (sampler_call(), *(each.clone() for each in args), out.clone())
        )
    )
    return calls


# the numbers


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_sde"])
def test_one_window_is_the_plain_run(sampler):
    options = PLAIN.changed(sampler=sampler)
    plain, record = made(options)
    assert record.windows is None and record.manifest()["run"].get("windows") is None
    for window in (25, 49):
        found, again = made(options.changed(window=window))
        assert np.array_equal(found, plain) and again.windows is None


@pytest.mark.parametrize("blend", ["pyramid", "linear", "flat"])
@pytest.mark.parametrize("schedule", ["static", "multidiffusion", "uniform", "looped"])
def test_each_window_is_a_video_of_its_own_to_the_network(schedule, blend):
    model = golden_model()
    calls = asked(model)
    plan = plan_run(model.spec, LONG.changed(window_schedule=schedule, window_blend=blend))
    assert plan.windows == Windows(7, 3, 1, schedule, blend)
    run(model, plan, Given(), explicit=Explicit(**golden_text()))
    for step in range(3):
        laid = [call.window for call, *_ in calls if call.step == step]
        assert tuple(laid) == plan.windows.at(step)
    for call, x, text, t, out in list(calls):
        assert x.shape[2] == len(call.window)
        assert torch.equal(model.transformer(x, text, t), out)


def test_windows_give_what_the_formula_gives():
    """DDIM by hand on the mean of two windows' answers, guidance included."""
    model, text, options = (
        golden_model(),
        golden_text(),
        LONG.changed(frames=17, steps=2, window_blend="flat"),
    )
    options = options.changed(window_noise="fresh", window_overlap=4, guidance=3.0)
    plan = plan_run(model.spec, options)
    assert plan.windows.at(0) == ((0, 1, 2), (2, 3, 4))
    start = fill("windows.start", plan.latent_shape)
    found = run(model, plan, Given(), explicit=Explicit(**text, initial_latents=start))
    x = start
    with torch.no_grad():
        for step in model.schedule.path(2):
            answers = []
            for each in (text["negative_embedding"], text["prompt_embedding"]):
                one, two = (
                    model.transformer(x[:, :, part], each, torch.tensor([step.t]))
                    for part in (slice(0, 3), slice(2, 5))
                )
                both = (one[:, :, -1:] + two[:, :, :1]) / 2
                answers.append(torch.cat([one[:, :, :2], both, two[:, :, 1:]], dim=2))
            v = answers[0] + 3.0 * (answers[1] - answers[0])
            x0 = step.alpha_bar**0.5 * x - (1 - step.alpha_bar) ** 0.5 * v
            eps = (x - step.alpha_bar**0.5 * x0) / (1 - step.alpha_bar) ** 0.5
            x = step.next_alpha_bar**0.5 * x0 + (1 - step.next_alpha_bar) ** 0.5 * eps
        pixels = model.decode_latents(x)
    truth = Video.from_tensor(pixels, 8.0).frames
    assert np.abs(found.video.frames.astype(int) - truth).max() <= 1


@pytest.mark.parametrize("way", ["sequence", "tables", "streamed", "again", "interval"])
def test_every_way_of_running_is_alike(way):
    options = LONG.changed(guidance_stop=0.5) if way == "interval" else LONG
    expected, _ = made(options)
    model = golden_model()
    changes = {"tables": {"modulation": "tables"}, "sequence": {"guidance_pair": "sequence"}}.get(way, {})
    if way == "streamed":
        install(model, torch.device("cpu"), stream=True)
    if way == "again":
        made(options.changed(seed=1), model)
    found, _ = made(options.changed(**changes), model)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.filterwarnings("ignore:cache tea")
@pytest.mark.parametrize("kind", ["first-block", "tea"])
@pytest.mark.parametrize("pair", ["batched", "sequence"])
def test_caches_are_kept_for_each_window(kind, pair):
    options = LONG.changed(steps=6, guidance_pair=pair)
    plain, _ = made(options)
    exact, record = made(options.changed(cache=f"{kind}:0"))
    assert np.array_equal(exact, plain) and record.engine.reused_steps == []
    model = golden_model()
    counts = [0, 0]
    for index, block in enumerate(model.transformer.transformer_blocks):
        block.register_forward_hook(lambda *_, index=index: counts.__setitem__(index, counts[index] + 1))
    found, record = made(options.changed(cache=f"{kind}:inf"), model)
    calls = len(record.windows.at(0)) * (2 if pair == "sequence" else 1)
    assert record.engine.reused_steps == ([1, 2, 3, 4, 5] if kind == "first-block" else [1, 2, 3, 4])
    assert counts == ([6 * calls, calls] if kind == "first-block" else [2 * calls, 2 * calls])
    # windows differ: one's residual in the place of another's would show
    again, _ = made(options.changed(cache=f"{kind}:inf", guidance_pair="batched"))
    assert np.abs(found.astype(int) - again).max() <= 1


def test_the_first_noise_is_shuffled_unless_it_is_asked_for_fresh():
    def start(**changes):
        model = golden_model()
        calls = asked(model)
        made(LONG.changed(steps=1, guidance=1.0, window_overlap=0, **changes), model)
        return [x for _, x, *_ in calls]

    fresh, mixed = start(window_noise="fresh"), start(window_noise="shuffled")
    assert torch.equal(fresh[0], mixed[0]) and not torch.equal(fresh[1], mixed[1])
    frames = [{tuple(frame.flatten().tolist()) for frame in x.unbind(2)} for x in mixed]
    assert frames[1] == frames[0]


# conditions


def test_an_image_model_sees_its_image_at_the_start_of_each_window():
    """Of an image alone every window reads the first frames of the condition, as published."""
    model = golden_model("i2v")
    calls = asked(model)
    made(LONG, model, Given(image=golden_frames(1)[0]))
    first = calls[0][1][:, 4:]
    assert len(calls) > 3 and all(torch.equal(x[:, 4:], first) for _, x, *_ in calls)
    assert first[:, :, 0].any() and not first[:, :, 1:].any()


def test_a_last_image_is_read_by_the_last_window():
    model, frames = golden_model("i2v"), golden_frames(2)
    calls = asked(model)
    made(LONG, model, Given(image=frames[0], last_image=frames[1]))
    ends = {call.window: x[:, 4:, -1].any().item() for call, x, *_ in calls}
    assert [ends[window] for window in ends] == [False] * (len(ends) - 1) + [True]


@pytest.mark.parametrize("kind", ["control", "inpaint", "removal"])
def test_conditions_of_a_whole_video_are_cut_with_the_window(kind):
    model, video = golden_model(kind), Video(golden_frames(25), 8.0)
    mask = np.zeros((25, 32, 48), np.uint8)
    mask[:, 8:24] = 255
    calls = asked(model)
    given = {
        "control": Given(control=video),
        "inpaint": Given(video=video, mask=mask),
        "removal": Given(video=video, remove=mask),
    }[kind]
    made(LONG.changed(guidance=1.0), model, given)
    whole: dict[int, torch.Tensor] = {}
    for call, x, *_ in calls:
        for number, frame in zip(call.window, x[:, 4:].unbind(2), strict=True):
            assert torch.equal(whole.setdefault(number, frame), frame)
    assert sorted(whole) == list(range(7)) and not torch.equal(whole[1], whole[5])


def test_a_continuation_in_windows_begins_with_what_is_known():
    given = Given(video=Video(golden_frames(9), 8.0))
    options = LONG.changed(video_use="continue", context_frames=9, frames=24, join=True)
    frames, record = made(options, given=given)
    assert len(frames) == 33 and record.windows.frames == 9


# prompts with times


def test_each_window_follows_the_prompt_of_its_time():
    model = golden_model()
    calls = asked(model)
    options = LONG.changed(prompt="0-1.5: a red circle; 1.5-3.125: a blue square", guidance=1.0)
    text = golden_text()["prompt_embedding"]
    both = {"prompt_embedding": torch.cat([text, -text])}
    _, record = made(options, model, text=both)
    assert record.windows.prompts == (0, 3)
    for call, _, used, *_ in calls:
        assert torch.equal(used, text if call.window[len(call.window) // 2] < 3 else -text)
    with pytest.raises(ConfigError, match="prompt embeddings: 1, for 2 prompts with times"):
        made(options, text=golden_text())


# settings


def plan(preset="tiny", **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return plan_run(get_preset(preset), GenerateOptions(prompt="x", **settings))


def test_windows_are_chosen_for_a_video_more_than_twice_as_long_as_trained():
    assert plan(frames=33).windows is None and plan().windows is None and plan(frames=34).windows is None
    windows = plan(seconds=30).windows
    assert (windows.frames, windows.size, windows.schedule, windows.blend) == (61, 5, "uniform", "pyramid")
    assert "in 2" in plan(seconds=30).frames.why and "trained on 17" in plan(seconds=30).frames.why
    assert plan(seconds=30, window=0).windows is None
    assert "trained on" not in plan(seconds=30, window=9).frames.why  # they were asked for
    assert "windows of 9 frames" in (why := plan(seconds=30, window=5).frames.why) and "to window 5" in why
    assert plan(seconds=30, cache="first-block").windows.schedule == "static"
    assert plan("1.5-5b", seconds=10).windows is None  # as published
    long = plan("1.5-5b", seconds=30).windows
    assert (long.size, long.unit, long.overlap % 2, long.frames % 2) == (22, 2, 0, 0)
    assert "windows of 81 frames" in plan("1.5-5b", seconds=30).frames.why


def test_the_published_defaults_of_void():
    model = golden_model("removal", patch_size_t=2, first_latent_alone=True)
    video = Video(golden_frames(33), 12.0)
    given = Given(video=video, remove=np.full((33, 32, 48), 255, np.uint8))
    windows = plan_run(model.spec, GenerateOptions(prompt="x", guidance=1.0), given).windows
    assert (windows.schedule, windows.blend, windows.overlap, windows.unit) == (
        "multidiffusion",
        "linear",
        4,
        2,
    )


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"window": 9, "window_overlap": 9}, ConfigError, "window_overlap 9 of window 9.*lower the overlap"),
    ({"window": 9, "window_overlap": 8, "frames": 99}, None, ""),
    ({"window_overlap": 20, "frames": 99}, FrameError, "5 of 5 latent frames of a window.*give at most 16"),
    ({"window_schedule": "uniform", "cache": "tea", "frames": 99}, ConfigError, "cache and window_schedule 'uniform'"),
    ({"window": -1}, ConfigError, "window"),
    ({"window": 9, "window_schedule": "round"}, ConfigError, "window_schedule"),
    ({"prompt": "0-5: a; 5-10: b", "window": 0}, PromptError, "made at once; ask for a longer one"),
    ({"prompt": "0-5: a; 5-10: b", "seconds": 30}, PromptError, "end at 10 s, and the video .* lasts 30 s"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_a_weight_is_read(settings, error, message):
    if error is None:
        assert plan(**settings).windows.overlap == 2
        return
    settings = {"prompt": "x", **settings}
    with pytest.raises(error, match=message):
        plan_run(get_preset("tiny"), GenerateOptions(**settings))


@pytest.mark.parametrize(("name", "prompt", "frames", "window"), [
    ("tiny", "0-1.5: a; 1.5-3: b", 25, 17), ("5b", "0-3: a; 3-6: b", 49, 25), ("5b", "0-5: a; 5-10: b", 81, 49),
])  # fmt: skip
def test_prompts_with_times_need_no_long_video(name, prompt, frames, window):
    """A video as long as its prompts say is made in windows, of the length of a prompt where it is a short one."""
    made = plan_run(get_preset(name), GenerateOptions(prompt=prompt))
    assert made.frames.generated == frames and window_frames(get_preset(name), made.windows) == window
    assert len(made.windows.prompts) == 2


@pytest.mark.parametrize("settings", [
    {"window_overlap": 4}, {"window_blend": "flat"}, {"window_schedule": "looped"}, {"window_noise": "fresh"},
    {"window_stride": 2}, {"window_stride": 2, "frames": 99, "window_schedule": "static"},
])  # fmt: skip
def test_settings_without_effect_are_said(settings):
    with pytest.warns(UserWarning, match=f"{next(iter(settings))} .* has no effect"):
        plan_run(get_preset("tiny"), GenerateOptions(prompt="x", **settings))


# memory and time


def prediction(frames, **settings):
    spec = small_preset("5b")
    options = GenerateOptions(prompt="x", steps=4, frames=frames, height=64, width=96, **settings)
    made = plan_run(spec, options)
    return request_of(spec, made, encoded=0, dtype=torch.float32, device="cuda")


@pytest.mark.parametrize("cache", ["", "first-block"])
def test_the_memory_of_a_long_video_is_that_of_a_window_and_its_latents(cache):
    work = [
        MemoryPrediction(prediction(n, window=25, cache=cache)).work("batched", "chunked")
        for n in (97, 193, 385)
    ]
    latents = 24 * 16 * 8 * 12 * 4  # of 96 frames
    assert work[0].decode < work[2].decode <= work[0].decode + 3 * 3 * latents
    grown = work[2].denoise - work[1].denoise
    assert abs(grown - 2 * (work[1].denoise - work[0].denoise)) < 0.2 * grown  # a straight line
    if not cache:
        assert grown < 2 * 16 * latents
        whole = MemoryPrediction(prediction(385, window=0)).work("batched", "chunked")
        assert whole.denoise > 1.5 * work[2].denoise


def test_time_grows_with_the_windows():
    short, long = (efforts(prediction(n, window=25), 4)["denoise"] for n in (97, 193))
    assert 1.8 < long.attention / short.attention < 2.3
    whole = efforts(prediction(193, window=0), 4)["denoise"]
    assert whole.attention > long.attention and whole.products < long.products


# from the command line


def test_the_command_says_how_it_makes_a_long_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["generate", "0-3: a red circle moves to the right; 3-6: a blue square moves up", "--steps", "1"]
    done = CliRunner().invoke(app, [*words, "--seed", "1", "--out", "long.mp4"])
    assert done.exit_code == 0, done.stderr
    assert "long video: 48 frames" in done.stderr and "windows of 17 frames" in done.stderr
    record = json.loads((tmp_path / "long.json").read_text())["run"]
    assert record["windows"]["prompts"] == [0, 6] and record["windows"]["count"] > 3
    assert set(record["text"]) == {"prompt 1", "prompt 2"}  # the shipped model has its guidance inside
    assert len(read_video("long.mp4")) == 48


def test_a_video_on_disk_is_the_one_in_memory():
    """Frames that were decoded one chunk after the other are those of the whole, cut as they are."""
    model, options = golden_model(), LONG.changed(frames=22)
    video = generate(model, options, **golden_text())
    latents = []
    generate(model, options, lambda at: latents.append(at.estimate), **golden_text())
    last = next(each for each in reversed(latents) if each is not None)
    whole = Video.from_tensor(model.decode_latents(last), 8.0).frames
    front = (len(whole) - 22) // 2
    assert np.array_equal(video.frames, whole[front : front + 22])


# RIFLEx


def test_riflex_changes_a_video_that_would_repeat_and_no_other():
    """The golden heads have a temporal period of 7 latent frames; 41 frames are 11."""
    model = golden_model()
    options = PLAIN.changed(frames=41)
    plain, slowed = made(options, model)[0], made(options.changed(riflex=True), model)[0]
    assert not np.array_equal(plain, slowed) and model.transformer.rotary.riflex is None
    own = golden_model(position_mode="riflex")
    assert np.array_equal(made(options, own)[0], slowed)
    with pytest.warns(UserWarning, match="riflex has no effect on 3 latent frames: positions repeat after 7"):
        again, _ = made(options.changed(riflex=True, frames=9), model)
    assert np.array_equal(again, made(options.changed(frames=9), model)[0])
    with pytest.warns(UserWarning, match="has position_mode riflex already"):
        made(options.changed(riflex=True), own)


def test_riflex_is_for_rotary_positions():
    with pytest.raises(ConfigError, match="2b has sinusoidal positions"):
        plan_run(get_preset("2b"), GenerateOptions(prompt="x", riflex=True, frames=97))


# what is said


def test_riflex_is_told_in_the_words_of_what_was_asked():
    """Of a long video the windows are named, and a video at once that RIFLEx serves is not said to repeat."""
    spec = get_preset("tiny")
    with pytest.warns(
        UserWarning, match=r"no effect on windows of 17 frames, 5 latent ones: .*\(25 frames\)"
    ):
        plan_run(spec, GenerateOptions(prompt="x", seconds=30, riflex=True))
    with pytest.warns(UserWarning, match="no effect on 5 latent frames"):
        plan_run(spec, GenerateOptions(prompt="x", frames=17, riflex=True))
    slowed = plan_run(spec, GenerateOptions(prompt="x", frames=33, riflex=True)).frames.why
    assert slowed.endswith(
        "longer than the 17 frames the model was trained on, so positions are slowed (RIFLEx)"
    )
    plain = plan_run(spec, GenerateOptions(prompt="x", frames=33)).frames.why
    assert plain.endswith("so expect repetition")


@pytest.mark.parametrize("window", [None, 9])
def test_segments_that_cannot_go_on_name_the_frames_of_a_window(window):
    spec = get_preset("tiny")
    small = replace(spec, transformer_settings={**spec.transformer_settings}, frames=9)
    with pytest.raises(FrameError, match=r"window 9: no longer than the 9 frames that segments share"):
        plan_run(small, GenerateOptions(prompt="x", seconds=10, window=window, window_schedule="segments"))


def test_a_plan_counts_windows_in_the_frames_that_generate_names():
    done = CliRunner().invoke(app, ["plan", "tiny", "--seconds", "10", "--device", "cpu"])
    why = plan_run(get_preset("tiny"), GenerateOptions(prompt="x", seconds=10)).frames.why
    words = "windows of 17 frames that share 8"
    assert (
        words in done.stdout.splitlines()[0] and words in why and "latent" not in done.stdout.splitlines()[0]
    )

"""What a step of VAE training adds up, and what a decoder-only run leaves alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideox.checkpoints.diffusers import load_vae, write_vae
from cogvideox.data.clips import ClipSize
from cogvideox.errors import ConfigError
from cogvideox.noise import generator
from cogvideox.training.checkpoint.state import latest_state
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.recipes import recipe
from cogvideox.training.recipes.paper import TABLE_1, variant_config
from cogvideox.training.resume import check_same_config
from cogvideox.training.tasks.crops import FolderCrops, WorldCrops, clip_frames, turn_hues
from cogvideox.training.tasks.folder import FolderData
from cogvideox.training.tasks.vae import CropPhase, Gan, VAETask, VAETraining
from cogvideox.vae import VAE, VAEConfig
from cogvideox.vae.losses import CriticConfig
from cogvideox.video import Video

SMALL = VAEConfig(
    block_out_channels=(8, 8, 8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    scaling_factor=0.7,
)


def test_the_network_is_where_it_is_asked_to_be():
    built = task(device="meta", scene_style="rich", object_weight=4.0, edges=1.0, lpips=0.1).build(0)
    assert {weight.device.type for weight in built.module.parameters()} == {"meta"}
    report = built.losses(0)
    assert {value.device.type for value in report.values()} == {"meta"}
    assert task().compute_device == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="unknown; choose cpu"):
        task(device="cdua").build(0)


def task(**settings) -> VAETraining:
    phases = (CropPhase(until=2, frames=9, size=16, batch=1),)
    return VAETraining(vae=SMALL, phases=phases, size=16, frames=9, **settings)


def test_the_edge_term_is_the_error_of_steps_between_neighbours() -> None:
    """Written out pixel by pixel; a shift of all brightness costs L1 and no edges."""
    built = VAETask(task(edges=3.0, l1=0.0, l2=0.0, kl=0.0), seed=0)
    losses = built.losses(0)
    pixels = built.clips.crops(built.config.phases[0], 0)
    sample = built.module.encode(pixels, coding="whole").sample(generator(0, "latent noise", 0))
    error = built.module.decode(sample, coding="whole") - pixels
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    torch.testing.assert_close(losses["edges"], down + across)
    torch.testing.assert_close(losses["loss"], 3 * (down + across))


def test_noise_on_latents_grows_with_their_spread_and_is_drawn_anew_for_each_clip_and_step() -> None:
    phases = (CropPhase(until=2, frames=9, size=16, batch=64),)
    built = VAETask(task(latent_noise=0.5).changed(phases=phases), seed=0)
    latents = 3 * torch.randn(64, 4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    disturbed = built._disturbed(latents, 4)
    sizes = (disturbed - latents).std(dim=(1, 2, 3, 4)) / latents.std()
    assert (
        0 < sizes.min() < 0.1 and 0.4 < sizes.max() < 0.7 and 0.2 < sizes.mean() < 0.3
    )  # evenly from 0 to .5
    assert torch.equal(built._disturbed(latents, 4), disturbed)
    assert not torch.equal(built._disturbed(latents, 5) - latents, disturbed - latents)
    torch.testing.assert_close(built._disturbed(7 * latents, 4), 7 * disturbed)
    small = VAETask(task(latent_noise=0.5), seed=0)
    pixels = small.clips.crops(small.config.phases[0], 0)
    sample = small.module.encode(pixels, coding="whole").sample(generator(0, "latent noise", 0))
    error = small.module.decode(small._disturbed(sample, 0), coding="whole") - pixels
    torch.testing.assert_close(small.losses(0)["l1"], error.abs().mean())


def test_a_decoder_only_run_keeps_the_encoder_and_the_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = VAE(SMALL)
    write_vae(tmp_path / "start", SMALL, start.state_dict(), shard_size="5GB")
    run = TrainConfig(
        name="test",
        task=task(start=str(tmp_path / "start"), decoder_only=True),
        out=str(tmp_path / "run"),
        steps=2,
        optim=OptimConfig(lr=1e-2, warmup=0, ema=0),
    )
    trained = load_vae(train(run))
    assert trained.config.scaling_factor == 0.7
    before, after = start.state_dict(), trained.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)


def test_keep_holds_new_latents_to_those_of_the_start(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = VAE(SMALL)
    write_vae(tmp_path / "start", SMALL, start.state_dict(), shard_size="5GB")

    def moved(keep: float) -> tuple[float, float]:
        """Distance of latents after some steps, and the factor that was exported."""
        settings = task(start=str(tmp_path / "start"), keep=keep)
        run = TrainConfig(
            name="test", task=settings, out=str(tmp_path / f"{keep:g}"), steps=6,
            optim=OptimConfig(lr=3e-3, warmup=0, ema=0),
        )  # fmt: skip
        trained = load_vae(train(run))
        pixels = VAETask(settings, 1).clips.crops(settings.phases[0], 0)
        distance = trained.encode(pixels).mean - start.encode(pixels).mean
        return float(distance.square().mean()), trained.config.scaling_factor

    (free, own_factor), (kept, factor) = moved(0.0), moved(100.0)
    assert kept < 0.5 * free
    assert factor == 0.7 != own_factor
    first = VAETask(task(start=str(tmp_path / "start"), keep=3.0), 0).losses(0)
    assert float(first["moved"]) < 1e-9, "before any step latents are those of start"


@pytest.mark.parametrize("settings", [{}, {"start": "x", "decoder_only": True}])
def test_keep_needs_an_encoder_to_hold_and_one_to_hold_it_to(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="keep 1: holds a new encoder"):
        task(keep=1.0, **settings)


CRITIC = CriticConfig(width=4, most=4, stages=1, time_stages=1)


def gan_run(out: Path, **settings) -> TrainConfig:
    return TrainConfig(
        name="test",
        task=task(gan=Gan(start=2, critic=CRITIC), **settings),
        out=str(out),
        steps=4,
        optim=OptimConfig(lr=1e-3, warmup=0),
        critic=OptimConfig(lr=1e-2, warmup=0),
        save_every=1,
        log_every=1,
    )


def test_the_gan_loss_begins_at_its_step() -> None:
    with_gan, without = VAETask(task(gan=Gan(start=2, critic=CRITIC)), 0), VAETask(task(), 0)
    for step in (0, 1):
        assert with_gan.losses(step).keys() == without.losses(step).keys()
        assert torch.equal(with_gan.losses(step)["loss"], without.losses(step)["loss"])
    found, plain = with_gan.losses(2), without.losses(2)
    extra = found["gan_weight"] * found["gan"] + found["critic"]
    torch.testing.assert_close(found["loss"], plain["loss"] + extra)
    assert 0 < float(found["gan_weight"]) <= 1e4


def test_a_run_with_two_optimisers_resumes_exactly(tmp_path: Path) -> None:
    train(gan_run(tmp_path / "whole"))
    for stop in (1, 3, None):
        train(gan_run(tmp_path / "parts"), stop_at=stop)
    whole, parts = latest_state(tmp_path / "whole"), latest_state(tmp_path / "parts")
    assert all(torch.equal(whole["critic"][name], parts["critic"][name]) for name in whole["critic"])
    assert all(torch.equal(whole["module"][name], parts["module"][name]) for name in whole["module"])
    start = VAETask(gan_run(tmp_path).task, 0).critic.state_dict()
    assert any(not torch.equal(start[name], whole["critic"][name]) for name in start)  # it learns


def test_frame_rates_differ_from_step_to_step() -> None:
    """Pieces of 9 frames from a clip that lasts 9 frames at its usual rate: the faster, the less of it is seen."""
    phase = CropPhase(until=1, frames=9, size=16, batch=1, fps=(8, 16))
    mixed = VAETask(task().model_copy(update={"phases": (phase,)}), 0)
    usual = VAETask(task(), 0)
    same = [
        torch.equal(mixed.clips.crops(phase, s), usual.clips.crops(usual.config.phases[0], s))
        for s in range(4)
    ]
    assert not all(same) and mixed.clips.crops(phase, 0).shape == (1, 3, 9, 16, 16)
    assert [clip_frames(17, fps) for fps in (8, 12, 16)] == [17, 25, 33]


def test_an_older_file_of_the_same_run_is_the_same_run(tmp_path: Path) -> None:
    """A run of a recipe that was begun before a setting existed goes on."""
    run = recipe("world-vae").override([f"out={tmp_path}"])
    lines = [line for line in run.to_yaml().splitlines() if "gan:" not in line and "lpips" not in line]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    (tmp_path / "state-00000001").mkdir()
    check_same_config(run, tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        check_same_config(run.override(["task.kl=0.5"]), tmp_path)


@pytest.mark.parametrize("name", list(TABLE_1))
def test_every_column_of_table_1_compresses_as_it_says(name: str) -> None:
    column = TABLE_1[name]
    with torch.device("meta"):
        vae = VAE(variant_config(name))
        latents = vae.encode(torch.zeros(1, 3, 17, 32, 32), "whole").mean
        assert vae.decode(latents, "whole").shape == (1, 3, 17, 32, 32)
    assert latents.shape == (
        1,
        column.channels,
        16 // column.time + 1,
        32 // column.space,
        32 // column.space,
    )
    assert recipe(f"table1-{name}").task.vae == vae.config


def test_the_papers_two_stages_are_phases() -> None:
    """17 frames at 8 to 16 a second, then 161 frames."""
    stages = (
        CropPhase(until=2, frames=17, size=16, batch=1, fps=(8, 16)),
        CropPhase(until=3, frames=161, size=16, batch=1),
    )
    built = VAETask(VAETraining(vae=SMALL, phases=stages, size=16, frames=161), 0)
    assert [built.clips.crops(stage, 0).shape[2] for stage in stages] == [17, 161]


def test_a_round_of_phases_comes_again_and_again() -> None:
    """Phases listed out, one after another, and the same ones as a round are the same training."""
    still, crop, clip = ({"frames": f, "size": 16, "batch": 1} for f in (1, 9, 17))
    ends = [3, 4, 7, 9, 10, 13, 15, 16, 19, 21]
    listed = [
        CropPhase(until=end, **kind)
        for end, kind in zip(ends, [still, *[still, crop, clip] * 3], strict=True)
    ]
    whole = VAETraining(vae=SMALL, phases=tuple(listed), size=16)
    rounds = VAETraining(vae=SMALL, phases=tuple(listed[:4]), repeat_from=3, size=16)
    both = [VAETask(run, 0) for run in (whole, rounds)]
    for step in (9, 10, 13, 16, 20):
        of_listed, of_rounds = (built.losses(step)["loss"] for built in both)
        assert torch.equal(of_listed, of_rounds)
    kinds = [[run.phase_at(step).frames for step in range(21)] for run in (whole, rounds)]
    assert kinds[0] == kinds[1] == [1] * 3 + ([1] + [9] * 3 + [17] * 2) * 3
    once = VAETraining(vae=SMALL, phases=tuple(listed[:4]), size=16)
    assert [once.phase_at(step).frames for step in (8, 9, 99)] == [17, 17, 17]
    from_nothing = VAETraining(vae=SMALL, phases=tuple(listed[1:3]), repeat_from=0, size=16)
    assert [from_nothing.phase_at(step).frames for step in range(9)] == [1] * 4 + [9] * 3 + [1] * 2
    halved = [VAETask(run.changed(accumulation=2), 0) for run in (whole, rounds)]
    for call in (19, 20, 27, 33):  # two calls are one step
        of_listed, of_rounds = (built.losses(call)["loss"] for built in halved)
        assert torch.equal(of_listed, of_rounds)
    for wrong in (2, 9, 12):
        with pytest.raises(ConfigError, match=f"repeat_from {wrong}: phases end at"):
            VAETraining(vae=SMALL, phases=tuple(listed[:4]), repeat_from=wrong, size=16)


def test_parts_of_a_step_see_different_clips_in_the_same_phase() -> None:
    built = VAETask(task(accumulation=2, gan=Gan(start=1, critic=CRITIC)), 0)
    pieces = [built.clips.crops(built.config.phases[0], call) for call in range(3)]
    assert not torch.equal(pieces[0], pieces[1]) and not torch.equal(pieces[1], pieces[2])
    assert "gan" not in built.losses(1) and "gan" in built.losses(2)


def folder_of_clips(folder: Path) -> FolderData:
    """Four clips of 9 frames whose brightness is their number, one of 3 frames, a picture, a file that is no video."""
    folder.mkdir()
    for number in range(4):
        frames = np.full((9, 32, 48, 3), 40 * number + 20, np.uint8)
        Video(frames, 8).save(folder / f"{number}.mp4")
    Video(np.zeros((3, 32, 48, 3), np.uint8), 8).save(folder / "short.mp4")
    Image.fromarray(np.full((32, 48, 3), 255, np.uint8)).save(folder / "white.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    size = ClipSize(frames=9, least_frames=9, short_side=16)
    return FolderData(folder=str(folder), size=size, held_out=0, lost=0.5)


def test_pieces_of_a_folder_are_each_clip_once_an_epoch(tmp_path: Path, capsys) -> None:
    clips = FolderCrops(folder_of_clips(tmp_path / "clips"), seed=3)
    phase = CropPhase(until=1, frames=9, size=16, batch=7)
    found = clips.crops(phase, 0)
    assert found.shape == (7, 3, 9, 16, 16)
    said = capsys.readouterr().err
    assert torch.equal(found, FolderCrops(clips.data, seed=3).crops(phase, 0))
    brightness = {round(float(one.mean() * 127.5 + 127.5) / 40 - 0.5) for one in found}
    assert brightness == {0, 1, 2, 3}, "every clip that can be used stands in an epoch; pictures do not"
    assert said.count("left out broken.mp4") == 1 and said.count("left out short.mp4") == 1
    assert any(
        float(one.mean()) > 0.95 for one in clips.crops(CropPhase(until=1, frames=1, size=16, batch=7), 0)
    )


def test_a_folder_that_loses_too_much_or_is_too_short_stops(tmp_path: Path) -> None:
    data = folder_of_clips(tmp_path / "clips")
    phase = CropPhase(until=1, frames=9, size=16, batch=7)
    with pytest.raises(ConfigError, match="2 of 7 clips cannot be used"):
        FolderCrops(data.model_copy(update={"lost": 0.2}), seed=0).crops(phase, 0)
    long = data.model_copy(update={"size": ClipSize(frames=17, least_frames=9, short_side=16)})
    with pytest.raises(ConfigError, match="none of 7 clips has 17 frames"):
        FolderCrops(long, seed=0).crops(CropPhase(until=1, frames=17, size=16, batch=1), 0)
    with pytest.raises(ValueError, match="crops of frames 9 and size 32 cannot be cut"):
        VAETraining(vae=SMALL, phases=(CropPhase(until=1, frames=9, size=32, batch=1),), data=data)


def test_the_autoencoder_learns_from_a_folder(tmp_path: Path) -> None:
    """And is measured on clips of it."""
    data = folder_of_clips(tmp_path / "clips")
    run = TrainConfig(
        name="test", task=task(data=data), out=str(tmp_path / "run"), steps=2, measure_every=1, log_every=1,
        optim=OptimConfig(lr=1e-2, warmup=0, ema=0),
    )  # fmt: skip
    model = train(run)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["held_out_psnr"]) for row in rows if "held_out_psnr" in row)
    assert any("held_out_psnr" in row for row in rows) and load_vae(model).config.scaling_factor > 0


def test_no_clip_of_a_folder_goes_unsaid(tmp_path: Path, capsys) -> None:
    """Too short for a phase, named in the table and not there; nothing to measure with; rates that do not meet."""
    data = folder_of_clips(tmp_path / "clips")
    size = ClipSize(frames=17, least_frames=9, short_side=16)
    Video(np.zeros((17, 32, 48, 3), np.uint8), 8).save(tmp_path / "clips/long.mp4")
    clips = FolderCrops(data.model_copy(update={"size": size}), seed=0)
    clips.crops(CropPhase(until=1, frames=17, size=16, batch=8), 0)
    assert "0.mp4: 9 frames, too short for crops of 17" in capsys.readouterr().err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.mp4").write_bytes(b"no video")
    with pytest.raises(ConfigError, match="no clip to measure with"):
        FolderCrops(FolderData(folder=str(tmp_path / "bad"), lost=1), seed=0)
    slow = data.model_copy(update={"size": ClipSize(frames=9, least_frames=9, short_side=16, fps=4)})
    with pytest.raises(ValueError, match=r"but data\.size\.fps 4"):
        VAETraining(vae=SMALL, phases=(CropPhase(until=1, frames=9, size=16, batch=1),), data=slow)


def test_the_run_of_an_autoencoder_lies_outside_its_folder(tmp_path: Path) -> None:
    data = folder_of_clips(tmp_path / "clips")
    out = tmp_path / "clips/run"
    with pytest.raises(ConfigError, match="lies inside"):
        train(TrainConfig(name="test", task=task(data=data), out=str(out), steps=2))
    assert not out.exists()


def test_an_autoencoder_does_not_go_on_with_another_folder(tmp_path: Path) -> None:
    data = folder_of_clips(tmp_path / "clips")
    run = TrainConfig(name="test", task=task(data=data), out=str(tmp_path / "run"), steps=2)
    train(run, stop_at=1)
    (tmp_path / "clips/3.txt").write_text("words, which are not read here")
    Video(np.zeros((9, 32, 48, 3), np.uint8), 8).save(tmp_path / "clips/more.mp4")
    with pytest.raises(ConfigError, match="changed since the run's last state: 7 .* then, 8 "):
        train(run)
    (tmp_path / "clips/more.mp4").unlink()
    train(run)


def test_turned_hues_leave_grey_and_outlines_as_they_are() -> None:
    """A third of a turn makes red green; grey stays at every angle; what leaves the range is cut off."""
    colours = torch.tensor([[1.0, -1.0, -1.0], [0.2, 0.2, 0.2], [0.9, 0.9, -0.9]]).T
    third = turn_hues(colours, 120)
    torch.testing.assert_close(third, torch.tensor([[-1.0, 1.0, -1.0], [0.2, 0.2, 0.2], [-0.9, 0.9, 0.9]]).T)
    torch.testing.assert_close(turn_hues(turn_hues(colours * 0.5, 50), -50), colours * 0.5)
    assert turn_hues(colours, 60).abs().max() <= 1
    assert turn_hues(colours, 60)[:, 1].tolist() == pytest.approx([0.2, 0.2, 0.2])


def test_the_hues_of_a_share_of_the_crops_are_turned(tmp_path: Path) -> None:
    phase = CropPhase(until=1, frames=1, size=64, batch=32)
    plain, turned = WorldCrops(0, 64, 17).crops(phase, 0), WorldCrops(0, 64, 17, hues=0.5).crops(phase, 0)
    other = (plain - turned).abs().amax((1, 2, 3, 4)) > 0.05
    assert 8 <= int(other.sum()) <= 24
    covered = WorldCrops(0, 64, 17, hues=0.5).crops_and_objects(phase, 0)
    assert torch.equal(covered[0], turned)
    assert torch.equal(covered[1], WorldCrops(0, 64, 17).crops_and_objects(phase, 0)[1])
    grey = covered[1].expand_as(plain) == 0
    torch.testing.assert_close(turned[grey], plain[grey])


def test_hues_of_a_folder_are_turned_too(tmp_path: Path) -> None:
    """Its pictures are of one dull colour each, so nothing is cut off and their greyness stays."""
    for number in range(8):
        Image.new("RGB", (16, 16), (150, 110, 100 + 4 * number)).save(tmp_path / f"{number}.png")
    data = FolderData(folder=str(tmp_path), size=ClipSize(frames=9, short_side=16), held_out=0)
    phase = CropPhase(until=1, frames=1, size=16, batch=8)
    plain, turned = (FolderCrops(data, 0, hues=share).crops(phase, 0) for share in (0.0, 1.0))
    assert int(((plain - turned).abs().amax((1, 2, 3, 4)) > 0.02).sum()) >= 6
    torch.testing.assert_close(turned.mean(1), plain.mean(1))


def test_what_is_near_an_object_counts_as_it_does() -> None:
    """Three pixels round what covers a pixel; a decoder that paid less there filled corners."""
    built = VAETask(task(object_weight=4.0), seed=0)
    phase = built.config.phases[0]
    _, weight = built._drawn(phase, 0)
    objects = built.clips.crops_and_objects(phase, 0)[1]
    near = torch.zeros_like(objects)
    for down in range(-3, 4):
        for across in range(-3, 4):
            moved = torch.roll(torch.nn.functional.pad(objects, (3, 3, 3, 3)), (down, across), (-2, -1))
            near = torch.maximum(near, moved[..., 3:-3, 3:-3])
    torch.testing.assert_close(weight, 1 + 4 * near)


def test_crops_on_objects_show_some(tmp_path: Path) -> None:
    """Each has its thing within half a crop of the middle, unless the edge of the clip is in between."""
    clips = WorldCrops(1, 64, 17)
    anywhere, aimed = (
        clips.crops_and_objects(CropPhase(until=1, frames=9, size=32, batch=24, on_objects=on), 0)
        for on in (False, True)
    )
    shares = [float(objects.mean()) for _, objects in (anywhere, aimed)]
    assert aimed[1].amax((1, 2, 3, 4)).min() > 0.5
    assert shares[1] > 1.5 * shares[0]
    data = folder_of_clips(tmp_path / "clips")
    with pytest.raises(ValueError, match="no known scenes: leave data out, or set phases.0.on_objects=false"):
        VAETraining(vae=SMALL, phases=(CropPhase(until=1, frames=9, size=16, on_objects=True),), data=data)

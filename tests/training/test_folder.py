"""Training on a plain folder of clips and pictures: packed, all weights or an adapter, resumed in mid-epoch."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox.checkpoints import load_model
from cogvideox.checkpoints.diffusers import load_transformer
from cogvideox.checkpoints.lora import load_lora
from cogvideox.diffusion.timesteps import interval
from cogvideox.errors import ConfigError
from cogvideox.training.checkpoint.state import latest_state, save_state
from cogvideox.training.loop import train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.tasks.diffusion import DiffusionTask, DiffusionTraining
from cogvideox.training.tasks.diffusion_batches import velocity_errors
from cogvideox.training.tasks.diffusion_settings import LoraTuning
from cogvideox.training.tasks.folder import FolderData, check_folder, list_folder
from support.clip_folders import write_layout
from support.films import take, write
from support.folder_runs import run, settings
from support.models import write_model_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A toy model and a folder of ten samples: clips of 9 and 17 frames and pictures."""
    root = tmp_path_factory.mktemp("folder")
    write_model_folder(root / "toy")
    write_model_folder(root / "toy-i2v", "i2v")
    write_layout(root / "clips", "stems", count=7, frames=(9, 17), size=48, images=3)
    return root


def test_rows_mix_videos_and_pictures_and_the_loss_is_that_of_each_clip_alone(place):
    task = DiffusionTask(settings(place, accumulation=2), 0)
    assert any(len({task.data.train.clips.shape(one) for one in task.data.batches[n]}) > 1 for n in range(6))
    calls, errors = [task.losses(call) for call in (0, 1)], []
    for call in (0, 1):
        row, samples = task.data.of_micro_step(call)
        times = task.times(call, samples)
        for example, t in zip(task.data.train.training(row, samples), times, strict=True):
            errors.append(velocity_errors(task.module, task.schedule, [example], t[None]))
    mean = torch.stack([each["loss"] for each in calls]).mean()
    assert torch.allclose(mean, torch.cat(errors).mean(), atol=1e-5)
    assert calls[0]["clips"] == len(errors)


@pytest.mark.parametrize("rows", ["batch", "bucket", "pack"])
def test_every_clip_comes_once_an_epoch_and_held_out_ones_never(place, rows):
    more = {"batch": 2} if rows == "batch" else {}
    task = DiffusionTask(settings(place, data={"rows": rows}, **more), 0)
    count, names, call = len(task.data.train.clips), [], 0
    while len(names) < count:
        names += task.sample_names(call)
        call += 1
    assert sorted(names[:count]) == sorted(task.data.train.clips.name(one) for one in range(count))
    held = {task.data.held_out.clips.name(one) for one in range(len(task.data.held_out.clips))}
    assert held and not held & set(names)


def test_what_a_sample_is_does_not_depend_on_its_row(place):
    examples = DiffusionTask(settings(place), 0).data.train
    together = examples.training((0, 1, 2), range(7, 10))
    alone = [examples.training((one,), range(7 + one, 8 + one))[0] for one in range(3)]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.clean, b.clean) and torch.equal(a.noise, b.noise) and torch.equal(a.text, b.text)


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_with_the_next_clips(place, tmp_path):
    train(run(place, tmp_path / "whole"))
    train(run(place, tmp_path / "parts"), stop_at=1)
    train(run(place, tmp_path / "parts"), stop_at=3)
    result = train(run(place, tmp_path / "parts"))
    one, two = (latest_state(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(one["module"][name], value) for name, value in two["module"].items())
    ledgers = [(tmp_path / name / "ledger.jsonl").read_text() for name in ("whole", "parts")]
    assert ledgers[0] == ledgers[1] and ledgers[0].count("\n") >= 4
    model = load_model(result)
    assert (model.spec.frames, model.spec.height, model.spec.width) == (17, 32, 32)
    start = load_transformer(place / "toy").state_dict()
    assert any(
        not torch.allclose(value, start[n], atol=1e-3) for n, value in model.transformer.state_dict().items()
    )


def test_image_to_video_gives_the_first_frame_and_sometimes_drops_it(place):
    task = DiffusionTask(settings(place, "toy-i2v", condition_dropout=0.5), 0)
    drawn = [task.data.train.training((0,), range(n, n + 1))[0] for n in range(12)]
    empty = [not bool(one.condition.any()) for one in drawn]
    assert any(empty) and not all(empty)
    assert all(
        not bool(one.condition[:, 1:].any()) and one.condition.shape == one.clean.shape for one in drawn
    )
    assert torch.isfinite(task.losses(0)["loss"])
    dry = DiffusionTask(settings(place, "toy-i2v", condition_dropout=1.0), 0)
    assert not dry.data.train.training((0,), range(1))[0].condition.any()


def test_text_is_dropped_as_often_as_asked(place):
    examples = DiffusionTask(settings(place, text_dropout=0.3), 0).data.train
    empty = examples.texts([""])[0]
    dropped = [torch.equal(examples.training((0,), range(n, n + 1))[0].text, empty) for n in range(100)]
    assert 15 <= sum(dropped) <= 45


def test_recomputed_blocks_give_the_same_gradients(place):
    gradients = []
    for recompute in (False, True):
        task = DiffusionTask(settings(place, recompute=recompute), 0)
        task.losses(0)["loss"].backward()
        gradients.append({name: p.grad for name, p in task.module.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_loads_where_it_is_asked_for(place, tmp_path):
    tuning = LoraTuning(rank=4, alpha=8)
    fresh = DiffusionTask(settings(place, lora=tuning), 0)
    clip, text, t = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 8, 24), torch.tensor([500])
    start = load_transformer(place / "toy")
    with torch.no_grad():
        assert torch.equal(fresh.module(clip, text, t), start(clip, text, t))
    result = train(run(place, tmp_path / "lora", lora=tuning))
    state = latest_state(tmp_path / "lora")
    assert all("lora_" in name for name in state["module"])
    base = load_model(place / "toy")
    load_lora(base, result)
    tuned = DiffusionTask(settings(place, lora=tuning), 0).module
    tuned.load_state_dict(state["average"]["values"], strict=False)
    with torch.no_grad():
        out = base.transformer(clip, text, t)
        assert torch.allclose(out, tuned(clip, text, t), atol=1e-6)
        assert not torch.allclose(out, start(clip, text, t), atol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_adapter_goes_on_from_a_file(place, tmp_path, name):
    """Muon takes all weights of an adapter, which are matrices in blocks."""
    optim = OptimConfig(name=name, lr=1e-2, warmup=0, ema=0)
    first = train(
        run(place, tmp_path / "one", lora=LoraTuning(rank=4, alpha=8)).model_copy(update={"optim": optim})
    )
    tuning = LoraTuning(start=str(first))
    on = DiffusionTask(settings(place, lora=tuning), 0).module
    base = load_model(place / "toy")
    load_lora(base, first)
    clip, text, t = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 8, 24), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(on(clip, text, t), base.transformer(clip, text, t))
    moved = {name for name, p in on.named_parameters() if p.requires_grad}
    assert moved and all("lora_" in name for name in moved)
    second = run(place, tmp_path / "two", lora=tuning)
    train(second, stop_at=1)
    file = first / "pytorch_lora_weights.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(
        ConfigError, match="task.lora.start: the network there is not the one of the run's last"
    ):
        train(second)
    file.write_bytes(kept)
    second = train(second)
    before, after = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    with pytest.raises(ConfigError, match="task.start .*holds an adapter; name the model.*task.lora.start="):
        DiffusionTask(settings(place, start=str(first)), 0)


def test_a_model_keeps_the_precision_of_the_one_it_was_started_from(place, tmp_path):
    shutil.copytree(place / "toy", tmp_path / "toy")
    for part in ("transformer", "vae", "text_encoder"):
        for file in (tmp_path / "toy" / part).glob("*.safetensors"):
            save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    (tmp_path / "toy" / "cogvideox.json").unlink(missing_ok=True)
    result = train(
        run(
            place, tmp_path / "run", steps=1, **dict.fromkeys(("start", "vae", "text"), str(tmp_path / "toy"))
        )
    )
    for part in ("transformer", "vae", "text_encoder"):
        file = next((result / part).glob("*.safetensors"))
        assert {value.dtype for value in load_file(file).values()} == {torch.bfloat16}
    assert load_model(result).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here_is_refused_and_a_cpu_is_taken_by_itself(place):
    with pytest.raises(ConfigError, match="device 'cuda': not available here"):
        settings(place, device="cuda").build(0)
    task = settings(place).build(0)
    assert next(task.module.parameters()).device.type == "cpu"
    assert task.module.transformer_blocks[0].attn1.attn_fn.kernel.name == "torch-float32"


def test_an_adapter_learns_on_a_base_of_one_byte_a_weight_and_resumes(place, tmp_path):
    pytest.importorskip("torchao")
    tuning = LoraTuning(rank=4, base="int8")
    train(run(place, tmp_path / "whole", steps=2, lora=tuning))
    train(run(place, tmp_path / "parts", steps=2, lora=tuning), stop_at=1)
    train(run(place, tmp_path / "parts", steps=2, lora=tuning))
    one, two = (latest_state(tmp_path / name)["module"] for name in ("whole", "parts"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert any(name.endswith("lora_B.default") and bool(value.any()) for name, value in one.items())


def test_too_many_clips_that_cannot_be_used_stop_the_run_by_name(place, tmp_path, capsys):
    write_layout(tmp_path / "set", "stems", count=4)
    (tmp_path / "set" / "clip1.txt").unlink()
    broken = settings(place, data={"held_out": 0})
    broken = broken.model_copy(
        update={"data": broken.data.model_copy(update={"folder": str(tmp_path / "set")})}
    )
    with pytest.raises(ConfigError, match="1 of 4 clips cannot be used.*data doctor"):
        DiffusionTask(broken.model_copy(update={"cache": str(tmp_path / "cache")}), 0)
    assert "left out clip1.mp4: no caption" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists(), "told before anything is encoded"
    kept = broken.model_copy(update={"data": broken.data.model_copy(update={"lost": 0.5})})
    assert len(DiffusionTask(kept, 0).data.train.clips) == 3


def test_a_clip_that_fits_no_row_is_said(place):
    with pytest.raises(ConfigError, match=r"task.data.budget 10: \S+ alone has \d+ tokens"):
        DiffusionTask(settings(place, data={"budget": 10}), 0)


def test_an_adapter_needs_a_model_to_stand_on():
    with pytest.raises(ConfigError, match="give a model to start from"):
        DiffusionTraining(lora=LoraTuning())


def test_raw_films_are_curated_and_train_an_adapter_in_one_run(place, tmp_path):
    for number in range(3):
        write(tmp_path / "films" / f"{number}.mp4", take(number, 24))
    (tmp_path / "films" / "broken.mp4").write_bytes(b"no film")
    (tmp_path / "films" / "1.txt").write_text("a drifting texture")
    data = {"videos": str(tmp_path / "films"), "folder": str(tmp_path / "curated"), "recipe": "tiny"}
    data |= {"caption": "a film clip", "held_out": 0}
    config = run(
        place, tmp_path / "run", steps=2, data=data, lora=LoraTuning(rank=2), cache=str(tmp_path / "cache")
    )
    result = train(config)
    assert (result / "pytorch_lora_weights.safetensors").is_file()
    shard = tmp_path / "curated" / "shards" / "clips-00000.tar"
    made = shard.stat().st_mtime_ns
    task = DiffusionTask(config.task, 0)
    entries = list_folder(config.task.data).entries
    assert sorted(entry.caption for entry in entries) == ["a drifting texture", "a film clip", "a film clip"]
    assert len(task.data.train.clips) == 3 and shard.stat().st_mtime_ns == made
    dropped = (tmp_path / "curated" / "dropped.jsonl").read_text()
    assert dropped.count("\n") == 1 and "broken.mp4" in dropped


def test_films_of_which_nothing_is_kept_stop_the_run(tmp_path):
    write(tmp_path / "films" / "small.mp4", take(1, 24))
    data = FolderData(videos=str(tmp_path / "films"), folder=str(tmp_path / "curated"))
    with pytest.raises(ConfigError, match="0 of 1 clips of 1 videos kept by recipe 'default'"):
        list_folder(data)


@pytest.mark.parametrize("inside", ["", "runs/one"])
def test_a_run_does_not_write_where_it_reads_clips(place, tmp_path, inside):
    """Its sample videos would be clips after a resume."""
    clips = place / "clips"
    before = sorted(clips.rglob("*"))
    (tmp_path / "link").symlink_to(clips)
    for out in (clips / inside, tmp_path / "link" / inside):
        with pytest.raises(
            ConfigError, match="lies inside .*clips, so its sample videos would be trained on"
        ):
            train(run(place, out))
    assert sorted(clips.rglob("*")) == before
    films = FolderData(folder=str(tmp_path / "not yet"), videos=str(clips))
    with pytest.raises(ConfigError, match="lies inside"):
        check_folder(films, clips / "run")
    for folder in ("https://example.org/clips", str(tmp_path / "not yet")):
        check_folder(FolderData(folder=folder), tmp_path / "run")


def changed(clips: Path, how: str) -> None:
    """One clip less, one more, or other words for one."""
    if how == "removed":
        (clips / "clip0.mp4").unlink()
        (clips / "clip0.txt").unlink()
    elif how == "added":
        shutil.copy(clips / "clip0.mp4", clips / "more.mp4")
        shutil.copy(clips / "clip0.txt", clips / "more.txt")
    elif how == "filmed otherwise":
        shutil.copy(clips / "clip1.mp4", clips / "clip0.mp4")
    else:
        (clips / "clip0.txt").write_text("other words")


@pytest.mark.parametrize(
    ("how", "now"), [("removed", 9), ("added", 11), ("said otherwise", 10), ("filmed otherwise", 10)]
)
def test_a_run_does_not_go_on_with_another_folder(place, tmp_path, how, now):
    clips, out = tmp_path / "clips", tmp_path / "run"
    shutil.copytree(place / "clips", clips)
    config = run(place, out, data={"folder": str(clips), "held_out": 0.2})
    train(config, stop_at=1)
    kept = latest_state(out)["data"]
    assert kept["train"] + kept["held_out"] == 10
    changed(clips, how)
    with pytest.raises(
        ConfigError, match="changed since.*samples then.*put the clips and captions back"
    ) as told:
        train(config)
    counts = [int(n) for n in re.findall(r"(\d+) \+ (\d+) held", str(told.value)) for n in n]
    assert (sum(counts[:2]), sum(counts[2:])) == (10, now)
    shutil.rmtree(clips)
    shutil.copytree(place / "clips", clips)
    assert train(config) == out / "model"


@pytest.mark.parametrize(("setting", "part", "lora"), [("vae", "vae", None), ("text", "text_encoder", None),
                                                      ("start", "transformer", LoraTuning(rank=2))])  # fmt: skip
def test_a_run_does_not_go_on_with_another_frozen_network(place, tmp_path, setting, part, lora):
    shutil.copytree(place / "toy", tmp_path / "toy")
    config = run(place, tmp_path / "run", lora=lora, **{setting: str(tmp_path / "toy")})
    train(config, stop_at=1)
    file = next((tmp_path / "toy" / part).glob("*.safetensors"))
    whole = load_file(file)
    save_file({name: value * 1.5 for name, value in whole.items()}, file)
    with pytest.raises(
        ConfigError, match=f"task.{setting}: the network there is not the one of the run's last"
    ):
        train(config)
    save_file(whole, file)
    assert train(config) == tmp_path / "run/model"


def test_a_step_covers_the_times_whatever_rows_it_is_made_of(place):
    task = DiffusionTask(settings(place, accumulation=3), 0)
    total = task.schedule.config.num_train_timesteps
    for step in range(4):
        rows = [task.data.of_micro_step(call) for call in range(3 * step, 3 * step + 3)]
        times = torch.cat([task.times(3 * step + n, samples) for n, (_, samples) in enumerate(rows)]).sort()[
            0
        ]
        assert len({len(samples) for _, samples in rows}) >= 1 and len(times) > 3
        parts = [interval(part, len(times), total) for part in range(len(times))]
        assert all(int(t) in part for t, part in zip(times, parts, strict=True)), times


def test_a_state_that_does_not_say_what_it_read_is_gone_on_from(place, tmp_path):
    config = run(place, tmp_path / "run", steps=2)
    train(config, stop_at=1)
    state = latest_state(tmp_path / "run")
    state.pop("data")
    save_state(tmp_path / "run", state.pop("step"), state)
    assert train(config) == tmp_path / "run" / "model"

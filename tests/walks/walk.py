"""The whole system in miniature: world, a folder of clips, VAE, packed progressive transformer, videos, judge.

python tests/walks/walk.py          minutes on two cores; `make walk`

The world is cut down to a few scenes, which the models then know by heart: what is shown is that every part works with
every other, not that they are good. It is done twice, and the second time must give the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cogvideox.checkpoints import load_model
from cogvideox.data.clips import ClipSize
from cogvideox.data.doctor import diagnose
from cogvideox.generation import GenerateOptions, generate
from cogvideox.presets import get_preset
from cogvideox.training.loop import TrainConfig, train
from cogvideox.training.optim import OptimConfig
from cogvideox.training.sequence import train_in_order
from cogvideox.training.stages import DiffusionRun, StagedRun, TrainingStage
from cogvideox.training.tasks.diffusion import DiffusionTraining
from cogvideox.training.tasks.folder import FolderData
from cogvideox.training.tasks.vae import CropPhase, VAETraining
from cogvideox.vae import VAEConfig
from cogvideox.video import Video, read_video
from cogvideox.world import caption, check_facts, facts, render, sample_scene


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    scenes: int = 4
    stills: int = 300  # steps of the autoencoder on pictures, which cost a quarter of a clip
    vae_steps: int = 440
    low_steps: int = 80
    high_steps: int = 160
    steps: int = 12  # of a sampler


def write_folder(folder: Path, scale: Scale) -> None:
    """Curation's place is taken by the world itself: clips of two lengths and pictures, captions, scores."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(scale.scenes):
        scene = sample_scene(0, number, "train")
        text = caption(scene, 0, number)
        for frames in (9, 17):
            Video(render(scene, size=64, frames=frames), 8).save(folder / f"{number}-{frames}.mp4")
            rows.append({"file_name": f"{number}-{frames}.mp4", "caption": text, "score": number})
        Image.fromarray(render(scene, size=64, frames=1)[0]).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "caption": text, "score": number})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_vae(out: Path, clips: Path, scale: Scale) -> Path:
    """Pictures, then short pieces."""
    phases = (
        CropPhase(until=scale.stills, frames=1, size=64, batch=4),
        CropPhase(until=scale.vae_steps, frames=9, size=64, batch=2),
    )
    tiny = get_preset("tiny").vae
    vae = VAEConfig(**(tiny.model_dump() | {"block_out_channels": (16, 32, 64, 64)}))
    size = ClipSize(frames=17, least_frames=9, short_side=64)
    data = FolderData(folder=str(clips), size=size, held_out=0)
    task = VAETraining(vae=vae, phases=phases, data=data, l1=0.3, l2=10)  # squares: a small shape counts too
    optim = OptimConfig(lr=2e-3, warmup=5, ema=0.98)
    run = TrainConfig(name="walk-vae", task=task, out=str(out), steps=scale.vae_steps, optim=optim, precision="fp32",
                      log_every=1, save_every=50, measure_every=10**6)  # fmt: skip
    return train(run)


def train_transformer(out: Path, clips: Path, vae: Path, scale: Scale) -> Path:
    """Two stages of packed rows, pictures and clips together."""
    preset = get_preset("tiny")
    task = DiffusionTraining(
        transformer=preset.transformer.with_arm(patch_size=2), schedule=preset.schedule, vae=str(vae), text="tiny",
        cache=str(out / "cache"), data=FolderData(folder=str(clips), held_out=0),
    )  # fmt: skip
    optim = OptimConfig(name="muon", muon_lr=0.02, ema=0.95)
    base = DiffusionRun(name="walk", out=str(out), task=task, optim=optim, precision="bf16", log_every=1,
                        save_every=50, measure_every=10**6)  # fmt: skip
    low, high = (ClipSize(frames=17, least_frames=9, short_side=side) for side in (32, 64))
    stages = (
        TrainingStage(name="32", steps=scale.low_steps, size=low, lr=2e-3, warmup=10, budget=600),
        TrainingStage(
            name="64", steps=scale.high_steps, size=high, lr=1e-3, warmup=10, budget=1200, rotary="slice"
        ),
    )
    return train_in_order(StagedRun(base=base, stages=stages))


def judged(model_folder: Path, out: Path, scale: Scale) -> tuple[float, float]:
    """(share of facts that the videos show, share that videos of other prompts show: chance)."""
    model, right, chance = load_model(model_folder), [], []
    scenes = [sample_scene(0, number, "train") for number in range(scale.scenes)]
    for number, scene in enumerate(scenes):
        video = generate(
            model,
            GenerateOptions(prompt=caption(scene, 0, number), seed=number, steps=scale.steps, guidance=1.5),
        )
        video.save(out / f"{number}.mp4")
        right += _held(video.frames, scene)
        for other in scenes[:number] + scenes[number + 1 :]:
            chance += _held(video.frames, other)
    return _mean(right), _mean(chance or [0.0])


def _held(frames: np.ndarray, scene) -> list[float]:
    return [float(finding.holds) for finding in check_facts(frames, facts(scene)).findings]


def walk(out: Path, scale: Scale) -> dict[str, Any]:
    """All of it; what it found, and a digest of everything it left behind."""
    write_folder(out / "clips", scale)
    report = diagnose(out / "clips", ClipSize(frames=17, short_side=64), budget=1200, words=32)
    assert not report.dropped and len(report.kept) == 3 * scale.scenes
    vae = train_vae(out / "vae", out / "clips", scale)
    model = train_transformer(out / "transformer", out / "clips", vae, scale)
    right, chance = judged(model, out / "videos", scale)
    digest = hashlib.sha256()
    for file in sorted([*model.rglob("*.safetensors"), *(out / "transformer").rglob("ledger.jsonl")]):
        digest.update(file.read_bytes())
    for file in sorted((out / "videos").glob("*.mp4")):
        digest.update(np.ascontiguousarray(read_video(file).frames).tobytes())
    fell = {
        name: _fell(folder)
        for name, folder in (("vae", out / "vae"), ("transformer", out / "transformer/1-32"))
    }
    return {"facts": right, "chance": chance, "loss": fell, "digest": digest.hexdigest()}


def _fell(run: Path) -> float:
    """The mean loss of a run's last reports over that of its first."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    return _mean(losses[-3:]) / _mean(losses[:3])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Walk twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/walk"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shutil.rmtree(args.out, ignore_errors=True)
    found = []
    for name in ("one", "two"):
        start = time.monotonic()
        found.append(walk(args.out / name, Scale()))
        print(f"walk {name}: {found[-1]}, {time.monotonic() - start:.0f} s", flush=True)
    assert found[0]["digest"] == found[1]["digest"], "the second walk gave other bits"
    assert max(found[0]["loss"].values()) < 0.9, "a loss did not fall"
    assert found[0]["facts"] > found[0]["chance"] + 0.1, "the judge finds no more than chance"


if __name__ == "__main__":
    main()

"""Digests of what the shipped models make and of what each recipe trains: two versions of the code can be compared.

    python benchmarks/same_numbers.py --out before.json --states states      # in the version before
    python benchmarks/same_numbers.py --out after.json --states states       # in the version after, same machine
    python benchmarks/same_numbers.py --compare before.json after.json    # names differences; exit code 1

Some minutes on one thread. Written: frames of 24 videos and pictures, the weights and optimiser states after 10 and
20 steps of each recipe at a small size, the losses of these steps, the result of ten steps from the states in
``--states`` (written there by the first version), and the digest of tests/walks/walk.py at its smallest. It uses only
commands, settings and public names that stay; settings may have their old names, which the newer version must read. A
recipe whose own settings changed between the versions is named as different.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

import cogvideox

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAVE = 20, 10

SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS = ("red", "green", "blue", "yellow")
PROMPTS = [
    f"a {c} {s} moves {'to the right' if i % 2 else 'up'}" for i, c in enumerate(COLOURS) for s in SHAPES
]
VIDEOS: dict[str, dict[str, Any]] = {
    f"{number:02d} {prompt}": {"prompt": prompt, "seed": number, "steps": 3}
    for number, prompt in enumerate(PROMPTS)
}
VIDEOS |= {
    "dpm": {"prompt": PROMPTS[0], "seed": 100, "steps": 4, "sampler": "dpm"},
    "dpm-ode": {"prompt": PROMPTS[1], "seed": 101, "steps": 4, "sampler": "dpm-ode", "guidance_schedule": "cosine"},
    "tiled": {"prompt": PROMPTS[2], "seed": 102, "steps": 2, "height": 96, "width": 96, "vae_coding": "tiled",
              "tile_height": 48, "tile_width": 48},
    "one picture": {"prompt": PROMPTS[3], "seed": 103, "steps": 2, "frames": 1},
    "long": {"prompt": PROMPTS[4], "seed": 104, "steps": 2, "frames": 29, "guidance_pair": "sequence"},
}  # fmt: skip
FROM_IMAGE = {
    "i2v": {"prompt": PROMPTS[0], "seed": 200, "steps": 3},
    "i2v wave": {
        "prompt": PROMPTS[7],
        "seed": 201,
        "steps": 4,
        "guidance_schedule": "wave",
        "sampler": "dpm",
    },
}
WORLD = ["task.vae=tiny", "task.text=tiny", "task.clips=8", "task.batch=2", "task.size=32", "task.frames=9"]
GO_ON = [*WORLD, "task.start=tiny", "optim.name=adamw"]
FOLDER = ["task.data.folder=clips", "task.start=tiny", "task.parts=2", "task.data.held_out=0"]
TABLE_1 = ["task.phases=[{until: 20, frames: 17, size: 32, batch: 1, fps: [8, 16]}]"]
RECIPES: dict[str, list[str]] = {
    "world-text": ["task.scenes=200", "task.batch=16"],
    "world-t2v": [*WORLD, "task.transformer.num_layers=1"],  # muon takes seconds for each layer on a CPU
    "world-t2v-fine": GO_ON,
    "world-i2v": GO_ON,
    "world-captioner": ["task.clips=24", "task.batch=4", "task.held_out=2"],
    "world-lpips": ["task.batch=4"],
    "labels": ["task.films=films", "task.held_out=[2.mp4]", "task.samples=36", "task.checks=12", "task.tests=12",
               "task.width=16", "task.batch=8"],
    "finetune": FOLDER,
    "lora": FOLDER,
    "films-lora": ["task.data.films=films", "task.data.recipe=tiny", "task.data.folder=curated",
                   "task.data.caption=a red circle", "task.data.held_out=0"],
    "table1-base": TABLE_1,
    "table1-e": TABLE_1,
    "table1-b-lpips": TABLE_1,
    "table1-b-gan": [*TABLE_1, "task.gan.start=5"],
}  # fmt: skip
FILES: dict[str, dict[str, Any]] = {
    "vae": {  # in place of world-vae, whose settings changed
        "name": "vae",
        "out": "x",
        "task": {"kind": "vae",
                 "vae": {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4},
                 "phases": [{"until": 10, "frames": 1, "size": 32, "batch": 2},
                            {"until": 20, "frames": 9, "size": 32, "batch": 1, "coding": "chunked"}]},
        "optim": {"lr": 2e-3, "ema": 0.9},
    },
    "summariser": {
        "name": "summariser",
        "out": "x",
        "task": {"kind": "summariser", "data": "captions.jsonl", "width": 32, "layers": 1, "vocabulary": 60,
                 "batch": 4},
    },
    "i2v-buckets": {
        "name": "finetune",
        "out": "x",
        "task": {"kind": "diffusion", "start": "tiny-i2v", "recompute": True, "intervals": 4, "cache": "cache/i2v",
                 "data": {"folder": "clips", "rows": "bucket", "held_out": 0.0, "budget": 600}},
        "optim": {"lr": 1e-3, "ema": 0.9, "warmup": 2},
        "adding": "exact",
    },
}  # fmt: skip
SMALL = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16, "out_channels": 16,
         "time_embed_dim": 32, "text_embed_dim": 128, "max_text_seq_length": 32, "sample_height": 8, "sample_width": 8,
         "sample_frames": 17, "use_rotary_positional_embeddings": True}  # fmt: skip
STAGES = {
    "base": {
        "name": "world-stages", "out": "x", "precision": "fp32", "log_every": 1, "save_every": SAVE,
        "measure_every": 1000, "optim": {"name": "muon", "muon_lr": 0.02, "ema": 0.9},
        "task": {"kind": "diffusion", "vae": "tiny", "text": "tiny", "cache": "cache/stages", "schedule": {},
                 "transformer": SMALL, "data": {"folder": "clips", "held_out": 0.0}},
    },
    "stages": [
        {"name": "32", "steps": 10, "size": {"fps": 8, "frames": 17, "least_frames": 9, "short_side": 32},
         "lr": 1.5e-3, "budget": 300, "parts": 1},
        {"name": "64", "steps": 10, "size": {"fps": 8, "frames": 17, "least_frames": 9, "short_side": 64},
         "lr": 1e-3, "budget": 1200, "parts": 2, "rotary": "slice", "best": 0.7},
    ],
}  # fmt: skip


def sha(*values: bytes) -> str:
    """The first 16 digits of a SHA-256."""
    return hashlib.sha256(b"".join(values)).hexdigest()[:16]


def tensors_digest(folder: Path) -> dict[str, str]:
    """Digests of all tensors below a folder: with their names, and of the values alone (names may have changed)."""
    named, values = [], []
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for key in sorted(opened.keys()):
                tensor = opened.get_tensor(key)
                raw = (
                    tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                    if tensor.numel()
                    else b""
                )
                one = sha(str((tensor.dtype, tuple(tensor.shape))).encode(), raw)
                named.append(f"{key}={one}")
                values.append(one)
    return {
        "named": sha(*(each.encode() for each in sorted(named))),
        "values": sha(*(v.encode() for v in sorted(values))),
    }


def frames_of(model: Any, settings: dict[str, Any]) -> np.ndarray:
    """Frames of one video, made by the public function."""
    made = cogvideox.generate(model, cogvideox.GenerateOptions.parse(settings))
    return np.ascontiguousarray(getattr(made, "video", made).frames)


def videos(image: Path) -> dict[str, str]:
    """Digests of the frames of the shipped models."""
    result = {}
    for name, cases in (
        ("tiny", VIDEOS),
        ("tiny-i2v", {k: v | {"image": str(image)} for k, v in FROM_IMAGE.items()}),
    ):
        model = cogvideox.load(name)
        for case, settings in cases.items():
            frames = frames_of(model, settings)
            result[f"video/{name}/{case}"] = f"{sha(frames.tobytes())} {frames.shape}"
    return result


def write_inputs(folder: Path) -> None:
    """Clips with captions and scores, films and captions of frames that the recipes read."""
    command(folder, "world", "render", "--n", "6", "--out", "clips", "--seed", "5")
    lines = []
    for number, clip in enumerate(sorted((folder / "clips").glob("*.mp4"))):
        lines.append({"file_name": clip.name, "caption": PROMPTS[number], "score": number})
    for left in (folder / "clips").glob("*.json"):
        left.unlink()
    (folder / "clips" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "films").mkdir()
    for number in range(3):
        source = np.random.default_rng(number)
        texture = np.asarray(
            Image.fromarray(source.integers(0, 255, (8, 24, 3), np.uint8)).resize((384, 128), 3)
        )
        frames = np.stack([np.roll(texture, -(2 + number) * t, 1)[:, :192] for t in range(32)])
        cogvideox.Video(frames, 8).save(folder / "films" / f"{number}.mp4")
        (folder / "films" / f"{number}.json").unlink(missing_ok=True)
    texts = []
    for prompt in PROMPTS:
        for end in ("slowly", "quickly", "again"):
            notes = [
                {"kind": "frame", "text": text, "author": "a", "moments": [at]}
                for at, text in ((0.5, prompt), (1.5, end))
            ]
            texts.append({"notes": [*notes, {"kind": "dense", "text": f"{prompt} {end}.", "author": "b"}]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))


def command(folder: Path, *words: str) -> str:
    """Run the command line in a folder; '' when it succeeded, else its last lines."""
    run = subprocess.run(
        [sys.executable, "-m", "cogvideox", *words], cwd=folder, capture_output=True, text=True
    )
    return "" if run.returncode == 0 else f"exit code {run.returncode}: {run.stderr.strip()[-400:]}"


def training(folder: Path, name: str, out: str) -> str:
    """Train a recipe for STEPS steps, or what is left of them."""
    small = [f"steps={STEPS}", f"save_every={SAVE}", "log_every=1", "measure_every=1000"]
    if name in RECIPES:
        return command(folder, "train", name, "--out", out, *small, "precision=fp32", *RECIPES[name])
    key = "base.out" if name == "world-stages" else "out"
    values = STAGES if name == "world-stages" else FILES[name]
    (folder / f"{name}.yaml").write_text(json.dumps(values))  # JSON is YAML
    return command(folder, "train", f"{name}.yaml", f"{key}={out}", *(small if name in FILES else []))


def trained(out: Path) -> dict[str, Any]:
    """Digests of the states, the result, the losses and the samples of a run."""
    result: dict[str, Any] = {}
    for state in sorted(out.rglob("state-*")):
        result |= {f"{state.relative_to(out)}/{kind}": value for kind, value in tensors_digest(state).items()}
    for model in sorted(out.rglob("model")):
        result |= {f"{model.relative_to(out)}/{kind}": value for kind, value in tensors_digest(model).items()}
    for file in sorted(out.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        losses = [(line["step"], line["loss"], line.get("grad_norm")) for line in lines if "loss" in line]
        result[f"{file.relative_to(out)}/losses"] = f"{sha(json.dumps(losses).encode())} {len(losses)} steps"
    for file in sorted(out.rglob("ledger.jsonl")):
        result[f"{file.relative_to(out)}"] = sha(file.read_bytes())
    return result


def runs(folder: Path, states: Path | None, names: list[str], out: Path, result: dict[str, Any]) -> None:
    """Train each recipe from its beginning, and on from the states of an earlier version; digests into ``result``."""
    for name in names:
        start = time.monotonic()
        failed = training(folder, name, f"runs/{name}")
        result |= {f"train/{name}/{key}": value for key, value in trained(folder / "runs" / name).items()}
        if failed:
            result[f"train/{name}"] = failed
        kept = states / "runs" / name if states else None
        if kept and kept.exists():
            resumed = folder / "resumed" / name
            shutil.copytree(kept, resumed)
            failed = training(folder, name, f"resumed/{name}")
            for key, value in trained(resumed).items():
                result[f"resume/{name}/{key}"] = value
            if failed:
                result[f"resume/{name}"] = failed
        elif kept and not failed:
            keep_half(folder / "runs" / name, kept)
        print(f"{name}: {failed or 'ok'}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


def keep_half(run: Path, kept: Path) -> None:
    """Copy a run as it was after its first SAVE steps: without its last state, its result and what came after."""
    shutil.copytree(run, kept)
    for last in [*kept.rglob(f"state-*{STEPS}"), *kept.rglob("model")]:
        shutil.rmtree(last)
    for metrics in kept.rglob("metrics.jsonl"):
        lines = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= SAVE]
        metrics.write_text("".join(line + "\n" for line in lines))
    if (kept / "lineage.json").exists():  # stages: the second begins anew from the first one's result
        shutil.rmtree(kept)
        shutil.copytree(run, kept)
        second = sorted(path for path in kept.iterdir() if path.is_dir())[-1]
        shutil.rmtree(second)


def walk() -> dict[str, Any]:
    """The digest of the walk through the whole system, at a small scale."""
    code = (
        "import json, sys, tempfile, pathlib\n"
        "from walks.walk import Scale, walk\n"
        "scale = Scale(scenes=2, stills=3, vae_steps=6, low_steps=2, high_steps=2, steps=3)\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    print(walk(pathlib.Path(folder), scale)['digest'])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True)
    return {"walk": run.stdout.strip() or run.stderr.strip()[-400:]}


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each difference; a resumed run must also equal the one that was not interrupted."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if key.startswith("resume/"):
            one = before.get(key.replace("resume/", "train/", 1), "nothing")
        if one != other:
            lines.append(f"{key}: {one} before, {other} after")
    return lines


def main() -> int:
    """Write the digests, or compare two files of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("same_numbers.json"))
    parser.add_argument(
        "--states", type=Path, help="folder of training states: written if absent, else resumed from"
    )
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--only", nargs="*", help="videos, walk or names of recipes; default: all")
    arguments = parser.parse_args()
    if arguments.compare:
        lines = compare(*(json.loads(file.read_text()) for file in arguments.compare))
        print("\n".join(lines) or "no difference")
        return bool(lines)
    torch.set_num_threads(1)
    only = arguments.only or ["videos", "walk", *RECIPES, *FILES, "world-stages"]
    states = arguments.states.resolve() if arguments.states else None
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if states and states.exists():
            for kept in ("clips", "films"):
                shutil.copytree(states / kept, folder / kept)
            shutil.copy(states / "captions.jsonl", folder)
        else:
            write_inputs(folder)
            if states:
                shutil.copytree(folder, states)
        names = [one for one in only if one not in ("videos", "walk")]
        if "videos" in only:
            source = np.random.default_rng(3).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(source).resize((64, 64), 2).save(folder / "image.png")
            result |= videos(folder / "image.png")
        if "walk" in only:
            result |= walk()
        runs(folder, states, names, arguments.out, result)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    failed = [f"{key}: {value}" for key, value in result.items() if "exit code" in str(value)]
    print(f"{len(result)} digests in {arguments.out}", *failed, sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

"""What an arm's videos are worth: distance to truth (Fig. 8a to c), facts of the prompt (8d), sharpness (9)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cogvideox.checkpoints import load_model
from cogvideox.evaluation.fvd import features_of, frechet
from cogvideox.files.atomic import write_json
from cogvideox.generation import GenerateOptions, generate
from cogvideox.perception.world_features import world_features
from cogvideox.video import Video
from cogvideox.world import Prompt, check_facts, held_out_prompts, render

STEPS, GUIDANCE = 10, 2.5
JUDGED = 64  # pixels: the size the judge and the features know


def scores(model: Path, videos: int) -> dict[str, float]:
    """``fvd`` and ``facts`` of a model folder on the first held-out prompts, kept beside it."""
    kept = model.parent / f"videos-{videos}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    prompts = held_out_prompts()[:videos]
    made = made_by(model, prompts)
    truth = [Video(render(prompt.scene, size=made[0].height), 8.0) for prompt in prompts]
    made, truth = ([video.cover(JUDGED, JUDGED) for video in side] for side in (made, truth))
    sides = [features_of(side, world_features()) for side in (made, truth)]
    held = [
        check_facts(video.frames, prompt.checks).share for video, prompt in zip(made, prompts, strict=True)
    ]
    found = {"fvd": frechet(*sides), "facts": float(np.mean(held))}
    write_json(kept, found, overwrite=True)
    return found


def sharpness(model: Path, videos: int) -> float:
    """Mean step between neighbouring pixels of what a model makes, in grey levels."""
    steps = []
    for video in made_by(model, held_out_prompts()[:videos]):
        frames = video.frames.astype(np.float32)
        steps += [np.abs(np.diff(frames, axis=axis)).mean() for axis in (1, 2)]
    return float(np.mean(steps))


def made_by(folder: Path, prompts: Sequence[Prompt]) -> list[Video]:
    """One video for each prompt, with the prompt's place as seed."""
    model = load_model(folder, device="cpu")
    options = [
        GenerateOptions(prompt=prompt.prompt, steps=STEPS, guidance=GUIDANCE, seed=place, attention="torch")
        for place, prompt in enumerate(prompts)
    ]
    return [generate(model, each) for each in options]

"""Train every arm of an experiment with every seed, measure, compare, and say what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from cogvideox.checkpoints import load_model
from cogvideox.errors import ConfigError
from cogvideox.evaluate_model.videos import VideoMaker
from cogvideox.evaluation.fvd import features_of, frechet
from cogvideox.files.atomic import write_json
from cogvideox.perception.world_features import world_features
from cogvideox.reproduce.arms import BATCH, Scale, check_size, run_of, vae_size
from cogvideox.reproduce.curves import Line, curves, smoothed
from cogvideox.reproduce.experiments import FULL, Arm, Experiment
from cogvideox.reproduce.significance import Status, Values, differences, status_of
from cogvideox.training.loop import train
from cogvideox.training.recipes import Run
from cogvideox.training.recipes.paper import variant_run
from cogvideox.video import Video
from cogvideox.world import check_facts, held_out_prompts, render

GENERATION = {"steps": 10, "guidance": 2.5, "attention": "torch"}  # options of an arm's videos
JUDGED_SIDE = 64  # pixels: the size that the judge and the features know
WINDOW = 9  # losses of a running mean
OF_VIDEOS = {"fvd", "facts"}  # measures of videos
AT_ONCE = "at-once.json"


@dataclass(frozen=True)
class ExperimentOutcome:
    """What an experiment says: ``table`` is Markdown, ``picture`` SVG or empty, ``scale`` how large it was, ``flags``
    what the command was given beside its name.
    """

    experiment: Experiment
    status: Status
    why: str
    table: str
    scale: str
    picture: str = ""
    flags: str = ""


def run_arms(experiment: Experiment, scale: Scale) -> ExperimentOutcome:
    """An experiment of transformers. Finished runs are left as they are, others go on. Raises ConfigError.

    Parameter counts are checked before anything is trained.
    """
    counts = {arm.name: check_size(arm) for arm in experiment.arms}
    wanted = {measure.name for measure in experiment.measures}
    values: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in experiment.arms}
    for seed in range(scale.seeds):
        for arm in experiment.arms:
            values[arm.name].append(trained(arm, seed, scale, wanted))
    size = f"{scale.steps} steps of {BATCH} clips, {scale.seeds} seeds, {scale.clips} clips of the tiny world"
    if wanted & OF_VIDEOS:
        size += f", {scale.videos} videos of each arm and seed"
    return compared(experiment, values, counts, size, scale.folder)


def run_vaes(experiment: Experiment, scale: Scale) -> ExperimentOutcome:
    """Table 1: every autoencoder trained on as many clips as the others."""
    values: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in experiment.arms}
    for seed in range(scale.seeds):
        for arm in experiment.arms:
            out = scale.folder(arm, seed, "table1-")
            train(variant_run(arm.name, scale.steps).model_copy(update={"out": str(out), "seed": seed}))
            values[arm.name].append(last_measured(out))
    counts = {arm.name: vae_size(arm) for arm in experiment.arms}
    size = f"{scale.steps} steps of 4 pieces of 17x32x32 of the tiny world, {scale.seeds} seeds"
    return compared(experiment, values, counts, size, lambda arm, seed: scale.folder(arm, seed, "table1-"))


def trained(arm: Arm, seed: int, scale: Scale, wanted: set[str]) -> dict[str, float]:
    """Train one arm with one seed, or find it trained, and measure it."""
    start = FULL if arm.after else None
    if start is not None:
        train(run_of(start, seed, scale))
    run = run_of(arm, seed, scale, start)
    at_once = untrained(run, scale.videos) if start is not None else {}
    train(run)
    measured = last_measured(Path(run.out)) | at_once | {"loss_spread": spread(losses(Path(run.out)))}
    return measured | (video_scores(Path(run.out) / "model", scale.videos) if wanted & OF_VIDEOS else {})


def untrained(run: Run, count: int) -> dict[str, float]:
    """The state a run begins in: its held-out error and the sharpness of its videos, kept beside it."""
    kept = Path(run.out) / AT_ONCE
    if not kept.is_file():
        task = run.task.build(run.seed)
        folder = Path(run.out) / "at-once"
        task.export(task.module, folder)
        measured = {
            "held_out_at_once": task.measure(task.module)["held_out"],
            "sharpness": sharpness(folder, count),
        }
        write_json(kept, measured, overwrite=True)
    return json.loads(kept.read_text(encoding="utf-8"))


def video_scores(model: Path, count: int) -> dict[str, float]:
    """What a model's videos of the first held-out prompts are worth, kept beside the model folder.

    ``fvd``: distance to the rendered truth (Fig. 8a to c); ``facts``: mean share of a prompt's facts that hold (8d).
    """
    kept = model.parent / f"videos-{count}.json"
    if not kept.is_file():
        videos, prompts = arm_videos(model, count), held_out_prompts()[:count]
        truth = [Video(render(prompt.scene, size=videos[0].height), 8.0) for prompt in prompts]
        videos, truth = (
            [video.cover(JUDGED_SIDE, JUDGED_SIDE) for video in side] for side in (videos, truth)
        )
        fvd = frechet(*(features_of(side, world_features()) for side in (videos, truth)))
        pairs = zip(videos, prompts, strict=True)
        shares = [check_facts(video.frames, prompt.checks).share for video, prompt in pairs]
        write_json(kept, {"fvd": fvd, "facts": float(np.mean(shares))}, overwrite=True)
    return json.loads(kept.read_text(encoding="utf-8"))


def sharpness(model: Path, count: int) -> float:
    """Mean step between neighbouring pixels of what a model makes, in grey levels (Fig. 9)."""
    steps = []
    for video in arm_videos(model, count):
        frames = video.frames.astype(np.float32)
        steps += [np.abs(np.diff(frames, axis=axis)).mean() for axis in (1, 2)]
    return float(np.mean(steps))


def arm_videos(model: Path, count: int) -> list[Video]:
    """One video for each of the first held-out prompts, with the prompt's index as its seed."""
    maker = VideoMaker(lambda: load_model(model, device="cpu"), GENERATION)
    prompts = held_out_prompts()[:count]
    return [maker.make(prompt.prompt, index) for index, prompt in enumerate(prompts)]


def compared(
    experiment: Experiment,
    values: Values,
    counts: Mapping[str, int],
    size: str,
    folder: Callable[[Arm, int], Path],
) -> ExperimentOutcome:
    """Table, picture and status of measured arms. ``size``: how large the experiment was."""
    gaps = differences(experiment, values)
    status, why = status_of(experiment, gaps)
    gap_of = {(each.arm, each.measure.name): each for each in gaps}
    lines = ["| measure | arm | weights | over seeds | first arm better by (95 %) | first arm is |"]
    lines.append("|---" * 6 + "|")
    for measure in experiment.measures:
        for arm in experiment.arms:
            each = [seed[measure.name] for seed in values[arm.name]]
            gap = gap_of.get((arm.name, measure.name))
            comparison = (
                f"{gap.value:.3g} ({gap.low:.3g} to {gap.high:.3g}) | {gap.reading}" if gap else " | "
            )
            lines.append(
                f"| {measure.label} | {arm.label} | {counts[arm.name]:,} | {around(each)} | {comparison} |"
            )
    seeds = range(len(values[experiment.arms[0].name]))
    curve = {
        arm.label: [line_of(folder(arm, seed), experiment.curve) for seed in seeds] for arm in experiment.arms
    }
    axis = "training loss, running mean" if experiment.curve == "loss" else "held-out velocity error"
    picture = curves(f"{experiment.name}: {experiment.title}", curve, axis)
    return ExperimentOutcome(experiment, status, why, "\n".join(lines), size, picture)


def line_of(folder: Path, name: str) -> Line:
    """(step, value) of one number of a run's metrics; losses as a running mean."""
    line = [(each["step"], each[name]) for each in metrics(folder) if name in each]
    return smoothed(line, min(WINDOW, len(line))) if name == "loss" else line


def last_measured(folder: Path) -> dict[str, float]:
    """The last held-out figures of a run. Raises ConfigError when it has none."""
    lines = [line for line in metrics(folder) if any(name.startswith("held_out") for name in line)]
    if not lines:
        raise ConfigError(f"{folder}: no held-out figures; remove it and run again")
    return {name: value for name, value in lines[-1].items() if name.startswith(("held_out", "objects"))}


def losses(folder: Path) -> list[float]:
    """The training losses that were logged, in order."""
    return [line["loss"] for line in metrics(folder) if "loss" in line]


def spread(values: Sequence[float]) -> float:
    """Standard deviation around a straight line, over the second half of a run: how unsteady its loss is."""
    half = np.asarray(values[len(values) // 2 :], dtype=float)
    if len(half) < 4:
        return math.nan
    steps = np.arange(len(half))
    return float(np.std(half - np.polyval(np.polyfit(steps, half, 1), steps), ddof=2))


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl; NaN where it says null."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]


def around(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")

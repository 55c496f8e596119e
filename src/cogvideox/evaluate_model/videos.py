"""A model's videos for a suite: made where they are missing, kept without loss, in ``videos`` beside the scores."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.checkpoints.adapter_reading import find_adapter
from cogvideox.engines import HERE, JobEngine, WorkerSpec
from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluate_model.options import EvaluateOptions
from cogvideox.evaluation.fidelity import round_trip
from cogvideox.evaluation.prompt_suites import prompt_suite
from cogvideox.evaluation.video_folder import open_videos, read_prompts
from cogvideox.evaluation.world_conditions import CONDITION_SUITES, brought
from cogvideox.evaluation.world_facts import TwoObjectPrompt, WorldRun, evaluate_world, two_object_prompts
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.files.digest import digests_of, sha256_of
from cogvideox.generation.job import Job, load, parse_options, prepare, settled
from cogvideox.generation.pipeline import generate
from cogvideox.generation.preflight import model_folder
from cogvideox.generation.recommended import read_adapter_flag
from cogvideox.model import CogVideoX
from cogvideox.progress import Reporter
from cogvideox.spec import ModelSpec
from cogvideox.video import Video, check_output, read_video
from cogvideox.worker_pool import CostedJob
from cogvideox.world import Prompt, Scene, held_out_prompts, render

SETTINGS = "evaluation.json"
VIDEOS, ORIGINALS = "videos", "originals"
TABLE_2_FRAMES, TABLE_2_SIDE = 17, 256  # pixels


@dataclass(frozen=True, kw_only=True)
class ModelVideos:
    """A model's videos for a suite. ``names``: the files in ``folder`` that were asked for.

    ``originals``: folder of what the autoencoder was given. ``world``: the verdicts on videos of the world suite,
    which are judged while they are made.
    """

    folder: Path
    names: Sequence[str]
    originals: Path | None = None
    world: WorldRun | None = None

    @property
    def missing(self) -> list[str]:
        """Names that were asked for and are not there."""
        return [name for name in self.names if not (self.folder / name).is_file()]

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The record of each video that was judged, by file name."""
        records = self.world.records if self.world is not None else ()
        return {_file_name(record["id"], record["seed"]): record["verdict"] for record in records}


def model_videos(
    name: str, options: EvaluateOptions, out: Path, reporter: Reporter, engine: JobEngine = HERE
) -> ModelVideos:
    """The videos of ``options.suite`` by the model called ``name``; a rerun makes only what is missing.

    ``engine``: where they are made. Raises InputError when some could not be made elsewhere, ConfigError where
    ``out`` holds the videos of another model or of other settings.
    """
    suite = options.suite
    job, settings = _job_of(name, options)
    asked = asked_videos(options)[0]
    request = parse_options({"prompt": asked.prompt, **settings})
    bring = partial(_brought, suite, asked.scene)
    folder = prepare(job, request, bring=bring, reporter=reporter).folder
    check_output(out / SETTINGS, overwrite=True)
    weights = digests_of(folder)  # what lies there now, which may be another model than before
    files = weights | digests_of(folder, "*/*.json")
    record: dict[str, Any] = {
        "model": str(folder.resolve()),
        "files": files,
        "dtype": job.dtype,
        "options": settings,
    }
    if suite == "vae" and options.references is not None and options.colour != "guess":
        record["colour"] = (
            options.colour
        )  # the originals are re-encoded, so what they were read as decides them
    if options.style != "plain":
        record["style"] = options.style
    if job.adapters:
        record["adapters"] = [
            {"sha256": sha256_of(find_adapter(path)), "strength": strength.plain}
            for path, strength in job.adapters
        ]
    _check_same_run(out, record if suite == "world" else record | {"suite": suite})
    maker = VideoMaker(partial(load, job, folder, weights=weights, reporter=reporter), settings, suite)
    if not engine.is_here:
        _make_elsewhere(name, options, out, reporter, engine)
    if suite == "vae":
        return _reconstructed(maker, options, out, reporter)
    return _generated(maker, options, out, reporter)


def _job_of(name: str, options: EvaluateOptions) -> tuple[Job, dict[str, Any]]:
    """The model with its adapters, and the settings of its videos, with those that stand beside the adapters."""
    adapters = tuple(map(read_adapter_flag, options.lora))
    job = Job(model=name, dtype=options.dtype, device=options.device, adapters=adapters)
    return settled(job, options.generation)


@dataclass(frozen=True)
class AskedVideo:
    """One video that a suite asks for: what it is generated from, and the ``text`` that it is judged by.

    ``scene``: the truth of a prompt of the tiny world, at whose first frame an image-to-video model begins.
    """

    name: str
    prompt: str
    text: str
    seed: int
    scene: Scene | None = None


def asked_videos(options: EvaluateOptions) -> list[AskedVideo]:
    """All videos of a suite, the seeds of each prompt together; for the autoencoder the scenes it is shown."""
    rows: list[tuple[str, str, str, Scene | None]]
    if options.suite == "paper":
        rows = [(each.id, each.prompt, each.short, None) for each in prompt_suite(options.prompt_set)]
    else:
        prompts: list[Prompt | TwoObjectPrompt] = []
        if options.suite != "two":
            prompts += held_out_prompts(options.style)
        if options.suite in ("two", "vae") and options.style == "plain":
            prompts += two_object_prompts()
        rows = [(each.id, each.prompt, each.prompt, each.scene) for each in prompts]
    return [
        AskedVideo(_file_name(id, seed), prompt, text, seed, scene)
        for id, prompt, text, scene in rows[: options.prompts]
        for seed in range(1 if options.suite == "vae" else options.seeds)
    ]


class VideoMaker:
    """Makes videos by one model, which is loaded when the first one is asked for.

    ``settings``: fields of ``GenerateOptions`` that all videos share. ``suite``: decides what a model is given besides
    a prompt.
    """

    def __init__(
        self, load: Callable[[], CogVideoX], settings: Mapping[str, Any], suite: str | None = None
    ) -> None:
        self.settings, self.suite, self._load = settings, suite, load

    @cached_property
    def model(self) -> CogVideoX:
        """The model, loaded at the first use."""
        return self._load()

    def make(self, prompt: str, seed: int, scene: Scene | None = None) -> Video:
        """One video, of a prompt and what the suite and the scene bring to such a model."""
        options = parse_options({**self.settings, "prompt": prompt, "seed": seed})
        return generate(self.model, options, **_brought(self.suite, scene, self.model.spec))

    def frames(self, file: Path, asked: AskedVideo) -> np.ndarray:
        """``uint8 [t, h, w, 3]`` of a video that is made and written to ``file``, or read where it was made before."""
        if file.is_file():
            return read_video(file).frames
        return self.save(file, asked).frames

    def save(self, file: Path, asked: AskedVideo) -> Video:
        """Make a video and write it to ``file``, without loss."""
        video = self.make(asked.prompt, asked.seed, asked.scene)
        video.save(file, overwrite=True, metadata=False)
        return video


def _make_elsewhere(
    name: str, options: EvaluateOptions, out: Path, reporter: Reporter, engine: JobEngine
) -> None:
    """Make the missing videos in other processes or on other machines. Raises InputError when some failed."""
    if options.suite == "vae":
        raise ConfigError(f"engine {engine.kind}: suite vae codes clips, it generates none; leave it out")
    folder, asked = out / VIDEOS, asked_videos(options)
    _check_same_prompts(folder, {each.name: each.text for each in asked})
    jobs = [CostedJob({"name": each.name}) for each in asked if not (folder / each.name).is_file()]
    spec = WorkerSpec(
        target=f"{__name__}:VideoWorker",
        config={"model": name, "options": options.model_dump(mode="json"), "folder": str(folder.absolute())},
        shared=folder,
        device=options.device,
    )
    failures: list[str] = []
    with reporter.progress("generating") as show:
        for done, outcome in enumerate(engine.run(jobs, spec), 1):
            if outcome.error:
                failures.append(outcome.job["name"])
                reporter.note(f"{outcome.job['name']}: {outcome.detail}")
            show("videos made", done, len(jobs))
    if failures:
        raise InputError(
            f"{folder}: {len(failures)} of {len(jobs)} videos could not be made, such as {failures[0]}; the reasons "
            "stand above; the same command makes these alone"
        )


class VideoWorker:
    """Makes videos of a suite in a process of its own, by one model."""

    def __init__(self, config: dict[str, Any]) -> None:
        options = EvaluateOptions.parse(config["options"])
        self.folder = Path(config["folder"])
        self.asked = {each.name: each for each in asked_videos(options)}
        job, settings = _job_of(config["model"], options)
        self.maker = VideoMaker(
            lambda: load(job, model_folder(job.model), weights={}), settings, options.suite
        )

    def do(self, job: dict[str, Any]) -> dict[str, Any]:
        """Make one video, unless it is there."""
        file, asked = self.folder / job["name"], self.asked[job["name"]]
        if not file.is_file():
            self.maker.save(file, asked)
        return {}


def _generated(maker: VideoMaker, options: EvaluateOptions, out: Path, reporter: Reporter) -> ModelVideos:
    """Videos for prompts. Those of the world suite are judged at once: their verdicts stay in ``verdicts.jsonl``."""
    folder, asked = out / VIDEOS, asked_videos(options)
    texts = {each.name: each.text for each in asked}
    _check_same_prompts(folder, texts)
    world: WorldRun | None = None
    if options.suite == "world":
        by_prompt = {(each.prompt, each.seed): each for each in asked}

        def make(prompt: str, seed: int) -> np.ndarray:
            each = by_prompt[prompt, seed]
            return maker.frames(folder / each.name, each)

        with reporter.progress("evaluating") as show:
            prompts, seeds = held_out_prompts(options.style)[: options.prompts], range(options.seeds)
            world = evaluate_world(make, out, prompts, seeds, partial(show, "videos judged"))
        write_json(out / "scores.json", json.loads(world.to_json()), overwrite=True)
    else:
        with reporter.progress("generating") as show:
            for done, each in enumerate(asked, 1):
                maker.frames(folder / each.name, each)
                show("videos made", done, len(asked))
    _write_prompts(folder, texts)
    return ModelVideos(folder=folder, names=tuple(texts), world=world)


def _reconstructed(maker: VideoMaker, options: EvaluateOptions, out: Path, reporter: Reporter) -> ModelVideos:
    """Originals through the autoencoder and back: rendered truth, or real clips as Table 2 shows them."""
    folder, originals = out / VIDEOS, out / ORIGINALS
    pairs = list(_real_clips(options, reporter) if options.references is not None else _rendered(options))
    code = None
    with reporter.progress("coding") as show:
        for done, (name, _, read) in enumerate(pairs, 1):
            if not ((folder / name).is_file() and (originals / name).is_file()):
                code = code or round_trip(maker.model.vae)
                truth = read()
                truth.save(originals / name, overwrite=True, metadata=False)
                Video(code(truth.frames), truth.fps).save(folder / name, overwrite=True, metadata=False)
            show("clips coded", done, len(pairs))
    _write_prompts(folder, {name: prompt for name, prompt, _ in pairs})
    return ModelVideos(folder=folder, names=tuple(name for name, _, _ in pairs), originals=originals)


Original = tuple[str, str, Callable[[], Video]]
"""File name, prompt, and the function that reads the video."""


def _rendered(options: EvaluateOptions) -> Iterator[Original]:
    """Held-out scenes of the tiny world."""
    for asked in asked_videos(options):
        assert asked.scene is not None  # suite vae asks for scenes
        yield asked.name, asked.prompt, partial(_render, asked.scene)


def _real_clips(options: EvaluateOptions, reporter: Reporter) -> Iterator[Original]:
    """Real clips: the first 17 frames, 256x256 from the centre. Shorter ones are left out."""
    assert options.references is not None
    with reporter.progress("reading") as show:
        clips = open_videos(options.references, on_item=partial(show, "clips read"), colour=options.colour)

    def read(index: int) -> Video:
        video = clips[index]
        return Video(video.frames[:TABLE_2_FRAMES], video.fps).cover(TABLE_2_SIDE, TABLE_2_SIDE)

    for index, item in list(enumerate(clips.items))[: options.prompts]:
        if item.frames >= TABLE_2_FRAMES:
            yield f"{Path(item.name).stem}-{index}.mkv", item.prompt, partial(read, index)


def _render(scene: Scene) -> Video:
    return Video(render(scene), 8.0)


def _brought(suite: str | None, scene: Scene | None, spec: ModelSpec) -> dict[str, Any]:
    """What a model is given besides a prompt, as keywords of ``generate``: in the suites of conditions what the suite
    brings, in ``finish`` the true clip, in others an image-to-video model the first frame of the scene. One that reads
    a prompt alone gets nothing.
    """
    if suite == "finish" and scene is not None:
        return {"video": Video(render(scene), 8.0)}
    if scene is None or spec.kind == "t2v":
        return {}
    conditions = next((each for each in CONDITION_SUITES if each == suite), None)
    if conditions is not None:
        return brought(conditions, scene)
    return {"image": render(scene)[0]} if spec.needs_image else {}


def _file_name(id: str, seed: int) -> str:
    return f"{id}-{seed}.mkv"


def _check_same_prompts(folder: Path, prompts: Mapping[str, str]) -> None:
    """A video that is there must have been made for the prompt it has now. Raises ConfigError."""
    for name, before in read_prompts(folder).items():
        if name in prompts and (folder / name).is_file() and before != prompts[name]:
            raise ConfigError(
                f"{folder / name}: made for another prompt ({before[:60]!r}, now {prompts[name][:60]!r}); "
                "choose another out"
            )


def _write_prompts(folder: Path, prompts: Mapping[str, str]) -> None:
    """Write what each video was asked for into metadata.jsonl; what stands there of others stays."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {**read_prompts(folder), **prompts}
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _check_same_run(out: Path, settings: dict[str, Any]) -> None:
    """Videos of one folder belong to one model and one way of sampling. Raises ConfigError."""
    file = out / SETTINGS
    settings = json.loads(json.dumps(settings))
    try:
        if not os.path.lexists(file):
            write_json(file, settings)
            return
        before = read_json(file, most=16 << 20)
    except ConfigError as error:
        raise ConfigError(f"{file}: not readable ({error}); choose another --out") from None
    if not isinstance(before, dict):
        raise ConfigError(f"{file}: no record of an evaluation; choose another --out")
    if before != settings:
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        raise ConfigError(
            f"{out}: holds an evaluation with another {', '.join(changed)}; choose another --out"
        )

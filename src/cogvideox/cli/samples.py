"""A model's videos for a suite: made where they are missing, kept without loss, in ``videos`` beside the scores."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideox.errors import ConfigError
from cogvideox.files import read_json
from cogvideox.generation.job import Job, load, parse_options, prepare
from cogvideox.progress import TERMINAL, progress

if TYPE_CHECKING:
    import numpy as np

    from cogvideox.evaluation.metrics import MetricInputs, MetricTools
    from cogvideox.evaluation.prompt_suites import SuitePrompt
    from cogvideox.model import CogVideoX
    from cogvideox.video import Colour, Video
    from cogvideox.world import Scene

SETTINGS = "evaluation.json"
VIDEOS, ORIGINALS = "videos", "originals"
TABLE_2 = (17, 256)  # frames, pixels


@dataclass(frozen=True)
class Samples:
    """What was made, where, and what a suite has to know of it. ``table`` and ``scores``: what was
    judged while the videos were made, as text and as values.
    """

    suite: str
    folder: Path
    names: Sequence[str]
    originals: Path | None = None
    references: str | None = None
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    table: str = ""
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Names that were asked for and are not there."""
        return [name for name in self.names if not (self.folder / name).is_file()]

    def inputs(self, tools: MetricTools, colour: Colour = "guess") -> MetricInputs:
        """The videos that were asked for now, as inputs of metrics; ``colour``: how untagged references are read."""
        from cogvideox.evaluation.metrics import MetricInputs
        from cogvideox.evaluation.suite import world_checks, world_truth
        from cogvideox.evaluation.video_folder import open_videos

        asked = set(self.names)
        with progress("reading") as show:
            clips = open_videos(
                self.folder, on_item=lambda done, total: show("videos read", done, total), only=asked
            )
            where = self.originals or self.references
            only = asked if self.originals else None
            originals = None
            if where:
                told = partial(show, "originals read")
                originals = open_videos(where, on_item=told, only=only, colour=colour)
        found, keep = world_checks(clips.items)
        if self.suite == "world":
            return MetricInputs(clips.only(keep), originals, world_truth(), tools, found, self.verdicts)
        return MetricInputs(clips, originals, tools=tools, checks=found, verdicts=self.verdicts)


def samples(
    suite: str,
    prompt_set: str,
    prompts: int | None,
    seeds: int,
    out: Path,
    settings: dict[str, Any],
    job: Job,
    references: str | None,
    colour: Colour = "guess",
) -> Samples:
    """The videos of a suite by one model; a rerun makes only what is missing. Raises ConfigError for another model."""
    options = parse_options({"prompt": "x", **settings})
    folder = prepare(job, options, first=_begins(suite), reporter=TERMINAL).folder
    from cogvideox.files.digest import digests_of
    from cogvideox.video import check_output

    check_output(out / SETTINGS, overwrite=True)
    weights = digests_of(folder)  # what lies there now, which may be another model than before
    files = weights | digests_of(folder, "*/*.json")
    run = {"model": str(folder.resolve()), "files": files, "dtype": job.dtype, "options": settings}
    if suite == "vae" and references is not None and colour != "guess":
        run["colour"] = colour  # the originals are re-encoded, so what they were read as decides them
    _same_run(out, run if suite == "world" else run | {"suite": suite})

    def model() -> CogVideoX:
        return load(job, folder, weights=weights, reporter=TERMINAL)

    if suite == "vae":
        return _reconstructed(out, prompts, model, references, colour)
    if suite == "world":
        return _world(out, prompts, seeds, settings, job, model, references)
    rows = _rows(suite, prompt_set)[:prompts]
    return _prompted(out, suite, rows, seeds, settings, model, references)


def _world(
    out: Path,
    prompts: int | None,
    seeds: int,
    settings: dict[str, Any],
    job: Job,
    model: Callable[[], Any],
    refs: str | None,
) -> Samples:
    """The held-out prompts of the tiny world, judged while they are made: verdicts stay in ``verdicts.jsonl``."""
    from cogvideox.evaluation.world_facts import evaluate_world
    from cogvideox.files.atomic import write_json
    from cogvideox.world import held_out_prompts

    chosen = list(held_out_prompts())[:prompts]
    folder = out / VIDEOS
    by_prompt = {prompt.prompt: prompt for prompt in chosen}
    names = {_name(p.id, seed): p.prompt for p in chosen for seed in range(seeds)}
    _same_prompts(folder, names)
    maker = _Maker(model, settings)
    with progress("evaluating") as show:

        def make(prompt: str, seed: int) -> np.ndarray:
            asked = by_prompt[prompt]
            return maker.frames(folder / _name(asked.id, seed), prompt, seed, partial(_first, asked.scene))

        judged = evaluate_world(
            make, out, chosen, tuple(range(seeds)), lambda done, total: show("videos judged", done, total)
        )
    _tell(folder, names)
    scores = json.loads(judged.to_json())
    write_json(out / "scores.json", scores, overwrite=True)
    verdicts = {_name(record["id"], record["seed"]): record["verdict"] for record in judged.records}
    return Samples(
        "world", folder, tuple(names), references=refs, verdicts=verdicts, table=judged.table(), scores=scores
    )


def _rows(suite: str, prompt_set: str) -> Sequence[SuitePrompt]:
    """The prompts of a suite that is generated for without a judge beside it."""
    from cogvideox.evaluation.prompt_suites import SuitePrompt, prompt_suite
    from cogvideox.evaluation.world_facts import two_object_prompts

    if suite == "two":
        return [SuitePrompt(two.id, two.prompt, two.prompt) for two in two_object_prompts()]
    return prompt_suite(prompt_set)


def _prompted(
    out: Path,
    suite: str,
    chosen: Sequence[SuitePrompt],
    seeds: int,
    settings: dict[str, Any],
    model: Callable[[], Any],
    refs: str | None,
) -> Samples:
    """Videos for a prompt suite; a long prompt is generated from, its short one is what is judged."""
    folder = out / VIDEOS
    names = {_name(row.id, seed): row.short for row in chosen for seed in range(seeds)}
    _same_prompts(folder, names)
    maker, firsts = _Maker(model, settings), _firsts(suite)
    with progress("generating") as show:
        for done, (row, seed) in enumerate(((row, seed) for row in chosen for seed in range(seeds)), 1):
            maker.frames(folder / _name(row.id, seed), row.prompt, seed, firsts.get(row.id))
            show("videos made", done, len(names))
    _tell(folder, names)
    return Samples(suite, folder, tuple(names), references=refs)


def _reconstructed(
    out: Path, num: int | None, model: Callable[[], Any], refs: str | None, colour: Colour
) -> Samples:
    """Originals through the autoencoder and back: rendered truth, or real clips as Table 2 shows them."""
    from cogvideox.evaluation.fidelity import round_trip
    from cogvideox.video import Video

    folder, originals = out / VIDEOS, out / ORIGINALS
    pairs = list(_truth(num) if refs is None else _real(refs, num, colour))
    code = None
    with progress("coding") as show:
        for done, (name, _, read) in enumerate(pairs, 1):
            if not ((folder / name).is_file() and (originals / name).is_file()):
                code = code or round_trip(model().vae)
                truth = read()
                truth.save(originals / name, overwrite=True, metadata=False)
                Video(code(truth.frames), truth.fps).save(folder / name, overwrite=True, metadata=False)
            show("clips coded", done, len(pairs))
    _tell(folder, {name: prompt for name, prompt, _ in pairs})
    return Samples("vae", folder, tuple(name for name, _, _ in pairs), originals)


Original = tuple[str, str, Callable[[], "Video"]]


def _truth(num: int | None) -> Iterator[Original]:
    """(name, prompt, video) of rendered held-out scenes."""
    from cogvideox.video import Video
    from cogvideox.world import held_out_prompts, render

    for prompt in list(held_out_prompts())[:num]:

        def read(scene: Scene = prompt.scene) -> Video:
            return Video(render(scene), 8.0)

        yield _name(prompt.id, 0), prompt.prompt, read


def _real(folder: str, num: int | None, colour: Colour) -> Iterator[Original]:
    """(name, prompt, video) of real clips: the first 17 frames, 256x256 from the centre."""
    from cogvideox.evaluation.video_folder import open_videos
    from cogvideox.video import Video

    frames, side = TABLE_2
    with progress("reading") as show:
        clips = open_videos(folder, on_item=partial(show, "clips read"), colour=colour)
    for place, item in list(enumerate(clips.items))[:num]:
        if item.frames < frames:
            continue

        def read(place: int = place) -> Video:
            video = clips[place]
            return Video(video.frames[:frames], video.fps).cover(side, side)

        yield f"{Path(item.name).stem}-{place}.mkv", item.prompt, read


class _Maker:
    """Videos of one model, which is loaded when the first one is missing."""

    def __init__(self, model: Callable[[], Any], settings: dict[str, Any]) -> None:
        self.settings, self._load = settings, model
        self._model: CogVideoX | None = None

    def frames(
        self, path: Path, prompt: str, seed: int, first: Callable[[], np.ndarray] | None = None
    ) -> np.ndarray:
        """``uint8 [t, h, w, 3]``, read where it was made before; an image-to-video model begins at ``first``."""
        from cogvideox.generation.pipeline import generate
        from cogvideox.video import read_video

        if path.is_file():
            return read_video(path).frames
        self._model = model = self._model or self._load()
        image = first() if first is not None and model.spec.kind == "i2v" else None
        made = generate(model, parse_options({**self.settings, "prompt": prompt, "seed": seed}), image=image)
        made.save(path, overwrite=True, metadata=False)
        return made.frames


def _first(scene: Scene) -> np.ndarray:
    from cogvideox.world import render

    return render(scene)[0]


def _begins(suite: str) -> Callable[[], np.ndarray] | None:
    """How some video of a suite begins; None where nobody knows."""
    from cogvideox.world import held_out_prompts

    if suite in ("world", "vae"):  # no video is generated for the autoencoder
        return partial(_first, held_out_prompts()[0].scene)
    return next(iter(_firsts(suite).values()), None)


def _firsts(suite: str) -> dict[str, Callable[[], np.ndarray]]:
    """How a suite's prompts begin, by id, where there is a truth."""
    from cogvideox.evaluation.world_facts import two_object_prompts

    if suite != "two":
        return {}
    return {two.id: partial(_first, two.scene) for two in two_object_prompts()}


def _name(id: str, seed: int) -> str:
    return f"{id}-{seed}.mkv"


def _same_prompts(folder: Path, prompts: dict[str, str]) -> None:
    """A video that is there must have been made for the prompt it has now. Raises ConfigError."""
    from cogvideox.evaluation.video_folder import read_prompts

    for name, told in read_prompts(folder).items():
        if name in prompts and (folder / name).is_file() and told != prompts[name]:
            raise ConfigError(
                f"{folder / name}: made for another prompt ({told[:60]!r}, now {prompts[name][:60]!r}); "
                "choose another out"
            )


def _tell(folder: Path, prompts: dict[str, str]) -> None:
    """Write what each video was asked for into metadata.jsonl; what stands there of others stays."""
    from cogvideox.evaluation.video_folder import read_prompts

    folder.mkdir(parents=True, exist_ok=True)
    rows = {**read_prompts(folder), **prompts}
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _same_run(out: Path, settings: dict[str, Any]) -> None:
    """Videos of one folder belong to one model and one way of sampling. Raises ConfigError."""
    from cogvideox.files.atomic import write_json

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

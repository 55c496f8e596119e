"""``evaluate``: score a folder of anyone's videos, or make a model's videos first and score those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cogvideox.chat import Chat, Replay, language_model
from cogvideox.engines import HERE, JobEngine
from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluate_model.options import ASKED, GENERATED, EvaluateOptions
from cogvideox.evaluate_model.videos import ModelVideos, model_videos
from cogvideox.evaluation import compare, suite, vbench
from cogvideox.evaluation.fidelity import LPIPSDistance
from cogvideox.evaluation.metrics import MetricInputs, MetricTools
from cogvideox.evaluation.prompt_suites import prompt_suite
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.score import Score
from cogvideox.evaluation.video_folder import open_videos
from cogvideox.evaluation.world_conditions import CONDITION_SUITES
from cogvideox.evaluation.world_facts import WorldRun, two_object_prompts
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.perception.embedding import ClipImageText
from cogvideox.perception.experts import read_recorded
from cogvideox.perception.features import load_i3d
from cogvideox.presets import PRESETS
from cogvideox.progress import SILENT, Reporter
from cogvideox.world import held_out_prompts


@dataclass(frozen=True)
class Evaluation:
    """The scores of one set of videos. ``differences``: from the evaluation it was compared with; () without one.

    ``world``: the facts of each video, where a model's videos for the world suite were judged.
    """

    report: ScoreReport
    differences: Sequence[compare.PairedDifference] = ()
    world: WorldRun | None = None

    def score(self, name: str) -> Score:
        """The score of a name such as ``world_all_facts``. Raises InputError."""
        return self.report.score(name)

    def table(self) -> str:
        """Markdown: facts of the tiny world, scores with their intervals, differences."""
        tables = [self.world.table() if self.world else "", self.report.table()]
        return "\n\n".join(
            filter(None, [*tables, compare.table(self.differences) if self.differences else ""])
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        plain: dict[str, Any] = json.loads(self.world.to_json()) if self.world is not None else {}
        if self.differences:
            plain["comparison"] = [vars(each) for each in self.differences]
        return plain | {"report": self.report.to_dict()}


def evaluate(
    subject: str | Path = "tiny",
    out: str | Path = "eval",
    *,
    options: EvaluateOptions | None = None,
    engine: JobEngine = HERE,
    reporter: Reporter = SILENT,
    **settings: Any,
) -> Evaluation:
    """Score a folder of videos, or a model by its videos: ``evaluate("tiny", suite="world", prompts=20)``.

    subject: a folder of videos, or a model (folder, hub id or preset), whose videos are made first, by ``engine``.
    ``out`` gets report.json, report.html and a model's videos; the same call does only what is missing.
    ``settings`` are fields of EvaluateOptions. A score that could not be measured says why. Raises ConfigError,
    InputError, CheckpointError or OutputError.
    """
    options, folder, name = (options or EvaluateOptions()).changed(**settings), Path(out), str(subject)
    other = ScoreReport.read(options.against) if options.against is not None else None
    ScoreReport.check_free(folder)
    tools = read_tools(options, folder)
    videos: ModelVideos | None = None
    if is_video_folder(name):
        if engine != HERE:
            raise ConfigError(
                f"engine {engine.kind}: {name} is a folder of videos, none is made; leave it out"
            )
        options.check_unused(GENERATED + ASKED, f"{name}: is a folder of videos, none is made")
        options, inputs = folder_inputs(Path(subject), options, tools, reporter)
    else:
        options = options.changed(suite=options.suite or "world")
        videos = model_videos(name, options, folder, reporter, engine)
        inputs = _model_inputs(videos, options, tools, reporter)
    inputs = replace(inputs, fvd_fps=options.fvd_fps)
    with reporter.progress("measuring") as show:
        missing = videos.missing if videos is not None else ()
        report = suite.evaluate(inputs, options.suite or "", folder, name, missing, show)
    differences: list[compare.PairedDifference] = []
    if other is not None:
        report, differences = suite.add_comparison(report, other, inputs.videos, folder)
        write_json(folder / "comparison.json", [vars(each) for each in differences], overwrite=True)
    return Evaluation(report, differences, videos.world if videos is not None else None)


def _model_inputs(
    videos: ModelVideos, options: EvaluateOptions, tools: MetricTools, reporter: Reporter
) -> MetricInputs:
    """The videos that were asked for now; those of earlier calls that lie beside them are left alone."""
    asked = set(videos.names)
    with reporter.progress("reading") as show:
        clips = open_videos(videos.folder, on_item=partial(show, "videos read"), only=asked)
        references = videos.originals or options.references
        originals = None
        if references:
            only = asked if videos.originals else None
            told = partial(show, "originals read")
            originals = open_videos(references, on_item=told, only=only, colour=options.colour)
    checks, keep = suite.world_checks(clips.items, options.style)
    inputs = MetricInputs(
        clips, originals, tools=tools, checks=checks, verdicts=videos.verdicts, style=options.style
    )
    if options.suite == "world":
        return replace(inputs, videos=clips.only(keep), real=suite.world_truth(options.style))
    return inputs


def folder_inputs(
    folder: Path, options: EvaluateOptions, tools: MetricTools, reporter: Reporter
) -> tuple[EvaluateOptions, MetricInputs]:
    """A folder of videos as the inputs of a suite: the one asked for, or the one that its prompts belong to.

    Returns the options with that suite. Raises InputError when no video belongs to the suite that was asked for.
    """
    known = {
        "world": [prompt.prompt for prompt in held_out_prompts(options.style)],
        "two": [two.prompt for two in two_object_prompts()],
        "paper": [row.short for row in prompt_suite("vbench")],
    }
    every = sum(known.values(), [])
    known["vae"] = known["paper"]
    known |= {suite: known["world"] for suite in ("finish", *CONDITION_SUITES)}
    prompts = known[options.suite] if options.suite else every
    with reporter.progress("reading") as show:
        clips = open_videos(folder, prompts, partial(show, "videos read"), colour=options.colour)
        originals = None
        if options.references:
            told = partial(show, "references read")
            originals = open_videos(options.references, on_item=told, colour=options.colour)
    if clips.without_prompt:
        reporter.note(f"{folder}: {clips.without_prompt}; scores that need one leave them out")
    checks, keep = suite.world_checks(clips.items, options.style)
    if options.suite is None:
        options = options.changed(suite=_suite_of(clips.prompts, len(checks), known["two"]))
        reporter.note(f"suite {options.suite}, by the prompts of the videos; --suite takes another")
    if options.suite != "world":
        return options, MetricInputs(clips, originals, tools=tools, style=options.style)
    kept = clips.only(keep)
    if clips.items and not kept.items:
        raise InputError(
            f"{folder}: none of {len(clips.items)} videos belongs to suite world ({kept.refused[-1].why}); "
            "leave --suite out, or use --suite paper"
        )
    truth = suite.world_truth(options.style)
    return options, MetricInputs(kept, originals, truth, tools, checks, style=options.style)


def _suite_of(prompts: Sequence[str], of_world: int, two: Sequence[str]) -> str:
    """The suite that most of the videos' prompts belong to; paper, which measures anyone's videos, where it is none."""
    pairs = len(set(prompts) & set(two))
    if 2 * max(of_world, pairs) <= len(prompts):
        return "paper"
    return "two" if pairs > of_world else "world"


def is_video_folder(subject: str) -> bool:
    """Whether this is a folder, and no model's; a name that is neither is left to those who load models."""
    if "\0" in subject:
        raise InputError(f"{subject!r}: not a path; give a folder of videos or a model")
    path = Path(subject)
    return path.is_dir() and subject not in PRESETS and not (path / "model_index.json").is_file()


def read_tools(options: EvaluateOptions, out: Path) -> MetricTools:
    """The networks and judges that the user has; files are read now, so that a wrong one is said before the work."""
    return MetricTools(
        clip=ClipImageText(options.clip) if options.clip else None,
        i3d=load_i3d(options.i3d) if options.i3d else None,
        experts=read_recorded(options.observations) if options.observations else {},
        lpips=LPIPSDistance.load(options.lpips),
        devil=_devil(options.devil) if options.devil else None,
        vbench=_vbench_results(options.vbench_results) if options.vbench_results else None,
        judge=_judge(options, out),
    )


def _judge(options: EvaluateOptions, out: Path) -> Chat | None:
    """A server, whose answers are kept and recorded beside the scores, or a record of one."""
    url, recorded = options.judge_url, options.judge_replay
    if url is not None and recorded is not None:
        raise ConfigError(f"judge-url {url} and judge-replay {recorded}: give one of them")
    if recorded is not None:
        return Chat(Replay(recorded))
    if url is None:
        return None
    model = language_model(url, options.judge_model)
    return Chat(model, cache=out / "judge", transcript=out / "judge.jsonl")


def _vbench_results(path: str) -> dict[str, float]:
    """Raw values by dimension. Raises InputError."""
    record = read_json(path, most=64 << 20, error=InputError)
    try:
        return vbench.read_results(record)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _devil(path: str) -> dict[str, list[float]]:
    """``{"dynamics": [...], "naturalness": [...], ...}``. Raises InputError."""
    try:
        record = read_json(path, most=64 << 20, error=InputError)
        lists = {str(key): [float(value) for value in values] for key, values in record.items()}
    except (InputError, ValueError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(f"{path}: no lists of numbers by name ({why}); write them as JSON") from None
    if "dynamics" not in lists or len({len(values) for values in lists.values()}) != 1 or len(lists) < 2:
        raise InputError(f"{path}: needs 'dynamics' and at least one quality, one number each per video")
    return lists

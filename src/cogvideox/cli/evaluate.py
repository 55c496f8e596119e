"""The verb evaluate: score a folder of anyone's videos, or make a model's videos first and score those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.terminal import result, result_json, verb
from cogvideox.errors import ConfigError, InputError, suggest
from cogvideox.files import read_json
from cogvideox.progress import progress, say

if TYPE_CHECKING:
    from cogvideox.chat import Chat
    from cogvideox.evaluation.metrics import MetricInputs, MetricTools
    from cogvideox.evaluation.report import ScoreReport
    from cogvideox.video import Colour

SUITES = ("world", "two", "paper", "vae")


@verb
def evaluate(
    subject: Annotated[
        str | None, typer.Argument(metavar="[DIR|MODEL]", help="videos, or what makes them")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="world, two (things), paper or vae; default: world for a model, for videos by their prompts"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="the same as MODEL; without either the shipped one")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="how many of the suite's prompts; default: all")
    ] = None,
    prompt_set: Annotated[
        str, typer.Option(help="paper: vbench, vbench-long, gallery, compositional")
    ] = "vbench",
    seeds: Annotated[int, typer.Option(min=1, help="videos per prompt")] = 1,
    steps: Annotated[int | None, typer.Option(help="denoising steps")] = None,
    guidance: Annotated[float | None, typer.Option(help="how strongly to follow the prompt")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpm or dpm-ode")] = None,
    references: Annotated[str | None, typer.Option(help="folder of originals or of real videos")] = None,
    i3d: Annotated[str | None, typer.Option(help="I3D TorchScript file, for FVD")] = None,
    fvd_fps: Annotated[
        float | None, typer.Option(min=0.01, help="FVD: bring videos and references to this rate")
    ] = None,
    colour: Annotated[
        str, typer.Option(help="how untagged videos are read: guess (by their size), bt601 or bt709")
    ] = "guess",
    clip: Annotated[str | None, typer.Option(help="folder of CLIP ViT-B/32")] = None,
    lpips: Annotated[str | None, typer.Option(help="folder of vgg16.pth and LPIPS's vgg.pth")] = None,
    observations: Annotated[
        str | None, typer.Option(help="recorded answers of VBench's networks (JSON lines)")
    ] = None,
    devil: Annotated[str | None, typer.Option(help="DEVIL's dynamics and qualities per video (JSON)")] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server or model folder, for MTScore")
    ] = None,
    judge_model: Annotated[str, typer.Option(help="the judge's name on that server")] = "gpt-4o-2024-05-13",
    judge_replay: Annotated[str | None, typer.Option(help="recorded answers of a judge, instead")] = None,
    against: Annotated[str | None, typer.Option(help="folder of another evaluation, to compare with")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; default: cuda, else mps, else cpu")
    ] = None,
    out: Annotated[str, typer.Option(help="folder of the scores; the same folder resumes")] = "eval",
    as_json: Annotated[bool, typer.Option("--json", help="results as JSON")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Score videos: of a folder, or of a model, with intervals, and beside another run."""
    if suite is not None and suite not in SUITES:
        raise ConfigError(f"suite {suite!r}: unknown{suggest(suite, SUITES)}; there are: {', '.join(SUITES)}")
    if subject is not None and model is not None:
        raise ConfigError(f"{subject!r} and --model {model!r}: give one of them")
    other = _earlier(against)
    from cogvideox.evaluation.report import ScoreReport
    from cogvideox.video.colour import colour_of

    ScoreReport.check_free(Path(out))
    tools = _tools(i3d, clip, lpips, observations, devil)
    tools = replace(tools, judge=_judge(judge_url, judge_model, judge_replay, Path(out)))
    name = subject or model or "tiny"
    if model is None and subject is not None and _is_folder_of_videos(subject):
        suite, inputs = _folder(Path(subject), suite, references, tools, colour_of(colour))
        missing: list[str] = []
        table, scores = "", dict[str, Any]()
    else:
        from cogvideox.cli.samples import samples
        from cogvideox.generation.job import Job

        settings = {"steps": steps, "guidance": guidance, "sampler": sampler}
        settings = {key: value for key, value in settings.items() if value is not None}
        suite = suite or "world"
        job = Job(model=name, dtype=dtype, device=device)
        read_as = colour_of(colour)
        made = samples(suite, prompt_set, prompts, seeds, Path(out), settings, job, references, read_as)
        inputs, missing = made.inputs(tools, read_as), made.missing
        table, scores = made.table, made.scores
    inputs = replace(inputs, fvd_fps=fvd_fps)
    _report(inputs, suite, Path(out), name, missing, table, scores, other, as_json)


def _report(
    inputs: MetricInputs,
    suite: str,
    out: Path,
    subject: str,
    missing: list[str],
    table: str,
    scores: dict[str, Any],
    other: ScoreReport | None,
    as_json: bool,
) -> None:
    """Score, compare, print, and say where it stands."""
    from cogvideox.evaluation import compare
    from cogvideox.evaluation.suite import add_comparison
    from cogvideox.evaluation.suite import evaluate as run
    from cogvideox.files.atomic import write_json

    with progress("measuring") as show:
        report = run(inputs, suite, out, subject, missing, show)
    differences: list[compare.PairedDifference] = []
    if other is not None:
        report, differences = add_comparison(report, other, inputs.videos, out)
    record: dict[str, Any] = dict(scores)
    if differences:
        rows = [vars(each) for each in differences]
        write_json(out / "comparison.json", rows, overwrite=True)
        record["comparison"] = rows
    if as_json:
        result_json(record | {"report": report.to_dict()})
    else:
        tables = [table, report.table(), compare.table(differences) if differences else ""]
        result("\n\n".join(table for table in tables if table))
    say(f"{report.counted}; the page is {out / 'report.html'}, the numbers are {out / 'report.json'}")
    if all(score.value is None for score in report.scores):
        raise InputError(f"{subject}: nothing could be measured by suite {suite}; the reasons stand above")


def _folder(
    folder: Path,
    suite: str | None,
    references: str | None,
    tools: MetricTools,
    colour: Colour = "guess",
) -> tuple[str, MetricInputs]:
    """A folder of videos as the inputs of a suite: the one asked for, or the one that its prompts belong to.

    Raises InputError when no video belongs to the suite that was asked for.
    """
    from cogvideox.evaluation.metrics import MetricInputs
    from cogvideox.evaluation.prompt_suites import prompt_suite
    from cogvideox.evaluation.suite import world_checks, world_truth
    from cogvideox.evaluation.video_folder import open_videos
    from cogvideox.evaluation.world_facts import two_object_prompts
    from cogvideox.world import held_out_prompts

    known = {
        "world": [prompt.prompt for prompt in held_out_prompts()],
        "two": [two.prompt for two in two_object_prompts()],
        "paper": [row.short for row in prompt_suite("vbench")],
    }
    known["vae"] = known["paper"]
    asked = known[suite] if suite else [prompt for prompts in known.values() for prompt in prompts]
    with progress("reading") as show:
        clips = open_videos(
            folder, asked, lambda done, total: show("videos read", done, total), colour=colour
        )
        originals = (
            open_videos(
                references, on_item=lambda done, total: show("references read", done, total), colour=colour
            )
            if references
            else None
        )
    if clips.without_prompt:
        say(f"{folder}: {clips.without_prompt}; scores that need one leave them out")
    found, keep = world_checks(clips.items)
    if suite is None:
        suite = _suite_of(clips.prompts, len(found), known["two"])
        say(f"suite {suite}, by the prompts of the videos; --suite takes another")
    if suite != "world":
        return suite, MetricInputs(clips, originals, tools=tools)
    kept = clips.only(keep)
    if clips.items and not kept.items:
        raise InputError(
            f"{folder}: none of {len(clips.items)} videos belongs to suite world ({kept.refused[-1].why}); "
            "leave --suite out, or use --suite paper"
        )
    return suite, MetricInputs(kept, originals, world_truth(), tools, found)


def _suite_of(prompts: Sequence[str], of_world: int, two: Sequence[str]) -> str:
    """The suite that most of the videos' prompts belong to; paper, which measures anyone's videos, where it is none."""
    pairs = len(set(prompts) & set(two))
    if 2 * max(of_world, pairs) <= len(prompts):
        return "paper"
    return "two" if pairs > of_world else "world"


def _is_folder_of_videos(subject: str) -> bool:
    """Whether this is a folder, and no model's; a name that is neither is left to those who load models."""
    from cogvideox.presets import PRESETS

    if "\0" in subject:
        raise InputError(f"{subject!r}: not a path; give a folder of videos or a model")
    path = Path(subject)
    return path.is_dir() and subject not in PRESETS and not (path / "model_index.json").is_file()


def _earlier(against: str | None) -> ScoreReport | None:
    if against is None:
        return None
    from cogvideox.evaluation.report import ScoreReport

    return ScoreReport.read(against)


def _tools(
    i3d: str | None, clip: str | None, lpips: str | None, observations: str | None, devil: str | None
) -> MetricTools:
    """What the user has; files are read now, so that a wrong one is said before the work."""
    from cogvideox.evaluation.fidelity import LPIPSDistance
    from cogvideox.evaluation.metrics import MetricTools
    from cogvideox.perception.embedding import ClipImageText
    from cogvideox.perception.experts import read_recorded
    from cogvideox.perception.features import load_i3d

    return MetricTools(
        clip=ClipImageText(clip) if clip else None,
        i3d=load_i3d(i3d) if i3d else None,
        experts=read_recorded(observations) if observations else {},
        lpips=LPIPSDistance.load(lpips),
        devil=_devil(devil) if devil else None,
    )


def _judge(url: str | None, model: str, replay: str | None, out: Path) -> Chat | None:
    """A server, whose answers are kept and recorded beside the scores, or a record of one."""
    if url is None and replay is None:
        return None
    if url is not None and replay is not None:
        raise ConfigError(f"judge-url {url} and judge-replay {replay}: give one of them")
    from cogvideox.chat import Chat, Replay, language_model

    if replay is not None:
        return Chat(Replay(replay))
    return Chat(language_model(url, model), cache=out / "judge", transcript=out / "judge.jsonl")


def _devil(path: str) -> dict[str, list[float]]:
    """``{"dynamics": [...], "naturalness": [...], ...}``. Raises InputError."""
    try:
        record = read_json(path, most=64 << 20, error=InputError)
        found = {str(key): [float(value) for value in values] for key, values in record.items()}
    except (InputError, ValueError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(f"{path}: no lists of numbers by name ({why}); write them as JSON") from None
    if "dynamics" not in found or len({len(values) for values in found.values()}) != 1 or len(found) < 2:
        raise InputError(f"{path}: needs 'dynamics' and at least one quality, one number each per video")
    return found

"""The command: its verbs, and those of them that are one call each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cogvideox import __version__
from cogvideox.cli.calibrate import calibrate
from cogvideox.cli.caption import caption
from cogvideox.cli.data import data
from cogvideox.cli.evaluate import evaluate
from cogvideox.cli.generate import generate
from cogvideox.cli.plan import plan
from cogvideox.cli.reproduce import reproduce
from cogvideox.cli.terminal import ERROR, INTERRUPTED, result, verb
from cogvideox.cli.usage import GroupedCommand, OneLineGroup
from cogvideox.errors import CheckpointError, ConfigError, MediaError, suggest
from cogvideox.progress import say

app = typer.Typer(
    name="cogvideox",
    cls=OneLineGroup,
    help="Text, images and videos to video: make, train, convert, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
world = typer.Typer(help="The tiny world: moving shapes whose truth is known.", no_args_is_help=True)
app.add_typer(world, name="world")
app.add_typer(data, name="data")
rate = typer.Typer(help="People rate videos on a page of this machine.", no_args_is_help=True)
app.add_typer(rate, name="rate")
app.command(cls=GroupedCommand)(generate)
app.command()(plan)
app.command()(caption)
app.command()(calibrate)
app.command()(evaluate)
app.command()(reproduce)

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
Json = Annotated[bool, typer.Option("--json", help="results as JSON")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace files that exist")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """Text, images and videos to video: make, train, convert, measure."""
    if version:
        result(f"cogvideox {__version__}")
        raise typer.Exit()


@app.command()
@verb
def convert(
    source: Annotated[
        str, typer.Argument(help="SAT file or folder, model folder or part, LoRA, trainer's output, preset")
    ],
    target: Annotated[str, typer.Argument(help="new folder")],
    to: Annotated[str, typer.Option(help="diffusers or sat")] = "diffusers",
    preset: Annotated[str | None, typer.Option(help="the model it is, when its shapes do not say")] = None,
    shard_size: Annotated[str, typer.Option(help="largest file, such as 5GB")] = "5GB",
    alpha: Annotated[float | None, typer.Option(help="for LoRA files that do not say theirs")] = None,
    base: Annotated[
        str | None, typer.Option(help="model whose VAE and text encoder go beside a trainer's network")
    ] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Convert weights between SAT and diffusers, both ways."""
    from cogvideox.presets import PRESETS, get_preset

    if to not in ("diffusers", "sat"):
        raise ConfigError(f"to {to!r}: unknown{suggest(to, ('diffusers', 'sat'))}; choose diffusers or sat")
    if preset is not None and preset not in PRESETS:
        get_preset(preset)  # says which there are
    if "\0" in source + target:
        raise CheckpointError(f"{source!r}, {target!r}: not a path; check it")
    if "/" not in source and source not in PRESETS and not Path(source).exists():
        raise CheckpointError(
            f"{source}: no such file or folder, nor a preset{suggest(source, PRESETS)}; check it"
        )
    if Path(target).exists() and not overwrite:
        raise CheckpointError(f"{target}: exists already; choose another name or pass --overwrite")
    from cogvideox.checkpoints import convert as run

    found = run(
        source,
        target,
        "sat" if to == "sat" else "diffusers",
        preset,
        shard_size=shard_size,
        overwrite=overwrite,
        alpha=alpha,
        base=base,
    )
    result(str(found))


@app.command()
@verb
def inspect(
    path: Annotated[
        str, typer.Argument(help="model folder or part, SAT checkpoint, LoRA, hub id, preset or video")
    ],
    check: Annotated[bool, typer.Option("--check", help="read every tensor: NaN, Inf, digests")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a checkpoint is, and what is wrong with it (exit code 1 when something is); what a video says of itself."""
    if "\0" in path or not path.strip():
        raise CheckpointError(f"{path!r}: not a path; pass a folder, a file or a preset")
    if _is_only_a_name(path):
        result(_preset_as_text(path, as_json))
        return
    from cogvideox.files.media import VIDEO_SUFFIXES

    if Path(path).suffix.lower() in VIDEO_SUFFIXES:
        if not Path(path).is_file():
            raise MediaError(f"{path}: no such file; check the path")
        from cogvideox.video import video_info

        found = video_info(path)
        result(found.to_json() if as_json else found.to_text())
        return
    from cogvideox.checkpoints import inspect as run

    report = run(path, check=check)
    result(report.to_json() if as_json else report.to_text())
    if not report.ok:
        raise typer.Exit(ERROR)


@app.command()
@verb
def train(
    recipe: Annotated[
        str, typer.Argument(help="a recipe (world-vae, world-t2v, lora, finetune, ...) or a run.yaml")
    ],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...")] = None,
    out: Annotated[str | None, typer.Option(help="folder of the run; the same folder resumes")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="check folders and models; print settings, memory, time"),
    ] = False,
    debug: Debug = False,
) -> None:
    """Train; rerunning the same command resumes. `cogvideox settings RECIPE` lists every setting of a recipe."""
    if recipe.endswith((".yaml", ".yml")):
        from cogvideox.files import read_yaml

        read_yaml(recipe)  # a file that cannot be read is told before torch is loaded, which takes seconds
    from cogvideox.api import training_config
    from cogvideox.training.recipes import run
    from cogvideox.training.stages import StagedRun

    config = training_config(recipe, out=out, overrides=settings or [])
    if dry_run:
        from cogvideox.cli.dry_run import show_run

        show_run(config)
        return
    from cogvideox.parallel.mesh import is_main_process, process_group

    task = config.base.task if isinstance(config, StagedRun) else config.task
    with process_group(task.compute_device):
        folder = run(config)
        if is_main_process():
            result(str(folder))


@app.command()
@verb
def settings(
    recipe: Annotated[
        str | None, typer.Argument(help="a recipe or a run.yaml; none: list the recipes")
    ] = None,
    find: Annotated[str | None, typer.Option(help="only settings whose path or meaning holds this")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Every setting of a training recipe: dotted path, value, type, meaning."""
    from cogvideox.cli.settings import show_settings

    show_settings(recipe, find, as_json)


@world.command("render")
@verb
def render(
    n: Annotated[int, typer.Option("--n", min=1, max=100_000, help="how many scenes")] = 8,
    out: Annotated[
        str, typer.Option(help="a folder for clips, or one .png for a contact sheet")
    ] = "world.png",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: Annotated[str, typer.Option(help="train or held-out part of the world")] = "train",
    size: Annotated[int, typer.Option(min=16, max=1024, help="pixels")] = 64,
    frames: Annotated[int, typer.Option(min=1, max=1024)] = 17,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Render clips whose truth is known: a folder of mp4 with facts beside them, or a contact sheet."""
    from cogvideox.cli.world import render_world

    render_world(n, Path(out), seed, split, size, frames, overwrite)


@world.command("judge")
@verb
def judge(
    videos: Annotated[list[str], typer.Argument(help="videos with their facts beside them as .json")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether videos show the facts that stand beside them."""
    from cogvideox.cli.world import judge_videos

    judge_videos([Path(video) for video in videos], as_json)


@world.command("validate")
@verb
def validate(
    n: Annotated[int, typer.Option("--n", min=1, max=100_000, help="clips for every kind of damage")] = 1000,
    model: Annotated[
        str | None, typer.Option(help="judge clips that went through this model's autoencoder too")
    ] = None,
    device: Annotated[str | None, typer.Option(help="where the autoencoder runs")] = None,
    debug: Debug = False,
) -> None:
    """Say how often the judge is right about clips whose truth is known, whole and damaged."""
    from cogvideox.cli.world import validate_judge

    validate_judge(n, model, device)


@app.command()
@verb
def curate(
    folder: Annotated[str, typer.Argument(help="folder of raw videos")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...")] = None,
    out: Annotated[
        str, typer.Option(help="folder of the result; the same folder does only what is left")
    ] = "curated",
    recipe: Annotated[str, typer.Option(help="default, staged, tiny, cuts, or a recipe.yaml")] = "default",
    engine: Annotated[str, typer.Option(help="local (processes) or ray (a cluster)")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one per core")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the complete recipe and stop")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn raw videos into training clips, and account for every one that is missing."""
    from cogvideox.cli.curate import curate_folder

    curate_folder(Path(folder), Path(out), recipe, settings or [], engine, workers, dry_run, as_json)


@data.command("inspect")
@verb
def data_inspect(
    folder: Annotated[str, typer.Argument(help="a curated folder")],
    clip: Annotated[
        str | None, typer.Option(help="id of a clip, or path of a film: all that is known of it")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what was kept and dropped, and why."""
    from cogvideox.cli.curate import inspect_data

    inspect_data(Path(folder), clip, as_json)


@data.command("report")
@verb
def data_report(
    folder: Annotated[str, typer.Argument(help="a curated folder")],
    debug: Debug = False,
) -> None:
    """Write the page with histograms, funnel and contact sheets again."""
    from cogvideox.cli.curate import report_data

    report_data(Path(folder))


@rate.command("serve")
@verb
def rate_serve(
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=FOLDER]...", help="videos of each model, equal names")
    ] = None,
    out: Annotated[str, typer.Option(help="folder of the study; the same folder goes on")] = "study",
    mode: Annotated[str, typer.Option(help="grades (the paper's) or pairs (which one is better)")] = "grades",
    port: Annotated[int, typer.Option(help="on this machine only")] = 8642,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="name it may be reached by through a tunnel or proxy; repeatable")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="prepare the study and stop")] = False,
    debug: Debug = False,
) -> None:
    """Serve the rating page: blind, in an order of each rater's own, durable."""
    from cogvideox.cli.rate import serve_ratings

    serve_ratings(folders or [], Path(out), mode, port, allow_host or [], dry_run)


@rate.command("report")
@verb
def rate_report(
    out: Annotated[str, typer.Argument(help="folder of the study")] = "study",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Means with intervals, a table like the paper's Table 4, agreement of raters."""
    from cogvideox.cli.rate import report_ratings

    report_ratings(Path(out), as_json)


def _is_only_a_name(path: str) -> bool:
    """Whether this is a model of the table that does not come with the package and is not a folder here."""
    from cogvideox.checkpoints.hub import shipped_folder
    from cogvideox.presets import PRESETS

    return path in PRESETS and not Path(path).exists() and shipped_folder(path) is None


def _preset_as_text(name: str, as_json: bool) -> str:
    """One row of the table of models, whole; nothing is downloaded for it."""
    from cogvideox.presets import PRESETS

    row = PRESETS[name]
    parts = {"vae": row.vae, "transformer": row.transformer, "scheduler": row.schedule}
    if as_json:
        facts = {
            "name": row.name,
            "kind": row.kind,
            "about": row.about,
            "licence": row.licence,
            "hub": row.hub,
        }
        return json.dumps(facts | {part: config.model_dump(mode="json") for part, config in parts.items()})
    lines = [f"{row.name}: {row.about}", f"  licence: {row.licence}", f"  weights: {row.hub or 'train them'}"]
    for part, config in parts.items():
        lines.append(f"  {part}:")
        lines += [f"    {line}" for line in config.to_yaml().rstrip().splitlines()]
    return "\n".join(lines)


def main() -> None:
    """Run the command line; Ctrl-C at any moment ends with 130 and no traceback."""
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)

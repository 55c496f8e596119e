"""Folders of videos: curate raw ones, look at what came out, say what training would do with one, label clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cogvideox.cli.flags import Debug, Json, Settings, flag
from cogvideox.cli.terminal import PARTIAL, result, result_json, verb
from cogvideox.errors import ConfigError, DependencyError
from cogvideox.progress import TERMINAL, say

data = typer.Typer(
    help="Folders of clips and captions: what training would do with them.", no_args_is_help=True
)
ENGINE = "local (processes) or ray (a cluster)"
LAYOUTS = "clips and captions in any layout that train reads"
CAPTIONS = "table, or list beside videos.txt, of the captions"
COLOUR = "how untagged videos are read: guess (by their size), bt601 or bt709"
ONE_CLIP = "id of a clip, or path of a video below the raw folder: all about it, and why it was dropped"
RECIPE = "default, staged, tiny, cuts, or a recipe.yaml"


@verb
def curate(
    folder: Annotated[str, typer.Argument(help="folder of raw videos")],
    settings: Settings = None,
    out: Annotated[str, flag("folder of the result; the same folder does only what is left")] = "curated",
    recipe: Annotated[str, flag(RECIPE)] = "default",
    engine: Annotated[str, flag(ENGINE)] = "local",
    workers: Annotated[int | None, flag("processes; default: one per core", min=1)] = None,
    dry_run: Annotated[bool, flag("print the complete recipe and stop", None, "--dry-run")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn raw videos into training clips, and account for every one that is missing."""
    from cogvideox import api

    if dry_run:
        result(api.curation_recipe(recipe, settings or []).to_yaml().rstrip())
        return
    summary = api.curate(
        folder,
        out,
        recipe=recipe,
        engine=engine,
        workers=workers,
        overrides=settings or [],
        reporter=TERMINAL,
    )
    print_summary(summary, Path(out), as_json)
    trouble = [
        drop for drop in summary["dropped"] if drop["reason"] in ("failed", "crashed", "cannot be cut")
    ]
    if trouble:
        count = sum(drop["clips"] for drop in trouble)
        say(f"error: {count} videos or clips were given up; see {Path(out) / 'dropped.jsonl'}")
        raise typer.Exit(PARTIAL)


def print_summary(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print how many clips were kept and dropped, for which reasons, and the path of the report."""
    if as_json:
        result_json(
            {"out": str(out), **{k: v for k, v in summary.items() if k not in ("samples", "quantiles")}}
        )
        return
    result(
        f"{summary['kept']} of {summary['clips']} clips kept from {summary['films']} videos: "
        f"{summary['kept_seconds']:.1f} of {summary['seconds']:.1f} s"
    )
    for drop in sorted(summary["dropped"], key=lambda drop: -drop["clips"]):
        result(f"  {drop['clips']:6d}  {drop['step']}: {drop['reason']}")
    result(str(out / "report.html"))


@data.command("inspect")
@verb
def inspect_curated(
    folder: Annotated[str, typer.Argument(help="a curated folder")],
    clip: Annotated[str | None, flag(ONE_CLIP)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what was kept and dropped, and why; with --clip everything known about one clip."""
    from cogvideox.curation.results import dropped_rows, kept_rows, read_summary
    from cogvideox.files import parse_json

    out = Path(folder)
    summary = read_summary(out)
    if clip is None:
        print_summary(summary, out, as_json)
        return
    records = [parse_json(kept["record"], "clips.parquet") for kept in kept_rows(out, ["record"])]
    matches = [
        each for each in (*records, *dropped_rows(out)) if clip in (each["id"], each["source"]["path"])
    ]
    if not matches:
        raise ConfigError(
            f"clip {clip!r}: neither kept nor dropped in {out}; give an id, or the path of a video below the raw folder"
        )
    for record in matches:
        result_json(record) if as_json else result("\n".join(_lines(record)))


def _lines(record: dict[str, Any]) -> Iterator[str]:
    """Lines of text about a clip: kept or dropped and why, its video, its captions, one line for each score."""
    source, span, dropped = record["source"], record["span"], record.get("dropped")
    place = f", {span['start']:.2f} to {span['end']:.2f} s" if span else ""
    yield f"{record['id']}: {source['path']}{place}"
    if dropped:
        yield f"  dropped by {dropped['step']}: {dropped['reason']}{': ' * bool(dropped['detail'])}{dropped['detail']}"
    else:
        media = record["media"]
        yield f"  kept          {media['frames']} frames of {media['width']}x{media['height']}, {media['fps']} a second"
        yield f"  stages        {', '.join(one['stage'] for one in record['decisions'] if one['kept'])}"
    if source["frames"]:
        yield (
            f"  video         {source['width']}x{source['height']}, {source['fps']:g} frames a second, "
            f"{source['seconds']:.2f} s, {source['codec']} in {source['container']}, {source['bytes']:,} bytes"
        )
    for one in record["captions"]:
        yield f"  {'caption':13} {one['text']}{' (' * bool(one['author'])}{one['author']}{')' * bool(one['author'])}"
    for name, value in sorted(record["scores"].items()):
        yield f"  {name:15} {'not known' if value is None else format(value, '.4g')}"


@data.command("report")
@verb
def report_curated(
    folder: Annotated[str, typer.Argument(help="a curated folder")], debug: Debug = False
) -> None:
    """Write the page with histograms, funnel and contact sheets again."""
    from cogvideox.curation.report import write_report

    result(str(write_report(Path(folder))))


@data.command("doctor")
@verb
def doctor(
    folder: Annotated[str, typer.Argument(metavar="DIR", help=LAYOUTS)],
    fps: Annotated[float, flag("frames per second", min=0.1, max=240)] = 8,
    frames: Annotated[int, flag("frames of a clip at most, 8n + 1", min=1)] = 49,
    least_frames: Annotated[int, flag("videos with fewer are dropped, 8n + 1", min=1)] = 9,
    short_side: Annotated[int, flag("pixels of the short side", min=16)] = 256,
    budget: Annotated[int | None, flag("tokens of a packed row", min=1)] = None,
    caption: Annotated[str | None, flag("of clips that have none")] = None,
    captions: Annotated[str | None, flag(CAPTIONS, metavar="FILE")] = None,
    caption_column: Annotated[str | None, flag("column of the captions")] = None,
    file_column: Annotated[str | None, flag("column of the files")] = None,
    colour: Annotated[str, flag(COLOUR)] = "guess",
    quick: Annotated[bool, flag("read headers only", None, "--quick")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say of every clip whether it can be trained on, and why not (exit code 3 when some cannot)."""
    from cogvideox.clip_folders import CaptionSource, Columns
    from cogvideox.data.clips import ClipSize
    from cogvideox.data.doctor import diagnose
    from cogvideox.video.colour import colour_of

    size = ClipSize(fps=fps, frames=frames, least_frames=min(least_frames, frames), short_side=short_side)
    source = CaptionSource(captions, Columns(caption_column, file_column))
    read_as = colour_of(colour)
    report = diagnose(
        folder, size, decode=not quick, budget=budget, caption=caption, source=source, colour=read_as
    )
    result_json(report.to_json()) if as_json else result(report.to_text())
    if report.dropped:
        raise typer.Exit(PARTIAL)


@data.command("label")
@verb
def label(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="videos or clips to label")],
    labels: Annotated[str, flag("file that the labels are kept in")] = "labels.jsonl",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7863,
    debug: Debug = False,
) -> None:
    """Open a page of this machine to label clips by keyboard."""
    try:
        from cogvideox.rating.labelling_app import LabelSheet, labelling_app
        from cogvideox.web.listening import address, listen, serve
    except ImportError:
        raise DependencyError("fastapi and uvicorn are not installed; install cogvideox[serve]") from None
    app = labelling_app(LabelSheet(Path(folder), Path(labels)))
    with listen(port) as server:
        result(address(server))
        serve(app, server)

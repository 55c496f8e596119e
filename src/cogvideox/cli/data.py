"""Verbs on folders of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogvideox.cli.terminal import PARTIAL, result, result_json, verb

data = typer.Typer(
    help="Folders of clips and captions: what training would do with them.", no_args_is_help=True
)


@data.command("doctor")
@verb
def doctor(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="clips and captions in any layout that train reads")
    ],
    fps: Annotated[float, typer.Option(min=0.1, max=240, help="frames per second")] = 8,
    frames: Annotated[int, typer.Option(min=1, help="at most so many frames, 8n + 1")] = 49,
    least_frames: Annotated[int, typer.Option(min=1, help="videos with fewer are dropped, 8n + 1")] = 9,
    short_side: Annotated[int, typer.Option(min=16, help="pixels of the short side")] = 256,
    budget: Annotated[int | None, typer.Option(min=1, help="tokens of a packed row")] = None,
    caption: Annotated[str | None, typer.Option(help="of clips that have none")] = None,
    captions: Annotated[
        str | None, typer.Option(metavar="FILE", help="table, or list beside videos.txt, of the captions")
    ] = None,
    caption_column: Annotated[str | None, typer.Option(help="column of the captions")] = None,
    file_column: Annotated[str | None, typer.Option(help="column of the files")] = None,
    colour: Annotated[
        str, typer.Option(help="how untagged videos are read: guess (by their size), bt601 or bt709")
    ] = "guess",
    quick: Annotated[bool, typer.Option("--quick", help="read headers only")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="results as JSON")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Say of every clip whether it can be trained on, and why not (exit code 3 when some cannot)."""
    from cogvideox.clip_folders import CaptionSource, Columns
    from cogvideox.data.clips import ClipSize
    from cogvideox.data.doctor import diagnose
    from cogvideox.video.colour import colour_of

    size = ClipSize(fps=fps, frames=frames, least_frames=min(least_frames, frames), short_side=short_side)
    source = CaptionSource(captions, Columns(caption_column, file_column))
    report = diagnose(
        folder,
        size,
        decode=not quick,
        budget=budget,
        caption=caption,
        source=source,
        colour=colour_of(colour),
    )
    if as_json:
        result_json(report.to_json())
    else:
        result(report.to_text())
    if report.dropped:
        raise typer.Exit(PARTIAL)


@data.command("label")
@verb
def label(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="films or clips to look at")],
    labels: Annotated[str, typer.Option(help="file that the labels are kept in")] = "labels.jsonl",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7863,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Open a page of this machine to label clips by keyboard."""
    from cogvideox.cli.curate import label_data

    label_data(Path(folder), Path(labels), port)

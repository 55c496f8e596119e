"""The verbs of curation: curate a folder, look at what came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cogvideox.cli.terminal import PARTIAL, result, result_json
from cogvideox.errors import ConfigError, DependencyError
from cogvideox.progress import TERMINAL, say


def curate_folder(
    folder: Path,
    out: Path,
    recipe: str,
    settings: list[str],
    engine: str,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """One call of ``cogvideox.curate``; exit code 3 when a step stumbled or a worker died."""
    from cogvideox.api import curate, curation_recipe

    if dry_run:
        result(curation_recipe(recipe, settings).to_yaml().rstrip())
        return
    summary = curate(
        folder,
        out,
        recipe=recipe,
        engine=engine,
        workers=workers,
        overrides=settings,
        reporter=TERMINAL,
    )
    print_summary(summary, out, as_json)
    trouble = [row for row in summary["dropped"] if row["reason"] in ("failed", "crashed", "cannot be cut")]
    if trouble:
        say(f"error: {sum(row['clips'] for row in trouble)} films or clips were given up; see dropped.jsonl")
        raise typer.Exit(PARTIAL)


def print_summary(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """Counts and reasons, and where the result lies."""
    if as_json:
        result_json(
            {"out": str(out), **{k: v for k, v in summary.items() if k not in ("samples", "quantiles")}}
        )
        return
    result(
        f"{summary['kept']} of {summary['clips']} clips kept from {summary['films']} films: "
        f"{summary['kept_seconds']:.1f} of {summary['seconds']:.1f} s"
    )
    for row in sorted(summary["dropped"], key=lambda row: -row["clips"]):
        result(f"  {row['clips']:6d}  {row['step']}: {row['reason']}")
    result(str(out / "report.html"))


def inspect_data(out: Path, clip: str | None, as_json: bool) -> None:
    """What is in a curated folder, or all that is known of one clip or film."""
    from cogvideox.curation.results import dropped_rows, kept_rows, read_summary
    from cogvideox.files import parse_json

    summary = read_summary(out)
    if clip is None:
        print_summary(summary, out, as_json)
        return
    records = (parse_json(row["record"], "clips.parquet") for row in kept_rows(out, ["record"]))
    found = [record for record in records if _is(clip, record)]
    found += [row for row in dropped_rows(out) if _is(clip, row)]
    if not found:
        raise ConfigError(
            f"clip {clip!r}: neither kept nor dropped in {out}; give an id or the path of a film"
        )
    for row in found:
        result_json(row) if as_json else result("\n".join(_lines(row)))


def _is(clip: str, row: dict[str, Any]) -> bool:
    return clip in (row["id"], row["source"]["path"])


def _lines(row: dict[str, Any]) -> Iterator[str]:
    """A record as a person reads it: what became of the clip, the film, the captions, then each number in a line."""
    source, span, dropped = row["source"], row["span"], row.get("dropped")
    place = f", {span['start']:.2f} to {span['end']:.2f} s" if span else ""
    yield f"{row['id']}: {source['path']}{place}"
    if dropped:
        yield f"  dropped by {dropped['step']}: {dropped['reason']}{': ' * bool(dropped['detail'])}{dropped['detail']}"
    else:
        media = row["media"]
        yield f"  kept          {media['frames']} frames of {media['width']}x{media['height']}, {media['fps']} a second"
        yield f"  stages        {', '.join(one['stage'] for one in row['decisions'] if one['kept'])}"
    if source["frames"]:
        yield (
            f"  film          {source['width']}x{source['height']}, {source['fps']:g} frames a second, "
            f"{source['seconds']:.2f} s, {source['codec']} in {source['container']}, {source['bytes']:,} bytes"
        )
    for one in row["captions"]:
        yield f"  {'caption':13} {one['text']}{' (' * bool(one['author'])}{one['author']}{')' * bool(one['author'])}"
    for name, value in sorted(row["scores"].items()):
        yield f"  {name:15} {'not known' if value is None else format(value, '.4g')}"


def report_data(out: Path) -> None:
    """Write the report again."""
    from cogvideox.curation.report import write_report

    result(str(write_report(out)))


def label_data(folder: Path, labels: Path, port: int) -> None:
    """Answer on this machine's loopback until it is stopped."""
    try:
        from cogvideox.rating.labelling_app import LabelSheet, labelling_app
        from cogvideox.rating.loopback import address, listen, serve
    except ImportError:
        raise DependencyError("fastapi and uvicorn are not installed; install cogvideox[serve]") from None
    app = labelling_app(LabelSheet(folder, labels))
    with listen(port) as server:
        result(address(server))
        serve(app, server)

"""The verb caption: a folder of videos gets descriptions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.cli.terminal import PARTIAL, result, result_json, verb
from cogvideox.errors import ConfigError
from cogvideox.progress import TERMINAL, say

if TYPE_CHECKING:
    from cogvideox.captioning.describe import CaptionRecord


@verb
def caption(
    videos: Annotated[str, typer.Argument(help="a folder of videos, or one video")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="watch (local captioner), paper, distilled, or ask (a video model)")
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            help="address of an OpenAI-compatible server, model folder of transformers, or rules (tiny world)"
        ),
    ] = None,
    ask_model: Annotated[str | None, typer.Option(help="the model on it; its key: OPENAI_API_KEY")] = None,
    captioner: Annotated[
        str | None, typer.Option(help="folder of the local captioner; default: shipped")
    ] = None,
    summariser: Annotated[str | None, typer.Option(help="folder of the local summariser")] = None,
    match: Annotated[str | None, typer.Option(help="who judges captions: none, rules or ask")] = None,
    least_match: Annotated[
        float | None, typer.Option(help="captions that fit less are dropped, 0 to 1")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="folder of clips and captions; default: captions, or into a curated folder itself"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="results as JSON")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the complete settings and stop")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Describe a folder of videos, or the clips of a curated folder in place.

    Rerunning the same command asks only for what is missing.
    """
    from cogvideox import api
    from cogvideox.captioning.folder import find_videos
    from cogvideox.captioning.strategy import CaptionConfig
    from cogvideox.curation.captions import is_curated, to_caption

    flags: dict[str, Any] = {"strategy": strategy, "ask": ask, "ask_model": ask_model, "captioner": captioner}
    flags |= {"summariser": summariser, "match": match, "least_match": least_match}
    config = CaptionConfig.parse({name: value for name, value in flags.items() if value is not None})
    config = config.override(settings) if settings else config
    place = Path(videos)
    inside = is_curated(place)
    if inside and out is not None and not (Path(out).exists() and place.samefile(out)):
        raise ConfigError(f"--out {out}: captions of a curated folder are written into it; leave --out away")
    if inside:
        total, own, files = to_caption(place)
        what = f"{files} shards" if (place / "shards").is_dir() else "metadata.jsonl"
        say(
            f"{place}: a curated folder: captions of {total} clips are written into it ({what}, clips.parquet, "
            f"report.html, captions.jsonl; each whole or not at all); {own} clips have their author's and keep it"
        )
    else:
        total = len(find_videos(place))
    if dry_run:
        result(config.to_yaml().rstrip())
        return
    if config.strategy == "watch" and config.captioner is None:
        say(
            "the shipped captioner knows the tiny world of moving shapes alone; for other videos: --captioner or --ask"
        )
    reasons: Counter[str] = Counter()

    def note_reason(record: CaptionRecord) -> None:
        if record.ended in ("failed", "pending"):
            reasons[f"{record.ended}: {record.detail or record.reason}"[:300]] += 1

    ended = api.caption(place, out, config=config, on_record=note_reason, reporter=TERMINAL)
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(ended.counts.items()))
    say(f"{total} videos: {counts}")
    paths = {"metadata": str(ended.metadata), "records": str(ended.records)}
    result_json({**paths, "counts": ended.counts}) if as_json else result(str(ended.metadata))
    if set(ended.counts) & {"failed", "pending"}:
        for reason, number in reasons.most_common(3):
            say(f"{number} {reason}")
        again = "; run again for what is pending" if "pending" in ended.counts else ""
        say(f"all reasons are in {ended.records}{again}")
        raise typer.Exit(PARTIAL)

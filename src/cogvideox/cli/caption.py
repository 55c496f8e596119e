"""The verb caption: a folder of videos gets descriptions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvideox.captioning.options import OPTION_GROUPS, CaptionOptions
from cogvideox.cli.flags import OUTPUT, Debug, Engine, Json, Settings, Workers, flag, with_flags
from cogvideox.cli.terminal import PARTIAL, result, result_json, verb
from cogvideox.progress import TERMINAL, say

if TYPE_CHECKING:
    from cogvideox.captioning.describe import CaptionRecord
    from cogvideox.captioning.folder import CaptionSummary

OUT = "folder of clips and captions; default: captions, or into a curated folder itself"
ONLY_THE_WORLD = (
    "the shipped captioner knows the tiny world of moving shapes alone; "
    "for other videos: --captioner or --ask"
)


@verb
@with_flags(CaptionOptions, OPTION_GROUPS)
def caption(
    options: dict[str, Any],
    videos: Annotated[str, typer.Argument(help="a folder of videos, or one video")],
    settings: Settings = None,
    out: Annotated[str | None, flag(OUT, OUTPUT)] = None,
    engine: Engine = "local",
    workers: Workers = None,
    as_json: Json = False,
    dry_run: Annotated[bool, flag("print the complete settings and stop", OUTPUT, "--dry-run")] = False,
    debug: Debug = False,
) -> None:
    """Describe a folder of videos, or the clips of a curated folder in place.

    Rerunning the same command asks only for what is missing.
    """
    from cogvideox import api
    from cogvideox.captioning.strategy import CaptionConfig
    from cogvideox.engines import JobEngine

    config = CaptionConfig.parse(options).override(settings or [])
    api.check_caption_folder(videos, out)
    total = _count_videos(Path(videos))
    if dry_run:
        result(config.to_yaml().rstrip())
        return
    if config.strategy == "watch" and config.captioner is None:
        say(ONLY_THE_WORLD)
    reasons: Counter[str] = Counter()

    def note_reason(record: CaptionRecord) -> None:
        if record.ended in ("failed", "pending"):
            reasons[f"{record.ended}: {record.detail or record.reason}"[:300]] += 1

    where = JobEngine(engine, workers)
    summary = api.caption(videos, out, config=config, on_record=note_reason, engine=where, reporter=TERMINAL)
    _tell(summary, total, reasons, as_json)


def _count_videos(folder: Path) -> int:
    """How many videos there are to describe; for a curated folder it is said which files will change."""
    from cogvideox.captioning.folder import find_videos
    from cogvideox.curation.captions import is_curated, to_caption

    if not is_curated(folder):
        return len(find_videos(folder))
    total, own, files = to_caption(folder)
    what = f"{files} shards" if (folder / "shards").is_dir() else "metadata.jsonl"
    say(
        f"{folder}: a curated folder: captions of {total} clips are written into it ({what}, clips.parquet, "
        f"report.html, captions.jsonl; each whole or not at all); {own} clips have their author's and keep it"
    )
    return total


def _tell(summary: CaptionSummary, total: int, reasons: Counter[str], as_json: bool) -> None:
    """How many captions there are, where, and the commonest reasons why some are not; exit code 3 where some failed."""
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(summary.counts.items()))
    say(f"{total} videos: {counts}")
    paths = {"metadata": str(summary.metadata), "records": str(summary.records)}
    result_json({**paths, "counts": summary.counts}) if as_json else result(str(summary.metadata))
    if set(summary.counts) & {"failed", "pending"}:
        for reason, number in reasons.most_common(3):
            say(f"{number} {reason}")
        again = "; run again for what is pending" if "pending" in summary.counts else ""
        say(f"all reasons are in {summary.records}{again}")
        raise typer.Exit(PARTIAL)

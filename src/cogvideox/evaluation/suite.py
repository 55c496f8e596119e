"""Run a suite: groups of scores over a folder's videos, each group kept so that a rerun makes only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogvideox.errors import ConfigError, InputError, suggest
from cogvideox.evaluation.compare import PairedDifference, compare
from cogvideox.evaluation.measures import SUITES, Material, partners
from cogvideox.evaluation.page import write_page
from cogvideox.evaluation.progress import Show, watched
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.score import LEAST_PROMPTS, Score
from cogvideox.evaluation.video_folder import Refused, ScoredVideo, VideoFolder
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.files.digest import sha256_of_values
from cogvideox.video import Video
from cogvideox.world import Prompt, held_out_prompts, render

GROUPS = "groups"


def evaluate(
    material: Material,
    suite: str,
    out: Path,
    subject: str = "",
    missing: Sequence[str] = (),
    show: Show | None = None,
    **settings: Any,
) -> ScoreReport:
    """Every score of a suite. Writes report.json and report.html into ``out``; raises ConfigError for no such suite.

    ``show``: told how far each stage is. ``missing``: names of videos that were asked for and are not there.
    """
    if suite not in SUITES:
        raise ConfigError(f"suite {suite!r}: unknown{suggest(suite, SUITES)}; there are: {', '.join(SUITES)}")
    ScoreReport.check_free(out)
    scores: list[Score] = []
    groups = SUITES[suite]
    for name, group in groups.items():
        kept, key = out / GROUPS / f"{name}.json", _key(material)
        found = _read_group(kept, key)
        if found is None:
            found = group(watched(material, name, show) if show is not None else material)
            write_json(kept, {"key": key, "scores": [score.to_dict() for score in found]}, overwrite=True)
        scores += found
    report = ScoreReport.of(
        suite, subject, scores, _with_strangers(material), missing=tuple(missing), settings=settings
    )
    report.save(out)
    write_page(report, material.clips, out)
    return report


def add_comparison(
    report: ScoreReport, other: ScoreReport, clips: VideoFolder, out: Path
) -> tuple[ScoreReport, list[PairedDifference]]:
    """Compare with another run and write the report and its page again with that. Raises InputError where the two share
    nothing; the report without it stays."""
    found = compare(report, other)
    rows = [vars(each) for each in found]
    said = {"against": other.subject, "made": other.made.get("created", ""), "least_prompts": LEAST_PROMPTS}
    report = replace(report, comparison={**said, "rows": rows})
    report.save(out)
    write_page(report, clips, out)
    return report, found


def world_checks(
    clips: Sequence[ScoredVideo],
) -> tuple[dict[str, Sequence[Any]], Callable[[ScoredVideo], Refused | None]]:
    """The facts each video of the tiny world was asked to show, by name, and a filter for those that say none.

    A video belongs to the suite when its prompt is one of the 200, or when a list of checks stands beside it.
    """
    known: dict[str, Prompt] = {prompt.prompt: prompt for prompt in held_out_prompts()}
    checks: dict[str, Sequence[Any]] = {}
    for clip in clips:
        beside = clip.record.get("checks")
        if clip.prompt in known:
            checks[clip.name] = known[clip.prompt].checks
        elif isinstance(beside, list) and all(isinstance(check, dict) for check in beside):
            checks[clip.name] = beside

    def keep(clip: ScoredVideo) -> Refused | None:
        if clip.frames < 5:
            return Refused(clip.name, "mismatched", f"{clip.frames} frames; the judge reads at least 5")
        if clip.name in checks:
            return None
        what = (
            f"its prompt {clip.prompt[:60]!r} is none of the suite's"
            if clip.prompt
            else "no prompt is known for it"
        )
        return Refused(clip.name, "mismatched", what)

    return checks, keep


class _Truth(Sequence[Video]):
    """Rendered scenes of the held-out prompts, made when asked for."""

    def __len__(self) -> int:
        return len(held_out_prompts())

    def __getitem__(self, place: Any) -> Any:
        return Video(render(held_out_prompts()[place].scene), 8.0)


def world_truth() -> Sequence[Video]:
    """What a perfect model could answer to the 200 prompts: the real side of the world's FVD."""
    return _Truth()


def _with_strangers(material: Material) -> Any:
    """The clips, with those named that have no original although originals were given."""
    if material.references is None:
        return material.clips
    paired = {a for a, _ in partners(material.clips, material.references)}
    clips = material.clips
    why = "no original of its name and size; not in the scores that compare with originals"
    strangers = [
        Refused(item.name, "unpaired", why) for place, item in enumerate(clips.items) if place not in paired
    ]
    return type(clips)(clips.folder, clips.items, (*clips.refused, *strangers, *material.references.refused))


def _key(material: Material) -> str:
    """Changes with any video, reference, fact or tool."""
    references = material.references.fingerprint() if material.references is not None else len(material.real)
    checks = {name: [str(check) for check in asked] for name, asked in material.checks.items()}
    parts = [material.clips.fingerprint(), references, material.tools.names(), checks, material.fvd_fps]
    return sha256_of_values(parts)


def _read_group(file: Path, key: str) -> list[Score] | None:
    """Scores of a finished group on the same material; None where they must be made."""
    try:
        record = read_json(file, most=64 << 20, nan_is_none=True, error=InputError)
        if record["key"] == key:
            return [Score.from_dict(score) for score in record["scores"]]
    except (InputError, ValueError, KeyError, TypeError):
        return None
    return None

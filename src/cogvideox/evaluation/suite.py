"""Run a suite: the metrics of its groups over a folder's videos, each group kept so that a rerun measures only what
changed. Each group, and each pass over the videos, is a stage with a progress bar of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogvideox import __version__
from cogvideox.errors import ConfigError, InputError, suggest
from cogvideox.evaluation.compare import PairedDifference, compare
from cogvideox.evaluation.metrics import GROUPS, SUITES, MetricInputs
from cogvideox.evaluation.report import ScoreReport
from cogvideox.evaluation.report_page import write_page
from cogvideox.evaluation.score import LEAST_PROMPTS, Score
from cogvideox.evaluation.video_folder import LazyVideos, Refused, ScoredVideo, VideoFolder
from cogvideox.files import read_json
from cogvideox.files.atomic import write_json
from cogvideox.files.digest import sha256_of_values
from cogvideox.video import Video
from cogvideox.world import Prompt, held_out_prompts, render

KEPT = "groups"
"""Folder beside the report with the scores of each group."""
Show = Callable[[str, int, int], Any]
"""Called with (stage, done, total)."""


def evaluate(
    inputs: MetricInputs,
    suite: str,
    out: Path,
    subject: str = "",
    missing: Sequence[str] = (),
    show: Show | None = None,
    **settings: Any,
) -> ScoreReport:
    """Measure every score of a suite; writes report.json and report.html into ``out``.

    Raises ConfigError for an unknown suite, OutputError where ``out`` has other files of these names.

    ``show``: called with the progress of each stage. ``missing``: names of videos that should be there and are not.
    """
    if suite not in SUITES:
        raise ConfigError(f"suite {suite!r}: unknown{suggest(suite, SUITES)}; there are: {', '.join(SUITES)}")
    ScoreReport.check_free(out)
    scores: list[Score] = []
    for group in SUITES[suite]:
        file, key = out / KEPT / f"{group}.json", _key(inputs, group)
        kept = _read_scores(file, key)
        if kept is None:
            watched = with_progress(inputs, group, show) if show is not None else inputs
            kept = [score for metric in GROUPS[group] for score in metric.measure(watched)]
            write_json(file, {"key": key, "scores": [score.to_dict() for score in kept]}, overwrite=True)
        scores += kept
    report = ScoreReport.of(
        suite, subject, scores, _with_unpaired(inputs), missing=tuple(missing), settings=settings
    )
    report.save(out)
    write_page(report, inputs.videos, out)
    return report


def _key(inputs: MetricInputs, group: str) -> str:
    """Digest of what decides a group's scores: its metrics, the version, videos, references, facts and tools."""
    references = inputs.references.fingerprint() if inputs.references is not None else len(inputs.real)
    checks = {name: [str(check) for check in asked] for name, asked in inputs.checks.items()}
    metrics = [__version__, *(metric.name for metric in GROUPS[group])]
    content = [metrics, inputs.videos.fingerprint(), references, inputs.tools.names(), checks, inputs.fvd_fps]
    return sha256_of_values(content if inputs.style == "plain" else [*content, inputs.style])


def _read_scores(file: Path, key: str) -> list[Score] | None:
    """Scores of a group that was measured on the same inputs; None where there are none."""
    try:
        record = read_json(file, most=64 << 20, nan_is_none=True, error=InputError)
        if record["key"] == key:
            return [Score.from_dict(score) for score in record["scores"]]
    except (InputError, ValueError, KeyError, TypeError):
        return None
    return None


def _with_unpaired(inputs: MetricInputs) -> VideoFolder:
    """The videos; where originals were given, those without one are added to ``refused``."""
    videos = inputs.videos
    if inputs.references is None:
        return videos
    paired = {index for index, _ in inputs.pairs}
    why = "no original of its name and size; not in the scores that compare with originals"
    unpaired = [
        Refused(item.name, "unpaired", why) for index, item in enumerate(videos.items) if index not in paired
    ]
    return replace(videos, refused=(*videos.refused, *unpaired, *inputs.references.refused))


def add_comparison(
    report: ScoreReport, other: ScoreReport, videos: VideoFolder, out: Path
) -> tuple[ScoreReport, list[PairedDifference]]:
    """Compare with another run and write the report and its page again with the differences.

    Raises InputError where the two runs share no score; the report stays without a comparison.
    """
    differences = compare(report, other)
    comparison = {
        "against": other.subject,
        "made": other.provenance.get("created", ""),
        "least_prompts": LEAST_PROMPTS,
        "rows": [vars(each) for each in differences],
    }
    report = replace(report, comparison=comparison)
    report.save(out)
    write_page(report, videos, out)
    return report, differences


def world_checks(
    videos: Sequence[ScoredVideo], style: str = "plain"
) -> tuple[dict[str, Sequence[Any]], Callable[[ScoredVideo], Refused | None]]:
    """The facts each video of the tiny world was asked to show, by name, and a filter for videos without any.

    A video belongs to the suite when its prompt is one of the 200 of the style, or when a list of checks stands beside
    it.
    """
    known: dict[str, Prompt] = {prompt.prompt: prompt for prompt in held_out_prompts(style)}
    checks: dict[str, Sequence[Any]] = {}
    for video in videos:
        beside = video.record.get("checks")
        if video.prompt in known:
            checks[video.name] = known[video.prompt].checks
        elif isinstance(beside, list) and all(isinstance(check, dict) for check in beside):
            checks[video.name] = beside

    def keep(video: ScoredVideo) -> Refused | None:
        if video.frames < 5:
            return Refused(video.name, "mismatched", f"{video.frames} frames; the judge reads at least 5")
        if video.name in checks:
            return None
        what = (
            f"its prompt {video.prompt[:60]!r} is none of the suite's"
            if video.prompt
            else "no prompt is known for it"
        )
        return Refused(video.name, "mismatched", what)

    return checks, keep


def world_truth(style: str = "plain") -> Sequence[Video]:
    """Renders of the scenes of a style's 200 held-out prompts: the real videos for FVD in the suite ``world``."""
    prompts = held_out_prompts(style)
    return LazyVideos(len(prompts), lambda index: Video(render(prompts[index].scene), 8.0))


def with_progress(inputs: MetricInputs, group: str, show: Show) -> MetricInputs:
    """The same inputs, which call ``show`` whenever a video of them is read while ``group`` is measured."""
    references, real = inputs.references, inputs.real
    if references is not None:
        references = replace(references, on_progress=PassCounter(f"{group}: references", show))
    if len(real):
        real = _counted(real, PassCounter(f"{group}: real videos", show))
    return replace(
        inputs,
        videos=replace(inputs.videos, on_progress=PassCounter(f"{group}: videos", show)),
        references=references,
        real=real,
        on_progress=PassCounter(f"{group}: intervals", show),
    )


@dataclass
class PassCounter:
    """Shows each pass over the videos as a progress stage of its own, so that the time left is estimated well."""

    stage: str
    show: Show
    number: int = 1
    last: int = field(default=0, repr=False)

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``; a smaller ``done`` than before begins another pass."""
        self.number += done < self.last
        self.last = done
        self.show(self.stage if self.number == 1 else f"{self.stage}, pass {self.number}", done, total)


def _counted(videos: Sequence[Video], counter: PassCounter) -> Sequence[Video]:
    """The same videos, each of which is counted when it is read."""

    def read(index: int) -> Video:
        counter(index + 1, len(videos))
        return videos[index]

    return LazyVideos(len(videos), read)

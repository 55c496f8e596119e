"""Which facts of the tiny world hold: scores of the suites ``world`` and ``two``, and a resumable run of a model.

The rule-based check of ``world.fact_check`` reads the pixels. ``two`` asks for two different things in one clip: are
both there, is each colour on its own shape, do they stand as asked? Its prompts are held-out scenes of the tier
``pair``: no training clip shows both things of a prompt, and for 42 of the 60 prompts none shows one of the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox.errors import ConfigError, InputError
from cogvideox.evaluation.score import Score, mean_score, median_score
from cogvideox.evaluation.video_folder import VideoFolder
from cogvideox.files import parse_json, read_small_text
from cogvideox.files.atomic import write_text
from cogvideox.files.jsonl import lines_of
from cogvideox.video import Video
from cogvideox.world import Scene, caption, check_facts, facts, sample_scene
from cogvideox.world.held_out import Prompt, held_out_prompts
from cogvideox.world.score import KINDS, PAIR_KINDS, FactScore, outcomes, report, report_by_tier, score_table
from cogvideox.world.silhouette import silhouette_agreement

TWO_OBJECT_SEED, TWO_OBJECT_PROMPTS = 20_260_101, 60
# two_bound: each colour is on its own shape
TWO_OBJECT_FACTS = ("two_colours", "two_bound", "two_count", "two_relation", "two_all")


def world_scores(
    videos: VideoFolder,
    checks: Mapping[str, Sequence[Any]],
    verdicts: Mapping[str, dict[str, Any]],
    style: str = "plain",
) -> list[Score]:
    """How often each kind of fact holds; the bootstrap resamples prompts with all their videos.

    ``checks``: file name -> the facts that the video was asked to show; ``verdicts``: records of videos that were
    checked before. Videos that are in neither are left out (NaN).
    """
    held: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for item, video in zip(videos.items, videos, strict=True):
        verdict = verdicts.get(item.name)
        if verdict is None and item.name in checks:
            verdict = check_facts(video.frames, checks[item.name], style).to_dict()
        holds = outcomes(verdict) if verdict is not None else {}
        for kind in KINDS:
            held[kind].append(float(holds[kind]) if kind in holds else float("nan"))
    return [
        mean_score(
            f"world_{kind.replace(' ', '_')}",
            each,
            clusters=videos.prompts,
            binary=True,
            protocol="share of videos the judge agrees with",
        )
        for kind, each in held.items()
        if kind not in PAIR_KINDS or not np.isnan(each).all()
    ]


def silhouette_scores(videos: Iterable[Video], prompts: Sequence[str], style: str = "plain") -> list[Score]:
    """How well outlines agree with the ideal shapes (IoU), mean and median over videos; others are left out (NaN)."""
    scenes = {each.prompt: each.scene for each in held_out_prompts(style)}
    if style == "plain":
        scenes |= {each.prompt: each.scene for each in two_object_prompts()}
    each = [
        silhouette_agreement(video.frames, scenes[prompt]) if prompt in scenes else float("nan")
        for video, prompt in zip(videos, prompts, strict=True)
    ]
    protocol = "IoU with the ideal shape of equal area and centre, mean over frames and things"
    return [
        mean_score("silhouette_iou", each, clusters=prompts, protocol=protocol),
        median_score(
            "silhouette_iou_median", each, clusters=prompts, protocol=f"{protocol}; median over videos"
        ),
    ]


@dataclass(frozen=True)
class TwoObjectPrompt:
    """A prompt about two different things, and the scene that it describes."""

    id: str
    prompt: str
    scene: Scene


@cache
def two_object_prompts() -> tuple[TwoObjectPrompt, ...]:
    """The 60 prompts of suite ``two``, no sentence twice; about three in four state a relation of the two things."""
    prompts: dict[str, TwoObjectPrompt] = {}
    index = 0
    while len(prompts) < TWO_OBJECT_PROMPTS:
        scene = sample_scene(TWO_OBJECT_SEED, index, "held_out", "pair")
        prompt = caption(scene, TWO_OBJECT_SEED, index)
        prompts.setdefault(
            prompt.lower().rstrip("."), TwoObjectPrompt(f"two-{len(prompts):03d}", prompt, scene)
        )
        index += 1
    return tuple(prompts.values())


def check_two_objects(frames: np.ndarray, scene: Scene) -> dict[str, bool]:
    """Which facts hold in ``uint8 [t, h, w, 3]``: both colours, each on its shape, no third thing, the relation, all.

    A fact holds when more than half of the frames show it. The relation is left out where the prompt states none.
    """
    verdict = check_facts(frames, facts(scene))
    colours = {colour for colour, _ in scene.things}
    held = {"two_colours": verdict.reading.share(lambda things: colours <= {t.colour for t in things}) > 0.5}
    kinds = {"two_bound": "thing", "two_count": "count", "two_relation": "relation"}
    for name, kind in kinds.items():
        holds = [finding.holds for finding in verdict.findings if finding.check.kind == kind]
        if holds:
            held[name] = all(holds)
    return held | {"two_all": all(held.values())}


def two_object_scores(videos: Iterable[Video], prompts: Iterable[str]) -> list[Score]:
    """One score per fact; videos whose prompt is none of the 60 are left out (NaN)."""
    known = {prompt.prompt: prompt for prompt in two_object_prompts()}
    held: dict[str, list[float]] = {name: [] for name in TWO_OBJECT_FACTS}
    clusters: list[str] = []
    for video, text in zip(videos, prompts, strict=True):
        prompt = known.get(text)
        holds = check_two_objects(video.frames, prompt.scene) if prompt and len(video) >= 5 else {}
        clusters.append(text if prompt else "")
        for name in TWO_OBJECT_FACTS:
            held[name].append(float(holds[name]) if name in holds else float("nan"))
    protocol = "share of videos that show it in most frames"
    return [
        mean_score(name, each, clusters=clusters, binary=True, protocol=protocol)
        for name, each in held.items()
    ]


MakeVideo = Callable[[str, int], np.ndarray]
"""(prompt, seed) -> frames ``uint8 [t, h, w, 3]``: any model that can be asked."""


@dataclass(frozen=True)
class WorldRun:
    """Records of a run of the world suite (id, seed, tier, prompt, verdict), and the table made from them."""

    records: list[dict[str, Any]]

    @property
    def facts(self) -> list[FactScore]:
        """How often each kind of fact holds."""
        return report(record["verdict"] for record in self.records)

    def table(self) -> str:
        """Markdown: facts, then tiers, with 95 % Wilson intervals."""
        tiers = report_by_tier((record["tier"], record["verdict"]) for record in self.records)
        return f"{score_table(self.facts)}\n\nAll facts, by tier:\n\n{score_table(tiers)}"

    def to_json(self) -> str:
        """JSON text: ``rows``, one per kind of fact, and ``videos``, the verdict of each."""
        rows = [{name: getattr(row, name) for name in FactScore.__dataclass_fields__} for row in self.facts]
        return json.dumps({"rows": rows, "videos": self.records}, indent=1)


def evaluate_world(
    make: MakeVideo,
    out: Path,
    prompts: Sequence[Prompt] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    on_item: Callable[[int, int], Any] | None = None,
) -> WorldRun:
    """Make a video for every prompt and seed, check its facts, and keep the verdicts.

    ``out`` keeps ``verdicts.jsonl``, from which an interrupted evaluation goes on; it may hold more prompts and seeds
    than are asked for now. Raises InputError when it belongs to other prompts.
    """
    prompts = held_out_prompts() if prompts is None else prompts
    out.mkdir(parents=True, exist_ok=True)
    file = out / "verdicts.jsonl"
    asked = {(prompt.id, seed): prompt for prompt in prompts for seed in seeds}
    records = {(record["id"], record["seed"]): record for record in read_verdicts(file)}
    _same_prompts(file, records.values(), prompts)
    with file.open("a", encoding="utf-8") as lines:
        for done, ((name, seed), prompt) in enumerate(asked.items(), 1):
            if (name, seed) not in records:
                verdict = check_facts(make(prompt.prompt, seed), prompt.checks, prompt.style).to_dict()
                record = {
                    "id": name,
                    "seed": seed,
                    "tier": prompt.tier,
                    "prompt": prompt.prompt,
                    "verdict": verdict,
                }
                records[name, seed] = record
                lines.write(json.dumps(record) + "\n")
                lines.flush()
            if on_item is not None:
                on_item(done, len(asked))
    return WorldRun([records[key] for key in asked])


def _same_prompts(file: Path, records: Iterable[dict[str, Any]], prompts: Sequence[Prompt]) -> None:
    """Raise InputError where the file has verdicts of other prompts, or of another text under the same id. More or
    fewer prompts than before are allowed."""
    asked = {prompt.id: prompt.prompt for prompt in prompts}
    judged = {record["id"]: record["prompt"] for record in records}
    other = [name for name in judged if name in asked and asked[name] != judged[name]]
    if not other and not (judged.keys() <= asked.keys() or asked.keys() <= judged.keys()):
        other = [name for name in judged if name not in asked]
    if other:
        raise InputError(
            f"{file}: holds verdicts of other prompts ({other[0]!r}); choose another --out or remove it"
        )


def read_verdicts(file: Path) -> list[dict[str, Any]]:
    """Finished verdicts; a last line cut off by a crash is dropped, so that its video is made again.

    Raises InputError, and does not touch the file, when a line is no verdict: something else wrote it.
    """
    if not file.exists():
        return []
    text = read_small_text(file, most=256 << 20)
    lines = lines_of(text)
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line, str(file), nan_is_none=True)
        except ConfigError:
            if records and number == len(lines) and not text.endswith("\n"):
                write_text(file, "".join(whole + "\n" for whole in lines[:-1]))
                break
            record = None
        if not isinstance(record, dict) or not {"id", "seed", "tier", "prompt", "verdict"} <= record.keys():
            raise InputError(
                f"{file} line {number}: is no verdict, so this file is not written to; choose another --out"
            )
        records.append(record)
    return records

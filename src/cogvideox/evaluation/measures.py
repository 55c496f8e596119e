"""What each suite measures: groups of scores, each a function of the material at hand.

A group never fails because something is missing; its scores then say what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from cogvideox.chat import Chat
from cogvideox.evaluation import alignment, fidelity, fvd, lpips, motion, vbench
from cogvideox.evaluation.judge import mtscore
from cogvideox.evaluation.prompts import Asked, prompt_suite
from cogvideox.evaluation.score import Score, mean_score, not_computed
from cogvideox.evaluation.two_objects import two_object_prompts, two_objects
from cogvideox.evaluation.video_folder import VideoFolder
from cogvideox.perception.experts import Recorded
from cogvideox.perception.features import FeatureExtractor
from cogvideox.perception.image_text import ImageText
from cogvideox.perception.world_features import fixed_features, world_features
from cogvideox.video import Video
from cogvideox.world import judge as judge_world
from cogvideox.world.score import KINDS, OF_PAIRS, outcomes

NO_REFERENCES = "needs originals of the same names (--references FOLDER)"


@dataclass(frozen=True)
class Tools:
    """Other people's networks and services, where the user has them."""

    clip: ImageText | None = None
    i3d: FeatureExtractor | None = None
    experts: Mapping[str, Recorded] = field(default_factory=dict)
    judge: Chat | None = None
    lpips: lpips.Distance | None = None
    devil: Mapping[str, Sequence[float]] | None = None

    def names(self) -> list[str]:
        """What decides the numbers besides the videos."""
        experts = [f"{kind}:{expert.name}" for kind, expert in sorted(self.experts.items())]
        cards = [self.i3d.card.weights_sha256] if self.i3d else []
        named = [tool.name for tool in (self.clip, self.lpips) if tool is not None]
        named += [self.judge.model.name] if self.judge is not None else []
        devil = [str(sum(map(len, self.devil.values())))] if self.devil else []
        return [*named, *cards, *experts, *devil]


@dataclass(frozen=True)
class Material:
    """Videos, what they are compared with, and what looks at them.

    ``references`` may be a folder's clips (paired by name) or any sequence of real videos (for FVD alone). ``fvd_fps``:
    the rate that distances between sets bring both sides to. ``checks``: the facts each video was asked to show, for
    the world; ``verdicts``: those already judged.
    """

    clips: VideoFolder
    references: VideoFolder | None = None
    real: Sequence[Video] = ()
    tools: Tools = field(default_factory=Tools)
    checks: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    verdicts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    fvd_fps: float | None = None
    watch: Callable[[int, int], Any] | None = field(default=None, compare=False, repr=False)
    """Told how far the interval of a distance is, which may take minutes."""


Group = Callable[[Material], list[Score]]


def flicker(material: Material) -> list[Score]:
    """Flicker without originals."""
    return [
        measure(material.clips)
        for measure in (fidelity.flicker, fidelity.flicker_paper, fidelity.vbench_flicker)
    ]


def faults(material: Material) -> list[Score]:
    """Frozen clips and first frames of another brightness."""
    return [motion.frozen_share(material.clips), motion.first_frame_jump(material.clips)]


def dynamics(material: Material) -> list[Score]:
    """How many videos move, by a flow that needs no weights."""
    return [motion.dynamic_degree_classical(material.clips)]


def reconstruction(material: Material) -> list[Score]:
    """PSNR, SSIM, LPIPS and flicker against originals of the same names."""
    measures: dict[str, Callable[[Any, Any], Score]] = {
        "psnr_frame_mean": fidelity.psnr,
        "psnr_clip": lambda a, b: fidelity.psnr(a, b, "clip"),
        "ssim_rgb": fidelity.ssim,
        "lpips_vgg": lambda a, b: lpips.lpips(a, b, material.tools.lpips),
        "flicker_excess": fidelity.flicker_excess,
        "flicker_residual": fidelity.flicker_residual,
    }
    if material.references is None:
        return [not_computed(name, NO_REFERENCES) for name in measures]
    pairs = partners(material.clips, material.references)
    if not pairs:
        return [not_computed(name, "no original has the name and size of a video") for name in measures]
    places = [a for a, _ in pairs]
    ours = _Chosen(material.clips, places)
    theirs = _Chosen(material.references, [b for _, b in pairs])
    return [_spread(measure(ours, theirs), places, len(material.clips)) for measure in measures.values()]


def partners(clips: VideoFolder, references: VideoFolder) -> list[tuple[int, int]]:
    """Places of videos and of their originals: same name without its ending, same frames and size."""
    known = {item.name.rpartition(".")[0]: place for place, item in enumerate(references.items)}
    found = []
    for place, item in enumerate(clips.items):
        match = known.get(item.name.rpartition(".")[0])
        if match is not None:
            other = references.items[match]
            if (item.frames, item.height, item.width) == (other.frames, other.height, other.width):
                found.append((place, match))
    return found


def distances(material: Material) -> list[Score]:
    """FVD and its relatives against real videos: I3D's from a user's file, the small networks' under their names."""
    real = material.references if material.references is not None else material.real
    i3d = material.tools.i3d
    found = []
    if i3d is None:
        found.append(
            not_computed(
                "fvd_i3d-k400-logits_16f", "needs the I3D TorchScript file (--i3d FILE)", better="lower"
            )
        )
    networks = [i3d] if i3d is not None else []
    networks += [world_features() if material.checks or material.real else fixed_features()]
    for network in networks:
        card = network.card
        if not len(real):
            found.append(
                not_computed(f"fvd_{card.name}_{card.frames}f", "needs real videos (--references FOLDER)")
            )
            continue
        found += _distances_of(material, real, network)
    return found


def _distances_of(material: Material, real: Sequence[Video], network: FeatureExtractor) -> list[Score]:
    """The distances that one network measures, at one rate; not computed where the rates are unlike."""
    card = network.card
    names = (f"fvd_{card.name}_{card.frames}f", f"fvd_{card.name}_{card.frames}f_extrapolated")
    names = (*names, f"mmd_poly_{card.name}")
    if material.fvd_fps is None and (why := fvd.unlike_rates(_rates(material.clips), _rates(real))):
        reason = f"{why}; bring both to one rate with --fvd-fps"
        return [not_computed(name, reason, better="lower") for name in names]
    sides = [fvd.Sampled(side, card.frames, material.fvd_fps) for side in (material.clips, real)]
    a, b = (fvd.features_of(side, network) for side in sides)
    facts = fvd.set_facts(*sides)
    measures = (fvd.fvd_of_features, fvd.fvd_extrapolated, fvd.kernel_distance)
    return [fvd.told(measure(a, b, card, watch=material.watch), facts, card) for measure in measures]


def _rates(videos: Sequence[Video]) -> list[float]:
    """Frames a second of each; rendered truth has one rate."""
    if isinstance(videos, VideoFolder):
        return [item.fps for item in videos.items]
    return [videos[0].fps] if len(videos) else []


def text(material: Material) -> list[Score]:
    """CLIP4Clip."""
    return [
        alignment.clip4clip(material.clips, [_short(p) for p in material.clips.prompts], material.tools.clip)
    ]


def perception(material: Material) -> list[Score]:
    """The five dimensions of VBench in the paper's Table 3, each on the videos whose prompts ask for it."""
    experts = material.tools.experts

    def on(dimension: str, fact: Callable[[Asked], str], measure: Callable[..., Score], tool: Any) -> Score:
        known = [(place, _vbench(prompt)) for place, prompt in enumerate(material.clips.prompts)]
        asked = [(place, row) for place, row in known if row is not None and dimension in row.dimensions]
        score = measure(_Chosen(material.clips, [p for p, _ in asked]), [fact(row) for _, row in asked], tool)
        return _spread(score, [p for p, _ in asked], len(material.clips))

    moving = vbench.dynamic_degree(material.clips, experts.get("flow"))
    return [
        on(
            "human_action",
            lambda row: vbench.action_of(row.short),
            vbench.human_action,
            experts.get("actions"),
        ),
        on("scene", lambda row: row.facts["scene"], vbench.scene, experts.get("captions")),
        moving,
        on(
            "multiple_objects",
            lambda row: row.facts["object"],
            vbench.multiple_objects,
            experts.get("objects"),
        ),
        on(
            "appearance_style",
            lambda row: row.facts["appearance_style"],
            vbench.appearance_style,
            material.tools.clip,
        ),
    ]


def judged(material: Material) -> list[Score]:
    """DEVIL's Dynamic Quality and GPT4o-MTScore."""
    devil = dict(material.tools.devil or {})
    dynamic = devil.pop("dynamics", None)
    return [motion.dynamic_quality(dynamic, devil), mtscore(material.clips, material.tools.judge)]


def world(material: Material) -> list[Score]:
    """How often each kind of fact of the tiny world holds, prompts resampled whole."""
    held: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for item, video in zip(material.clips.items, material.clips, strict=True):
        verdict = material.verdicts.get(item.name)
        if verdict is None and item.name in material.checks:
            verdict = judge_world(video.frames, material.checks[item.name]).to_dict()
        found = outcomes(verdict) if verdict is not None else {}
        for kind in KINDS:
            held[kind].append(float(found[kind]) if kind in found else float("nan"))
    prompts = material.clips.prompts
    return [
        mean_score(
            f"world_{kind.replace(' ', '_')}",
            each,
            clusters=prompts,
            binary=True,
            protocol="share of videos the judge agrees with",
        )
        for kind, each in held.items()
        if kind not in OF_PAIRS or not np.isnan(each).all()
    ]


def pairs(material: Material) -> list[Score]:
    """Two different things in one clip."""
    known = {two.prompt: two for two in two_object_prompts()}
    return two_objects(material.clips, [known.get(prompt) for prompt in material.clips.prompts])


SUITES: dict[str, dict[str, Group]] = {
    "paper": {
        "reconstruction": reconstruction,
        "flicker": flicker,
        "dynamics": dynamics,
        "faults": faults,
        "distances": distances,
        "text": text,
        "perception": perception,
        "judged": judged,
    },
    "world": {
        "world": world,
        "dynamics": dynamics,
        "faults": faults,
        "flicker": flicker,
        "distances": distances,
    },
    "two": {"pairs": pairs, "faults": faults, "flicker": flicker},
    "vae": {"reconstruction": reconstruction, "flicker": flicker, "world": world, "distances": distances},
}


class _Chosen(Sequence[Video]):
    """Some of the videos, read when asked for."""

    def __init__(self, videos: Sequence[Video], places: Sequence[int]) -> None:
        self.videos, self.places = videos, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        return self.videos[self.places[place]]


def _spread(score: Score, places: Sequence[int], num: int) -> Score:
    """Per-video values of some videos put to their places among all; NaN for the others."""
    each = np.full(num, np.nan)
    if score.each:
        each[list(places)] = score.each
    return replace(score, each=tuple(map(float, each)) if score.each else ())


def _short(prompt: str) -> str:
    """The short words of an up-sampled VBench prompt; any other prompt as it is."""
    row = _vbench(prompt)
    return row.short if row else prompt


def _vbench(prompt: str) -> Asked | None:
    return _vbench_prompts().get(prompt)


@cache
def _vbench_prompts() -> dict[str, Asked]:
    """By their short and their long words."""
    return {row.prompt: row for suite in ("vbench-long", "vbench") for row in prompt_suite(suite)}

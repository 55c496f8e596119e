"""The table of metrics: the name of each score, how it is measured, what it needs; and which metrics make a suite.

To add a metric: write a function from videos to a ``Score`` in the module of its kind (``fidelity``, ``motion``,
``semantic``, ``vbench``, ``fvd``, ``world_facts``) and add one line to a group of ``GROUPS``. Every suite that has the
group reports it from then on; a new group must be named in ``SUITES``, and in the table of suites of
docs/evaluation.md. A metric never fails because something is missing: its score says what is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np

from cogvideox.chat import Chat
from cogvideox.evaluation import fidelity, fvd, motion, semantic, vbench, world_conditions, world_facts
from cogvideox.evaluation.prompt_suites import SuitePrompt, prompt_suite
from cogvideox.evaluation.score import Score, not_computed
from cogvideox.evaluation.video_folder import LazyVideos, VideoFolder
from cogvideox.perception.embedding import ImageText
from cogvideox.perception.experts import RecordedExpert
from cogvideox.perception.features import FeatureExtractor
from cogvideox.perception.world_features import fixed_features, world_features
from cogvideox.video import Video

NO_REFERENCES = "needs originals of the same names (--references FOLDER)"


@dataclass(frozen=True)
class MetricTools:
    """Networks and services of other people that the user has; None or empty where they have not."""

    clip: ImageText | None = None
    i3d: FeatureExtractor | None = None
    experts: Mapping[str, RecordedExpert] = field(default_factory=dict)
    judge: Chat | None = None
    lpips: fidelity.ImageDistance | None = None
    devil: Mapping[str, Sequence[float]] | None = None
    vbench: Mapping[str, float] | None = None
    """Raw values by dimension, from VBench's own evaluation."""

    def names(self) -> list[str]:
        """Names and digests that decide the numbers, besides the videos."""
        experts = [f"{kind}:{expert.name}" for kind, expert in sorted(self.experts.items())]
        cards = [self.i3d.card.weights_sha256] if self.i3d else []
        named = [tool.name for tool in (self.clip, self.lpips) if tool is not None]
        named += [self.judge.model.name] if self.judge is not None else []
        devil = [str(sum(map(len, self.devil.values())))] if self.devil else []
        results = [f"vbench:{name}:{value}" for name, value in sorted((self.vbench or {}).items())]
        return [*named, *cards, *experts, *devil, *results]


@dataclass(frozen=True)
class MetricInputs:
    """Everything that a metric may read: the videos, what they are compared with, and the tools.

    ``references``: a folder of originals, paired with the videos by name, and the real side of FVD. ``real``: real
    videos for FVD alone, where there are no references. ``checks``: the facts that each video of the tiny world was
    asked to show, by file name; ``verdicts``: records of those that were checked before. ``fvd_fps``: the frame rate to
    which both sides of a distance are brought; None compares them as they are. ``style``: of the tiny world, whose
    facts and shapes are looked for.
    """

    videos: VideoFolder
    references: VideoFolder | None = None
    real: Sequence[Video] = ()
    tools: MetricTools = field(default_factory=MetricTools)
    checks: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    verdicts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    fvd_fps: float | None = None
    style: str = "plain"
    on_progress: Callable[[int, int], Any] | None = field(default=None, compare=False, repr=False)
    """Called with (done, total) while the interval of a distance is computed, which may take minutes."""

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(index of a video, index of its original): of the same name without its ending, frames and size."""
        if self.references is None:
            return []
        originals = {item.stem: index for index, item in enumerate(self.references.items)}
        pairs = []
        for index, item in enumerate(self.videos.items):
            other = originals.get(item.stem)
            if other is not None and item.shape == self.references.items[other].shape:
                pairs.append((index, other))
        return pairs


@dataclass(frozen=True)
class Metric:
    """One line of the table.

    ``name``: of its score in ``report.json``; ``<...>`` stands for the name of a network, judge or fact, and several
    scores measured together are separated by commas. ``needs``: what the user has to bring, "" for videos alone.
    """

    name: str
    measure: Callable[[MetricInputs], list[Score]]
    about: str
    needs: str = ""


def video_metric(name: str, measure: Callable[[VideoFolder], Score], about: str, needs: str = "") -> Metric:
    """A metric of every video by itself."""
    return Metric(name, lambda inputs: [measure(inputs.videos)], about, needs)


def pair_metric(
    name: str,
    measure: Callable[..., Score],
    about: str,
    needs: str = "originals",
    tool: Callable[[MetricTools], Any] | None = None,
) -> Metric:
    """A metric of every video and its original, ``measure(videos, originals)``; videos without one get NaN.

    ``tool``: the network that ``measure`` takes as a third argument.
    """

    def scores(inputs: MetricInputs) -> list[Score]:
        if inputs.references is None:
            return [not_computed(name, NO_REFERENCES)]
        if not inputs.pairs:
            return [not_computed(name, "no original has the name and size of a video")]
        indices = [index for index, _ in inputs.pairs]
        originals = _subset(inputs.references, [index for _, index in inputs.pairs])
        network = () if tool is None else (tool(inputs.tools),)
        score = measure(_subset(inputs.videos, indices), originals, *network)
        return [_scatter(score, indices, len(inputs.videos))]

    return Metric(name, scores, about, needs)


def vbench_metric(
    dimension: str,
    measure: Callable[..., Score],
    fact: Callable[[SuitePrompt], str],
    tool: Callable[[MetricTools], Any],
    about: str,
    needs: str,
) -> Metric:
    """A dimension of VBench, on the videos whose prompts ask for it; ``fact``: what a prompt says about it."""

    def scores(inputs: MetricInputs) -> list[Score]:
        prompts = enumerate(map(_vbench_prompts().get, inputs.videos.prompts))
        asked = [(index, prompt) for index, prompt in prompts if prompt and dimension in prompt.dimensions]
        indices = [index for index, _ in asked]
        facts = [fact(prompt) for _, prompt in asked]
        score = measure(_subset(inputs.videos, indices), facts, tool(inputs.tools))
        return [_scatter(score, indices, len(inputs.videos))]

    return Metric(f"vbench_{dimension}_raw", scores, about, needs)


def set_distances(inputs: MetricInputs) -> list[Score]:
    """FVD, FVD extrapolated and the polynomial MMD to real videos, by each network there is: I3D from the user's file,
    and a shipped one, trained for the tiny world or random."""
    real = inputs.references if inputs.references is not None else inputs.real
    i3d, scores = inputs.tools.i3d, []
    if i3d is None:
        why = "needs the I3D TorchScript file (--i3d FILE)"
        scores.append(not_computed("fvd_i3d-k400-logits_16f", why, better="lower"))
    networks = [i3d] if i3d is not None else []
    networks += [world_features() if inputs.checks or inputs.real else fixed_features()]
    for network in networks:
        if len(real):
            scores += fvd.set_distances(inputs.videos, real, network, inputs.fvd_fps, inputs.on_progress)
        else:
            name = f"fvd_{network.card.name}_{network.card.frames}f"
            scores.append(not_computed(name, "needs real videos (--references FOLDER)"))
    return scores


def condition_metric(suite: world_conditions.ConditionSuite, about: str) -> Metric:
    """The scores of a suite whose models read more than a prompt."""

    def scores(inputs: MetricInputs) -> list[Score]:
        return world_conditions.condition_scores(suite, inputs.videos, inputs.videos.prompts)

    return Metric(
        ", ".join(f"{suite}_{name}" for name in world_conditions.ABOUT[suite]), scores, about, "its prompts"
    )


def clip4clip(inputs: MetricInputs) -> list[Score]:
    """CLIP score against the short form of up-sampled VBench prompts, and against any other prompt as it is."""
    known = _vbench_prompts()
    prompts = [known[prompt].short if prompt in known else prompt for prompt in inputs.videos.prompts]
    return [semantic.clip4clip(inputs.videos, prompts, inputs.tools.clip)]


def devil_dynamic_quality(inputs: MetricInputs) -> list[Score]:
    """DEVIL's Dynamic Quality from the user's file of dynamics and qualities per video."""
    qualities = dict(inputs.tools.devil or {})
    return [motion.dynamic_quality(qualities.pop("dynamics", None), qualities)]


GROUPS: dict[str, tuple[Metric, ...]] = {
    "reconstruction": (
        pair_metric("psnr_frame_mean", fidelity.psnr, "mean PSNR of the frames; 100 dB when equal"),
        pair_metric(
            "psnr_clip",
            partial(fidelity.psnr, average="clip"),
            "PSNR of the mean squared error of the whole clip",
        ),
        pair_metric("ssim_rgb", fidelity.ssim, "11×11 Gaussian, σ 1.5, valid windows; equal to scikit-image"),
        pair_metric(
            "lpips_vgg",
            fidelity.lpips,
            "LPIPS 0.1; `lpips_stand_in` with the shipped network has another scale",
            "originals, `--lpips`",
            lambda tools: tools.lpips,
        ),
        pair_metric(
            "flicker_excess",
            fidelity.flicker_excess,
            "flicker minus the flicker of the original; blur lowers it, so prefer `flicker_residual`",
        ),
        pair_metric(
            "flicker_residual",
            fidelity.flicker_residual,
            "change between frames that the original does not have",
        ),
    ),
    "flicker": (
        video_metric("flicker_l1_pair_mean", fidelity.flicker, "mean change between adjacent frames, 0–255"),
        video_metric(
            "flicker_paper_style_sum16",
            fidelity.flicker_paper,
            "the same, summed over the 16 pairs of 17 frames: the scale of Tables 1 and 2, whose unit is not printed",
        ),
        video_metric(
            "vbench_temporal_flickering_raw",
            fidelity.vbench_flicker,
            "VBench's temporal flickering, on every video",
        ),
    ),
    "dynamics": (
        video_metric(
            "dynamic_degree_classical",
            motion.dynamic_degree_classical,
            "dynamic degree: VBench's rule with Farneback's flow; compare only with itself",
            "OpenCV",
        ),
    ),
    "faults": (
        video_metric("frozen_share", motion.frozen_share, "share of videos that stand still"),
        video_metric(
            "first_frame_jump_share",
            motion.first_frame_jump,
            "share of videos whose first frame has another brightness",
        ),
    ),
    "distances": (
        Metric(
            "fvd_<network>_<frames>f, fvd_<network>_<frames>f_extrapolated, mmd_poly_<network>",
            set_distances,
            "FVD; FVD extrapolated to infinitely many videos (needs twice as many videos as dimensions); KVD: "
            "polynomial MMD as in JEDi, times 100. Networks: `i3d-k400-logits` (short side to 224, centre, 400 "
            "logits), `world-64`, `fixed-64`",
            "real videos; `--i3d` for I3D",
        ),
    ),
    "text": (
        Metric(
            "clip4clip_meanP", clip4clip, "CLIP score: CLIP4Clip, mean pooling, the short prompt", "`--clip`"
        ),
    ),
    "perception": (
        vbench_metric(
            "human_action",
            vbench.human_action,
            lambda prompt: vbench.action_of(prompt.short),
            lambda tools: tools.experts.get("actions"),
            "VBench's rule, on the videos whose prompts ask for it",
            "`--observations`",
        ),
        vbench_metric(
            "scene",
            vbench.scene,
            lambda prompt: prompt.facts["scene"],
            lambda tools: tools.experts.get("captions"),
            "VBench's rule, on the videos whose prompts ask for it",
            "`--observations`",
        ),
        Metric(
            "vbench_dynamic_degree_raw",
            lambda inputs: [vbench.dynamic_degree(inputs.videos, inputs.tools.experts.get("flow"))],
            "VBench's rule, on every video",
            "`--observations`",
        ),
        vbench_metric(
            "multiple_objects",
            vbench.multiple_objects,
            lambda prompt: prompt.facts["object"],
            lambda tools: tools.experts.get("objects"),
            "VBench's rule, on the videos whose prompts ask for it",
            "`--observations`",
        ),
        vbench_metric(
            "appearance_style",
            vbench.appearance_style,
            lambda prompt: prompt.facts["appearance_style"],
            lambda tools: tools.clip,
            "CLIP similarity with the name of the style",
            "`--clip`",
        ),
    ),
    "judged": (
        Metric(
            "devil_dynamic_quality",
            devil_dynamic_quality,
            "DEVIL's rule: quality averaged over 12 bins of dynamics, an empty bin counts 0",
            "`--devil`",
        ),
        Metric(
            "mtscore_<judge>",
            lambda inputs: [semantic.mtscore(inputs.videos, inputs.tools.judge)],
            "GPT4o-MTScore: 8 frames, a grade of 1 to 5 for metamorphic change; judges are not comparable",
            "`--judge-url`",
        ),
        Metric(
            "vbench_quality, vbench_semantic, vbench_total",
            lambda inputs: vbench.totals(inputs.tools.vbench),
            "VBench's totals, from the raw values of its sixteen dimensions, which its own evaluation wrote",
            "`--vbench-results`",
        ),
    ),
    "world": (
        Metric(
            "world_<fact>",
            lambda inputs: world_facts.world_scores(
                inputs.videos, inputs.checks, inputs.verdicts, inputs.style
            ),
            "share of videos in which a fact of the [tiny world](world.md) holds",
            "its prompts",
        ),
    ),
    "silhouette": (
        Metric(
            "silhouette_iou, silhouette_iou_median",
            lambda inputs: world_facts.silhouette_scores(inputs.videos, inputs.videos.prompts, inputs.style),
            "how well outlines agree with ideal shapes: IoU of each thing and the shape asked for, of its area, at its "
            "centre; a horn or a bridge costs, place and size do not",
            "its prompts",
        ),
    ),
    "pairs": (
        Metric(
            "two_<fact>",
            lambda inputs: world_facts.two_object_scores(inputs.videos, inputs.videos.prompts),
            "two different things: both colours, each on its shape, their relation; 60 held-out scenes of tier `pair`",
            "its prompts",
        ),
    ),
    "inpaint": (
        condition_metric(
            "inpaint",
            "a thing of the tiny world replaced inside a mask: all facts of the prompt hold, 32 dB or more outside it",
        ),
    ),
    "keyframes": (
        condition_metric(
            "keyframes",
            "a clip between two given frames: the first and the last frame show their things where they were given",
        ),
    ),
    "control": (
        condition_metric(
            "control",
            "dots to follow: things within 0.06 of the side of their paths in 80 % of the frames; mean distance",
        ),
    ),
}
"""Metrics by group. The scores of a group are kept together, so that a rerun measures only the groups that changed."""

SUITES: dict[str, tuple[str, ...]] = {
    "paper": ("reconstruction", "flicker", "dynamics", "faults", "distances", "text", "perception", "judged"),
    "world": ("world", "silhouette", "dynamics", "faults", "flicker", "distances"),
    "two": ("pairs", "silhouette", "faults", "flicker"),
    "finish": ("world", "silhouette", "faults", "flicker"),
    "vae": ("reconstruction", "flicker", "world", "pairs", "silhouette", "distances"),
    "inpaint": ("inpaint", "world", "faults", "flicker"),
    "keyframes": ("keyframes", "world", "faults", "flicker"),
    "control": ("control", "world", "faults", "flicker"),
}
"""Groups of each suite, in the order of the report."""


def metrics_table() -> str:
    """Markdown: every metric, what it measures and what it needs, in the order of ``GROUPS``."""
    lines = ["| score | what | needs | group |", "|---|---|---|---|"]
    for group, metrics in GROUPS.items():
        for metric in metrics:
            names = ", ".join(f"`{name}`" for name in metric.name.split(", "))
            lines.append(f"| {names} | {metric.about} | {metric.needs} | {group} |")
    return "\n".join(lines)


def _subset(videos: Sequence[Video], indices: Sequence[int]) -> Sequence[Video]:
    """Some of the videos by index, read when they are asked for."""
    return LazyVideos(len(indices), lambda index: videos[indices[index]])


def _scatter(score: Score, indices: Sequence[int], total: int) -> Score:
    """The score of some videos, with its per-video values at their indices among ``total``; NaN for the others."""
    if not score.each:
        return score
    each = np.full(total, np.nan)
    each[list(indices)] = score.each
    return replace(score, each=tuple(map(float, each)))


@cache
def _vbench_prompts() -> dict[str, SuitePrompt]:
    """VBench's prompts by their short and by their up-sampled text."""
    return {row.prompt: row for suite in ("vbench-long", "vbench") for row in prompt_suite(suite)}

"""The table of experiments: which arms the paper compares, on what, what it claims, what it prints.

One row per figure or table. The first arm is always the paper's choice; every other one is compared with it.
Arms that several figures share are trained once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cogvideox.errors import ConfigError, suggest

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One thing that is trained. ``change``: a function of transformer/arms.py; ``task``: settings of its training.

    ``after`` names an arm whose result this one starts from, at twice its height and width.
    ``size``: how its parameters compare with those of the first arm; checked before anything is trained.
    """

    name: str
    label: str
    change: str | None = None
    transformer: Settings = field(default_factory=dict)
    task: Settings = field(default_factory=dict)
    after: str | None = None
    size: Literal["equal", "fewer", "more"] = "equal"


@dataclass(frozen=True)
class Measure:
    """One number of a finished arm; ``better`` is the direction of the paper's choice."""

    name: str
    label: str
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Claim:
    """The paper's choice is better (``first``) or worse than ``arm``, by every measure or by one."""

    arm: str
    measure: str | None = None
    first: bool = True


@dataclass(frozen=True)
class Experiment:
    """One figure or table.

    ``claims``: what the paper says of its first arm; other arms are only shown beside it. ``curve``: the line of the
    picture. ``kind``: how it is made (``arms``: the miniature transformer; ``vae``: the autoencoders of Table 1;
    others: see external_results.py). ``full``: the command for real weights or data, ``needs``: what those are.
    """

    name: str
    title: str
    claim: str
    kind: Literal["arms", "vae", "bench", "evaluation", "study", "labels"] = "arms"
    arms: tuple[Arm, ...] = ()
    measures: tuple[Measure, ...] = ()
    claims: tuple[Claim, ...] = ()
    curve: str = "held_out"
    paper: str = ""
    needs: str = ""
    full: str = ""


FULL = Arm("full", "CogVideoX: expert adaLN, 3D attention, RoPE, explicit uniform")
NO_EXPERTS = Arm("no-experts", "without expert adaLN", "without_experts", size="fewer")
MMDIT_1 = Arm("mmdit1", "MMDiT1: as many parameters", "mmdit_of_equal_size")
MMDIT_2 = Arm("mmdit2", "MMDiT2: as many layers", "mmdit_of_same_depth", size="more")
SPLIT = Arm("split", "2D + 1D attention", "split")
PLAIN = Arm("plain", "plain uniform sampling of timesteps", task={"uniform": "plain"})
SINUSOIDAL = Arm("sinusoidal", "sinusoidal positions", "sinusoidal")
SLICE = Arm("slice", "extrapolated RoPE", transformer={"position_mode": "slice"}, after="full")
RESAMPLE = Arm("resample", "interpolated RoPE", transformer={"position_mode": "resample"}, after="full")

VARIANTS = {
    "b": "8x8x4, 16 channels (the paper's choice)",
    "base": "image autoencoder, 8x8x1, 4 channels",
    "a": "8x8x4, 8 channels",
    "c": "8x8x4, 32 channels",
    "d": "8x8x8, 32 channels",
    "e": "16x16x8, 128 channels",
}
HELD_OUT = Measure("held_out", "held-out velocity error")
OBJECTS = Measure("objects", "held-out error where things are, t = 300 to 700, mean of the stories")
SPREAD = Measure("loss_spread", "spread of the training loss around its trend")
FVD = Measure("fvd", "FVD (features of the tiny world)")
FACTS = Measure("facts", "facts of the prompt that hold", "higher")
BANDS = tuple(Measure(f"held_out_{band}", f"error at t = {band}") for band in (100, 300, 500, 700, 900))
NEEDS_DATA = "the paper's clips (35 million) and a cluster"
OF_CLIPS = 'task.scene_mix=null task.object_weight=0 task.data="{folder: CLIPS}"'
FULL_RUN = "cogvideox train paper-2b base.task.data.folder=CLIPS"

_ROWS = (
    Experiment(
        "fig8a",
        "architecture, by FVD",
        "expert adaLN is better than none and than MMDiT of as many parameters",
        arms=(FULL, NO_EXPERTS, MMDIT_1, MMDIT_2),
        measures=(FVD,),
        claims=(Claim("no-experts"), Claim("mmdit1")),
        paper="curves only: expert adaLN lowest; MMDiT2, with twice the parameters, about level",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.transformer.experts.norm=false",
    ),
    Experiment(
        "fig8b",
        "attention, by FVD",
        "3D full attention is better than 2D + 1D, above all early in training",
        arms=(FULL, SPLIT),
        measures=(FVD,),
        claims=(Claim("split"),),
        paper="curves only: 3D much lower early on",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.transformer.attention=split",
    ),
    Experiment(
        "fig8c",
        "explicit uniform sampling, by FVD",
        "explicit uniform sampling of timesteps is better than plain",
        arms=(FULL, PLAIN),
        measures=(FVD,),
        claims=(Claim("plain"),),
        paper="curves only: explicit lower",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.uniform=plain",
    ),
    Experiment(
        "fig8d",
        "architecture, by how well videos follow their text",
        "expert adaLN follows text better than none and than MMDiT of as many parameters",
        arms=(FULL, NO_EXPERTS, MMDIT_1, MMDIT_2),
        measures=(FACTS,),
        claims=(Claim("no-experts"), Claim("mmdit1")),
        paper="curves of CLIP4Clip only; here the judge of the tiny world stands in for it",
        needs=NEEDS_DATA + ", CLIP ViT-B/32",
        full="cogvideox evaluate VIDEOS --suite paper --clip clip-vit-base-patch32",
    ),
    Experiment(
        "fig9",
        "RoPE at twice the height and width: extrapolated or interpolated",
        "extrapolated positions make small, clear, repeated pictures at first, interpolated ones a large blurry one",
        arms=(SLICE, RESAMPLE),
        measures=(
            Measure("sharpness", "sharpness of the first videos, before any training", "higher"),
            Measure("held_out_at_once", "held-out error before any training"),
            HELD_OUT,
        ),
        claims=(Claim("resample", "sharpness"),),
        paper="pictures only",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} stages.2.rotary=resample",
    ),
    Experiment(
        "fig10a",
        "RoPE or sinusoidal positions, by loss",
        "RoPE converges faster than sinusoidal positions",
        arms=(FULL, SINUSOIDAL),
        measures=(HELD_OUT, OBJECTS),
        claims=(Claim("sinusoidal"),),
        paper="curves only: RoPE lower",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.transformer.use_rotary_positional_embeddings=false",
    ),
    Experiment(
        "fig10b",
        "attention, by loss",
        "3D full attention has a lower and more stable loss than 2D + 1D",
        arms=(FULL, SPLIT),
        measures=(HELD_OUT, OBJECTS, SPREAD),
        claims=(Claim("split"),),
        paper="curves only: 3D lower",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.transformer.attention=split",
    ),
    Experiment(
        "fig10c",
        "architecture, by loss",
        "expert adaLN has a lower loss than none and than MMDiT of as many parameters",
        arms=(FULL, NO_EXPERTS, MMDIT_1, MMDIT_2),
        measures=(HELD_OUT, OBJECTS),
        claims=(Claim("no-experts"), Claim("mmdit1")),
        paper="curves only: expert adaLN lowest",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.transformer.experts.norm=false",
    ),
    Experiment(
        "fig10d",
        "explicit uniform sampling, by loss",
        "explicit uniform sampling makes the loss fall more steadily and faster",
        arms=(FULL, PLAIN),
        measures=(SPREAD, HELD_OUT, OBJECTS),
        claims=(Claim("plain"),),
        curve="loss",
        paper="curves only: explicit steadier",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.uniform=plain",
    ),
    Experiment(
        "table1",
        "autoencoders: compression, latent channels, PSNR, flickering",
        "more latent channels rebuild better (C over B over A); over time, B flickers less than an image autoencoder",
        kind="vae",
        arms=tuple(Arm(name, f"{name.upper()}: {words}") for name, words in VARIANTS.items()),
        measures=(
            Measure("held_out_psnr", "PSNR", "higher"),
            Measure("held_out_flickering", "flickering"),
        ),
        claims=(
            Claim("a", "held_out_psnr"),
            Claim("c", "held_out_psnr", first=False),
            Claim("base", "held_out_flickering"),
        ),
        curve="loss",
        paper="PSNR 28.4 27.2 28.7 30.5 29.0 27.9, flickering 93.2 87.6 86.3 87.7 87.8 87.3 (baseline, A to E)",
        needs="the paper's clips and a cluster",
        full=f"cogvideox train table1-b {OF_CLIPS} steps=100000",
    ),
    Experiment(
        "gan",
        "losses of the autoencoder: 3D GAN on and off",
        "the GAN loss is there for sharper, more lifelike frames (section 2.1)",
        kind="vae",
        arms=(Arm("b-gan", "L1 + LPIPS + KL + GAN"), Arm("b-lpips", "L1 + LPIPS + KL")),
        measures=(
            Measure("held_out_lpips", "LPIPS (the shipped stand-in)"),
            Measure("held_out_psnr", "PSNR", "higher"),
        ),
        claims=(Claim("b-lpips", "held_out_lpips"),),
        curve="loss",
        paper="no figures",
        needs="the paper's clips, VGG16's weights and a cluster",
        full=f"cogvideox train table1-b-gan {OF_CLIPS} steps=100000",
    ),
    Experiment(
        "table2",
        "the autoencoder beside others: flickering, PSNR",
        "85.5 and 29.1, better than Open-Sora (92.4, 28.5) and Open-Sora-Plan (90.2, 27.6)",
        kind="evaluation",
        paper="flickering 85.5, PSNR 29.1 (256x256, 17 frames, WebVid validation)",
        needs="the 5B weights and WebVid's validation clips",
        full="cogvideox evaluate --suite vae --model 5b --references WEBVID --out runs/reproduce/table2",
    ),
    Experiment(
        "table3",
        "VBench, Dynamic Quality and GPT4o-MTScore of 2B and 5B",
        "5B: 96.8 55.44 62.22 70.95 24.44, 69.5, 3.36; 2B: 96.6 55.35 66.39 57.68 24.37, 57.7, 3.09",
        kind="evaluation",
        paper="human action, scene, dynamic degree, multiple objects, appearance style; Dynamic Quality; MTScore",
        needs="the 5B weights, what VBench's networks saw (JSON lines), CLIP ViT-B/32 and a judge",
        full="cogvideox evaluate --suite paper --model 5b --prompt-set vbench-long --seeds 5 "
        "--observations seen.jsonl --clip clip-vit-base-patch32 --devil devil.json "
        "--judge-url http://127.0.0.1:8000/v1 --out runs/reproduce/table3",
    ),
    Experiment(
        "table4",
        "people compare with Kling",
        "0.722 0.495 0.667 0.712, total 2.74; Kling 0.638 0.367 0.561 0.668, total 2.17",
        kind="study",
        paper="sensory quality, instruction following, physics simulation, cover quality; total on 0 to 5",
        needs="videos of both models for 100 prompts, and raters",
        full="cogvideox rate serve ours=OURS kling=THEIRS --out runs/reproduce/table4",
    ),
    Experiment(
        "table7",
        "seconds and memory of a whole video",
        "5B 113 s and 26 GB, 2B 49 s and 18 GB (480x720, 6 s, 50 steps); 500 s, 76 GB and 220 s, 53 GB (768x1360, 5 s)",
        kind="bench",
        paper="NVIDIA H800",
        needs="an NVIDIA GPU of 80 GB; random weights will do",
        full="make bench-gpu",
    ),
    Experiment(
        "table8",
        "one forward pass: 2D + 1D beside 3D attention",
        "0.38 and 0.41 s (256x384), 1.26 and 2.11 s (480x720), 4.17 and 9.60 s (768x1360)",
        kind="bench",
        paper="NVIDIA H800, 5B",
        needs="an NVIDIA GPU of 80 GB; random weights will do",
        full="make bench-gpu",
    ),
    Experiment(
        "table9",
        "explicit uniform sampling: validation loss by timestep",
        "explicit uniform sampling has the lower loss at every t",
        arms=(FULL, PLAIN),
        measures=BANDS,
        claims=(Claim("plain"),),
        paper="after 40,000 steps at t = 100 to 900: without .222 .130 .119 .133 .161, with .216 .126 .116 .129 .157",
        needs=NEEDS_DATA,
        full=f"{FULL_RUN} base.task.uniform=plain",
    ),
    Experiment(
        "table14",
        "the six video filters",
        "accuracies of .89 to .99, mean .94",
        kind="labels",
        paper="TP, FP, TN, FN and accuracy of six classifiers on labelled clips",
        needs="clips labelled by people",
        full="cogvideox train labels task.videos=VIDEOS",
    ),
)

EXPERIMENTS: dict[str, Experiment] = {row.name: row for row in _ROWS}
"""Every figure and table that can be run again, by name."""


def experiment(name: str) -> Experiment:
    """The row called ``name``; ConfigError with a suggestion when there is none."""
    if name not in EXPERIMENTS:
        raise ConfigError(
            f"experiment {name!r}: unknown{suggest(name, EXPERIMENTS)}; there are {', '.join(EXPERIMENTS)}"
        )
    return EXPERIMENTS[name]

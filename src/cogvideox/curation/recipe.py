"""Recipe: a whole pipeline as one value, and those that have names. Steps look at one clip, choices at all of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cogvideox.config import Config
from cogvideox.curation.borders import Borders
from cogvideox.curation.duplicates import EmbeddingStep, ExactCopies, Hashes, LookAlikes, NearCopies
from cogvideox.curation.labels import Labels
from cogvideox.curation.patterns import Patterns
from cogvideox.curation.scores import (
    AestheticScore,
    Flicker,
    Light,
    MotionScore,
    Sharpness,
    TextArea,
    Watermark,
)
from cogvideox.curation.shots import Shots
from cogvideox.curation.step import Look
from cogvideox.curation.thresholds import ThresholdRule, Thresholds, ThresholdStage
from cogvideox.curation.vlm_steps import AddCaptions, VlmLabels
from cogvideox.errors import ConfigError, suggest
from cogvideox.files.digest import sha256_of_values
from cogvideox.video import READER, Colour, Probe
from cogvideox.video.reading import DecodeLimits

AnyStep = Annotated[
    Borders | Light | Sharpness | Flicker | MotionScore | TextArea | Watermark | AestheticScore | Labels | VlmLabels
    | Patterns | Hashes | EmbeddingStep | AddCaptions,
    Field(discriminator="kind"),
]  # fmt: skip
AnyChoice = Annotated[ExactCopies | NearCopies | LookAlikes | Thresholds, Field(discriminator="kind")]


class Gate(Config):
    """What a video must have at least, by its header: asked before anything is decoded."""

    short_side: int = Field(256, gt=0, description="pixels of the shorter side")
    fps: float = Field(8.0, gt=0, description="frames per second")
    bits_per_pixel: float = Field(
        0.0, ge=0, description="bit rate / (width * height * fps); 0.02 refuses junk"
    )
    widest: float = Field(3.0, ge=1, description="width / height, or height / width")

    def refuses(self, header: Probe) -> tuple[str, str] | None:
        """(reason, detail) when a video with this header is not worth decoding.

        ``slow`` is a low frame rate; a video that takes too long to process is dropped later, as ``too slow``.
        """
        short, long = sorted((header.width, header.height))
        if short < self.short_side:
            return "small", f"{header.width}x{header.height} pixels, the shorter side needs {self.short_side}"
        if long > self.widest * short:
            return "shape", f"{header.width}x{header.height} pixels, at most {self.widest:g} to 1"
        if header.fps < self.fps:
            return "slow", f"the video has {header.fps:.3g} frames per second, gate.fps is {self.fps:g}"
        bits = header.bit_rate / (header.width * header.height * header.fps)
        if self.bits_per_pixel and header.bit_rate and bits < self.bits_per_pixel:
            return "starved", f"{bits:.3g} bits per pixel, the least is {self.bits_per_pixel:g}"
        return None


class Bounds(Config):
    """What one file may cost. Whatever goes beyond is dropped by name, and the run goes on."""

    frames: int = Field(40_000, gt=0, description="decoded frames")
    seconds: float = Field(1200.0, gt=0, description="of play")
    pixels: int = Field(4096 * 2304, gt=0, description="of one frame")
    streams: int = Field(32, gt=0)
    cpu_seconds: int = Field(600, gt=0, description="processor time of the worker")
    wall_seconds: float = Field(900.0, gt=0, description="time until the worker is stopped")
    open_files: int = Field(512, ge=64, description="files a worker may have open at once")
    written: int = Field(8192, gt=0, description="MiB of any file that a worker writes")
    memory: int = Field(1536, gt=0, description="MiB a worker may take for one file")

    def of_decoding(self) -> DecodeLimits:
        """What the reader itself refuses."""
        return DecodeLimits(
            frames=self.frames,
            seconds=self.seconds,
            video_pixels=self.pixels,
            streams=self.streams,
            wall_seconds=self.wall_seconds,
        )


class Cutting(Config):
    """How kept clips become files."""

    fps: float | None = Field(None, gt=0, le=240, description="frames per second; none: as the video")
    side: int | None = Field(None, ge=16, description="shorter side at most; none: as the video")
    crf: int = Field(18, ge=0, le=51, description="quality of H.264; lower is better")
    preset: Literal["ultrafast", "veryfast", "fast", "medium", "slow"] = Field("fast", description="of x264")
    copy_whole: bool = Field(
        True, description="a video that is one clip and plays everywhere is copied, not encoded"
    )

    def rate(self, own: Fraction) -> Fraction:
        """Frames per second of a clip whose frames in the video have a rate of their ``own``."""
        return Fraction(self.fps or own).limit_denominator(1001)


class Recipe(Config):
    """A whole curation pipeline: limits, header gate, steps on each clip, choices among all, cutting."""

    name: str = "default"
    limits: Bounds = Bounds()
    gate: Gate = Gate()
    look: Look = Look()
    shots: Shots = Shots()
    steps: tuple[AnyStep, ...] = Field(description="in this order, on each clip")
    choices: tuple[AnyChoice, ...] = Field(description="in this order, on all clips together")
    cutting: Cutting = Cutting()
    colour: Colour = Field("guess", description="how videos without a colour tag are read; guess: by size")
    per_shard: int = Field(200, gt=0, description="clips in one shard")
    layout: Literal["webdataset", "videofolder"] = Field(
        "webdataset", description="tar files, or a folder of videos with metadata.jsonl"
    )

    @model_validator(mode="after")
    def _rules_name_scores(self) -> Recipe:
        """A rule about a score that nothing measures would keep every clip, in silence."""
        given = {name for step in self.steps for name in step.gives}
        fitted = [choice for choice in self.choices if isinstance(choice, Thresholds)]
        for name in [rule.score for choice in fitted for rule in choice.rules()]:
            if name not in given:
                known = f"there are {', '.join(sorted(given)) or 'none'}"
                raise ConfigError(
                    f"rule {name}: no step of this recipe gives that score{suggest(name, given)}; {known}"
                )
        return self

    def check(self) -> None:
        """Raises what is wrong with files that steps name: CheckpointError, DependencyError."""
        for step in self.steps:
            step.check()

    def ready(self) -> None:
        """Steps load what is large; raises what is missing here."""
        for step in self.steps:
            step.ready()

    def on_gpu(self) -> bool:
        """Whether a step needs a GPU."""
        return any(step.on_gpu() for step in self.steps)

    def key_variables(self) -> frozenset[str]:
        """Environment variables with keys of servers that steps ask; none: no step needs the network."""
        return frozenset(name for step in self.steps for name in step.key_variables())

    def measuring(self) -> str:
        """16 hex digits of everything that decides what is measured; choosing and cutting are not among it."""
        parts = self.model_dump(mode="json", include={"gate", "look", "shots", "steps", "colour"})
        limits = self.limits.model_dump(mode="json", include={"frames", "seconds", "pixels", "streams"})
        versions = [(step.kind, step.version, *step.digests()) for step in self.steps]
        return sha256_of_values([parts, limits, versions, READER])

    def cut(self) -> str:
        """16 hex digits of everything that decides the bytes of a clip's file."""
        return sha256_of_values([self.cutting.model_dump(mode="json"), self.colour, READER])


STEPS = (
    Borders(), Light(), Sharpness(), Flicker(), MotionScore(), TextArea(), Watermark(), AestheticScore(), Hashes(),
    EmbeddingStep(), Patterns(),
)  # fmt: skip


def default() -> Recipe:
    """Real footage, one tolerant stage: drops what is broken, frozen, copied, hardly visible, test bars or a title."""
    rules = (
        ThresholdRule(score="luma", least=16, most=240),
        ThresholdRule(score="contrast", least=8),
        ThresholdRule(score="frozen", most=0.9),
        ThresholdRule(score="motion_top", least=0.01, most=6.0),
        ThresholdRule(score="flicker", most=12),
        ThresholdRule(score="bars", most=0.15),
        ThresholdRule(score="plain", most=0.85),
        ThresholdRule(score="aesthetic", least=4.5),  # only where a head was given; the paper's lowest value
    )
    return Recipe(name="default", steps=STEPS, choices=_choices(ThresholdStage(name="all", rules=rules)))


def staged() -> Recipe:
    """The paper's plan: thresholds rise from stage to stage, the last takes the best 20 %. Needs some hundred clips."""

    def stage(name: str, low: float, aesthetic: float, best: float) -> ThresholdStage:
        return ThresholdStage(
            name=name,
            rules=(
                ThresholdRule(score="luma", least=16, most=240),
                ThresholdRule(score="frozen", most=0.9),
                ThresholdRule(score="motion_top", least=0.01, drop_lowest=low, drop_highest=0.01),
                ThresholdRule(score="aesthetic", least=aesthetic),
                ThresholdRule(score="aesthetic_proxy", drop_lowest=best),
                ThresholdRule(score="overlay", most=0.0 if name == "finetune" else None),
            ),
        )

    low = (stage("256", 0.05, 4.5, 0.0), stage("480", 0.10, 4.7, 0.1))
    high = (stage("768", 0.15, 5.0, 0.3), stage("finetune", 0.20, 5.0, 0.8))
    return Recipe(name="staged", steps=STEPS, choices=_choices(*low, *high))


def tiny() -> Recipe:
    """Clips of the tiny world and other small ones: no least size or length. Seconds."""
    rules = (ThresholdRule(score="frozen", most=0.95),)
    return Recipe(
        name="tiny",
        gate=Gate(short_side=16, fps=1),
        shots=Shots(min_seconds=0.5),
        steps=STEPS,
        choices=_choices(ThresholdStage(name="all", rules=rules)),
    )


def cuts() -> Recipe:
    """Only find the takes and cut them out: nothing is judged."""
    everything = ThresholdStage(name="all", rules=())
    return Recipe(name="cuts", steps=(), choices=(Thresholds(stages=(everything,)),))


def _choices(*stages: ThresholdStage) -> tuple[AnyChoice, ...]:
    return (ExactCopies(), Thresholds(stages=stages), NearCopies(), LookAlikes())


RECIPES: dict[str, Callable[[], Recipe]] = {"default": default, "staged": staged, "tiny": tiny, "cuts": cuts}


def recipe(name: str) -> Recipe:
    """The recipe called ``name``; ConfigError with a suggestion when there is none."""
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r}: unknown{suggest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def find_recipe(name: str) -> Recipe:
    """The recipe of a file that ends in .yaml, or the one called ``name``. Raises ConfigError."""
    return Recipe.from_yaml(name) if name.endswith((".yaml", ".yml")) else recipe(name)
